"""The training loops that the benchmark of one epoch compares.

All have 128 and 64 hidden units, a code of 8, ReLU and Adam, but for our own defaults.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import skorch
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.base_dl import BaseDeepLearningDetector
from pyod.models.vae import VAE
from pyod.utils.torch_utility import TorchDataset
from pythae.data.datasets import BaseDataset
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import skvae
from skvae.model.latent import LatentModel
from skvae.model.networks import Network
from skvae.training.batches import Batches
from skvae.training.fit import make_optimiser
from skvae.training.loop import train
from skvae.training.objectives import make_objective
from skvae.training.start import start_model

HIDDEN, N_COMPONENTS, LEARNING_RATE = (128, 64), 8, 1e-3

# Makes that many passes over the rows.
Contender = Callable[[int], None]


def make_table(n_rows: int, n_columns: int) -> np.ndarray:
    """Standardised float32 columns around a curved surface."""
    rng = np.random.default_rng(0)
    code = rng.standard_normal((n_rows, N_COMPONENTS))
    table = np.tanh(code @ rng.standard_normal((N_COMPONENTS, n_columns)))
    table += 0.3 * rng.standard_normal(table.shape)
    return ((table - table.mean(0)) / table.std(0)).astype(np.float32)


# -- ours ------------------------------------------------------------------------


def plain(batch_size: int) -> Any:
    """The nearest that the estimators come to the peers' model.

    A linear path beside both networks and one learned noise stay.
    """
    return skvae.VAETransformer(
        N_COMPONENTS,
        noise="shared",
        hidden_layer_sizes=HIDDEN,
        activation="relu",
        start="random",
        alpha=0.0,
        max_grad_norm=None,
        batch_size=batch_size,
        learning_rate_init=LEARNING_RATE,
        learning_rate="constant",
    )


def ours(estimator: Any, table: np.ndarray) -> tuple[Contender, LatentModel]:
    """The training loop of an estimator, on all rows; and its model."""
    estimator.set_params(early_stopping=False, device="cpu", random_state=0)
    fit = estimator._prepare(table, None, go_on=False)
    settings = fit.settings
    seeds = [fit.seed + member for member in range(settings.n_members)]
    model = start_model(fit.coded, settings, seeds)
    model = model.to(torch.float32, settings.device)
    batches = Batches(
        model.rows_for_batches(fit.coded.values),
        batch_size=settings.batch_size,
        n_draws=1,
        n_components=settings.n_components,
        seeds=seeds,
    )
    objective = make_objective(variational=True, n_importance_samples=1, free_bits=0.0)
    optimiser = make_optimiser(model, settings)
    passes = 0

    def run(n_epochs: int) -> None:
        nonlocal passes
        # In the middle of a fit: where the worst rows are trimmed, they are by now.
        plan = replace(settings.plan, n_epochs=n_epochs, trim_from=0.0)
        train(model, objective, batches, optimiser, plan, first_epoch=passes)
        passes += n_epochs

    return run, model


# -- what a user would write instead ---------------------------------------------


class TutorialVAE(nn.Module):
    def __init__(self, n_columns: int) -> None:
        super().__init__()
        wide, narrow = HIDDEN
        self.encoder = nn.Sequential(
            nn.Linear(n_columns, wide),
            nn.ReLU(),
            nn.Linear(wide, narrow),
            nn.ReLU(),
        )
        self.mean = nn.Linear(narrow, N_COMPONENTS)
        self.log_variance = nn.Linear(narrow, N_COMPONENTS)
        self.decoder = nn.Sequential(
            nn.Linear(N_COMPONENTS, narrow),
            nn.ReLU(),
            nn.Linear(narrow, wide),
            nn.ReLU(),
            nn.Linear(wide, n_columns),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def negative_elbo(
    x: Tensor, location: Tensor, mean: Tensor, log_variance: Tensor
) -> Tensor:
    """The tutorials' loss: unit noise."""
    error = 0.5 * (x - location).square().sum(1)
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
    return (error + kl.sum(1)).mean()


def tutorial(table: np.ndarray, batch_size: int) -> Contender:
    """The loop of every introduction: DataLoader, Adam, loss.item()."""
    model = TutorialVAE(table.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    data = TensorDataset(torch.from_numpy(table))
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs):
            total = 0.0
            for (x,) in loader:
                optimiser.zero_grad()
                location, mean, log_variance = model(x)
                loss = negative_elbo(x, location, mean, log_variance)
                loss.backward()
                optimiser.step()
                total += loss.item()

    return run


def mlp(table: np.ndarray, batch_size: int) -> Contender:
    """scikit-learn's network as a plain auto-encoder."""
    model = MLPRegressor(
        hidden_layer_sizes=(*HIDDEN, N_COMPONENTS, *HIDDEN[::-1]),
        alpha=0.0,
        batch_size=batch_size,
        learning_rate_init=LEARNING_RATE,
        random_state=0,
    )

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs):
            model.partial_fit(table, table)

    return run


def pyod_vae(table: np.ndarray, batch_size: int) -> Contender:
    """PyOD's VAE without its dropout."""
    return _pyod(
        VAE(
            lr=LEARNING_RATE,
            batch_size=batch_size,
            encoder_neuron_list=list(HIDDEN),
            decoder_neuron_list=list(HIDDEN[::-1]),
            latent_dim=N_COMPONENTS,
            dropout_rate=0.0,
            verbose=0,
        ),
        table,
    )


def pyod_default(table: np.ndarray) -> Contender:
    """PyOD's VAE as it comes."""
    return _pyod(VAE(verbose=0), table)


def pyod_autoencoder(table: np.ndarray, batch_size: int) -> Contender:
    """PyOD's AutoEncoder without dropout and batch normalisation."""
    return _pyod(
        AutoEncoder(
            lr=LEARNING_RATE,
            batch_size=batch_size,
            hidden_neuron_list=[*HIDDEN, N_COMPONENTS],
            dropout_rate=0.0,
            batch_norm=False,
            verbose=0,
        ),
        table,
    )


def _pyod(detector: BaseDeepLearningDetector, table: np.ndarray) -> Contender:
    """The part of its fit that trains."""
    detector.data_num, detector.feature_size = table.shape
    detector.build_model()
    detector.training_prepare()
    data = TorchDataset(table, mean=table.mean(axis=0), std=table.std(axis=0))
    loader = DataLoader(
        data, batch_size=detector.batch_size, shuffle=True, drop_last=True
    )

    def run(n_epochs: int) -> None:
        detector.epoch_num = n_epochs
        detector.train(loader)

    return run


class _SkorchVAE(skorch.NeuralNet):
    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, **_: Any) -> Tensor:
        location, mean, log_variance = y_pred
        return negative_elbo(X, location, mean, log_variance)


def skorch_vae(table: np.ndarray, batch_size: int) -> Contender:
    """The tutorial's model in skorch's loop."""
    net = _SkorchVAE(
        TutorialVAE,
        module__n_columns=table.shape[1],
        criterion=nn.Identity,
        optimizer=torch.optim.Adam,
        lr=LEARNING_RATE,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).initialize()

    def run(n_epochs: int) -> None:
        net.fit_loop(table, None, epochs=n_epochs)

    return run


class _PythaeEncoder(BaseEncoder):
    def __init__(self, n_columns: int) -> None:
        super().__init__()
        whole = TutorialVAE(n_columns)
        self.hidden, self.mean = whole.encoder, whole.mean
        self.log_variance = whole.log_variance

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.hidden(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))


class _PythaeDecoder(BaseDecoder):
    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.layers = TutorialVAE(n_columns).decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


def pythae_vae(table: np.ndarray, batch_size: int) -> Contender:
    """The part of pythae's trainer that trains; its progress bar stays off."""
    n_columns = table.shape[1]
    config = VAEConfig(input_dim=(n_columns,), latent_dim=N_COMPONENTS)
    model = PythaeVAE(config, _PythaeEncoder(n_columns), _PythaeDecoder(n_columns))
    trainer = BaseTrainer(
        model,
        BaseDataset(torch.from_numpy(table), torch.zeros(len(table))),
        training_config=BaseTrainerConfig(
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            no_cuda=True,
        ),
    )
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)

    def run(n_epochs: int) -> None:
        for epoch in range(n_epochs):
            trainer.train_step(epoch)

    return run


# -- the floor -------------------------------------------------------------------


def plain_products(table: np.ndarray, batch_size: int) -> Contender:
    """The matrix products of the peers' layers and nothing else."""
    n_rows, n_columns = table.shape
    wide, narrow = HIDDEN
    widths = [
        (n_columns, wide),
        (wide, narrow),
        (narrow, 2 * N_COMPONENTS),
        (N_COMPONENTS, narrow),
        (narrow, wide),
        (wide, n_columns),
    ]
    # Nobody needs the gradient of the rows.
    layers = [(*width, i > 0) for i, width in enumerate(widths)]
    return _products(layers, n_rows, batch_size)


def own_products(model: LatentModel, table: np.ndarray, batch_size: int) -> Contender:
    """The matrix products of a model's own layers, its linear paths among them."""
    layers = [
        *_layers(model.encoder, to_input=False),
        *_layers(model.decoder, to_input=True),
    ]
    return _products(layers, len(table), batch_size, model.n_members)


def _layers(network: Network, *, to_input: bool) -> list[tuple[int, int, bool]]:
    n_outputs = network.n_linear + network.n_extra
    widths = [network.n_inputs, *network.hidden, n_outputs]
    layers = [
        (n_in, n_out, to_input or i > 0)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths))
    ]
    return [*layers, (network.n_inputs, network.n_linear, to_input)]


def _products(
    layers: list[tuple[int, int, bool]],
    n_rows: int,
    batch_size: int,
    n_members: int = 1,
) -> Contender:
    """Outputs, gradient of the weights and, where asked, that of the inputs."""

    def numbers(rows: int, columns: int) -> Tensor:
        return torch.randn(n_members, rows, columns)

    pairs = []
    for n_in, n_out, to_input in layers:
        x, weight = numbers(batch_size, n_in), numbers(n_in, n_out)
        by_out = numbers(batch_size, n_out)
        pairs += [(x, weight), (x.mT, by_out)]
        if to_input:
            pairs.append((by_out, weight.mT))
    results = [torch.bmm(a, b) for a, b in pairs]

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs * -(-n_rows // batch_size)):
            for (a, b), out in zip(pairs, results, strict=True):
                torch.bmm(a, b, out=out)

    return run
