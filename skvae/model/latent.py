"""The latent-variable model p(x, z) of coded rows, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skvae._backend import generator
from skvae.model.likelihoods import Params, TableLikelihood
from skvae.model.linear import LinearGaussian
from skvae.model.networks import Network, Parameters
from skvae.model.priors import (
    AggregatePosterior,
    FullNormal,
    Prior,
    StandardNormal,
)
from skvae.model.terms import Terms

# exp() of these stays far inside float32, and no posterior is that sharp or broad.
LOG_VARIANCE_LIMIT = 30.0


class LatentModel:
    """Encoder, decoder, likelihood and prior over coded rows.

    Parameters
    ----------
    encoder, decoder : Network
    likelihood : TableLikelihood
    scale_offset : Tensor of shape (n_scales,)
        Added to the log-scales: ties columns to one scale in the user's units.
    params : Parameters
    prior : Prior
    """

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        likelihood: TableLikelihood,
        scale_offset: Tensor,
        params: Parameters,
        prior: Prior | None = None,
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.likelihood, self.scale_offset = likelihood, scale_offset
        self.params = params
        self.prior = StandardNormal() if prior is None else prior

    @classmethod
    def build(
        cls,
        *,
        kinds: tuple[str, ...],
        variance_floor: np.ndarray,
        n_components: int,
        hidden: tuple[int, ...],
        activation: str,
        n_free_scales: int | None,
        scale_offset: np.ndarray | None = None,
        n_members: int = 1,
    ) -> LatentModel:
        """An all-zero model on the CPU.

        Parameters
        ----------
        kinds : tuple of str of length n_columns
        variance_floor : ndarray of shape (n_columns,)
        n_components : int
        hidden : tuple of int
            Widths of the encoder's hidden layers; the decoder mirrors them.
        activation : str
        n_free_scales : int or None
            Number of log-scales that do not depend on z: 1 for a shared scale or one
            for each column with a scale; None makes them outputs of the decoder.
        scale_offset : ndarray of shape (n_scales,) or None
        n_members : int
        """
        likelihood = TableLikelihood(kinds, torch.as_tensor(variance_floor))
        n_scales = likelihood.n_scales
        from_network = n_scales if n_free_scales is None else 0
        n_columns, k = len(kinds), n_components
        encoder = Network("encoder", n_columns, k, k, hidden, activation)
        decoder = Network(
            "decoder", k, n_columns, from_network, hidden[::-1], activation
        )
        shapes = {**encoder.shapes, **decoder.shapes}
        if n_free_scales is not None:
            shapes["log_scale"] = (1, n_free_scales)
        offset = np.zeros(n_scales) if scale_offset is None else scale_offset
        params = Parameters.zeros(shapes, n_members)
        return cls(encoder, decoder, likelihood, torch.as_tensor(offset), params)

    @property
    def n_members(self) -> int:
        """Number of models side by side."""
        return len(self.params.flat)

    @property
    def n_columns(self) -> int:
        """Number of coded columns."""
        return self.encoder.n_inputs

    @property
    def n_components(self) -> int:
        """Number of latent components."""
        return self.encoder.n_linear

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params.flat.device

    def to(self, dtype: torch.dtype, device: torch.device) -> LatentModel:
        """A copy in another precision or place."""
        flat = self.params.flat.detach().to(dtype=dtype, device=device, copy=True)
        return LatentModel(
            self.encoder,
            self.decoder,
            self.likelihood.to(dtype, device),
            self.scale_offset.to(dtype=dtype, device=device),
            self.params.with_flat(flat),
            self.prior.to(dtype, device),
        )

    def with_params(self, params: Parameters) -> LatentModel:
        """The same model over other parameters."""
        return LatentModel(
            self.encoder,
            self.decoder,
            self.likelihood,
            self.scale_offset,
            params,
            self.prior,
        )

    def with_prior(self, prior: Prior) -> LatentModel:
        """The same model under another density of the codes."""
        model = self.with_params(self.params)
        model.prior = prior
        return model

    # -- starting values ---------------------------------------------------------

    def start_random(self, seeds: list[int], *, network_only: bool) -> None:
        """Glorot's uniform weights, one seed a member, biases at zero.

        With ``network_only`` the linear paths are left as they are and the last
        layers stay at zero, so that the model remains its linear part.

        Notes
        -----
        Glorot and Bengio, "Understanding the difficulty of training deep feedforward
        neural networks", AISTATS 2010.
        """
        for member, seed in enumerate(seeds):
            source = generator(seed, 0)
            for name, shape in self.params.shapes.items():
                last_or_path = name.endswith((".head", ".path"))
                if "bias" in name or name == "log_scale":
                    continue
                if last_or_path and network_only:
                    continue
                bound = (6.0 / max(sum(shape), 1)) ** 0.5
                self.params[name][member].uniform_(-bound, bound, generator=source)

    def start_linear(self, linear: LinearGaussian, *, project: bool = False) -> None:
        """Take the linear paths, biases and scales of a linear-Gaussian model.

        With ``project`` the code is the projection onto the loadings instead of the
        posterior mean: the linear auto-encoder of least squared error.
        """
        weight, intercept, variance = linear.posterior()
        if project:
            weight = np.asarray(np.linalg.pinv(linear.loadings).T, dtype=np.float64)
            intercept = -linear.mean @ weight
        k, flat = self.n_components, torch.as_tensor
        self.params["encoder.path"][:] = flat(weight)
        self.params["encoder.bias"][..., :k] = flat(intercept)
        self.params["encoder.bias"][..., k:] = flat(np.log(variance))
        location, loadings = linear.mean.copy(), linear.loadings.T.copy()
        discrete = np.array([not scaled for scaled in self.likelihood.scaled], bool)
        if discrete.any():
            # The location of a 0/1 column is its log-odds: match value and slope of
            # the linear model at the column's mean.
            p = np.clip(location[discrete], 1e-3, 1.0 - 1e-3)
            location[discrete] = np.log(p) - np.log1p(-p)
            loadings[:, discrete] /= p * (1.0 - p)
        self.params["decoder.path"][:] = flat(loadings)
        self.params["decoder.bias"][..., : self.n_columns] = flat(location)
        if self.likelihood.n_scales:
            self.set_noise(linear.noise_variance[~discrete])

    def set_noise(self, variance: np.ndarray) -> None:
        """Let the scales, before any dependence on z, give these variances.

        Parameters
        ----------
        variance : ndarray of shape (n_scales,)
            Coded units; the floor is part of it.
        """
        if not self.likelihood.n_scales:
            return
        scaled = torch.tensor(self.likelihood.scaled)
        free = torch.as_tensor(variance) - self.likelihood.floor[scaled]
        # At the floor nothing is left for the learned part: make it negligible.
        least = 1e-4 * self.likelihood.floor[scaled] + torch.finfo(free.dtype).tiny
        log_scale = 0.5 * torch.maximum(free, least).log() - self.scale_offset
        if "log_scale" in self.params:
            width = self.params["log_scale"].shape[-1]
            if width != len(log_scale):
                log_scale = log_scale.mean()
            self.params["log_scale"][:] = log_scale
        else:
            self.params["decoder.bias"][..., self.n_columns :] = log_scale

    def natural_rates(self) -> Tensor:
        """How far a step should move each parameter, (members, size).

        What leads to a code is moved in units of the posterior's standard deviation,
        what leads to a cell in units of its noise's: where the linear start leaves
        little of either, a step of common length would throw the start away.
        """
        rates = self.params.with_flat(torch.ones_like(self.params.flat))
        k, d = self.n_components, self.n_columns
        code = torch.exp(0.5 * self.params["encoder.bias"][..., k:])
        cell = torch.ones_like(self.params["decoder.bias"][..., :d])
        scaled = torch.tensor(self.likelihood.scaled)
        cell[..., scaled] = self.start_noise().sqrt()
        for name, width, scale in (("encoder", k, code), ("decoder", d, cell)):
            for part in ("path", "bias", "head"):
                if f"{name}.{part}" in rates:
                    rates[f"{name}.{part}"][..., :width] *= scale
        return rates.flat

    @torch.no_grad()
    def prior_mean_row(self) -> Tensor:
        """Expected cells at z = 0, (members, columns)."""
        zero = self.params.flat.new_zeros(self.n_members, 1, 1, self.n_components)
        return self.likelihood.mean(self.decode(zero))[:, 0, 0]

    def start_noise(self) -> Tensor:
        """Variance of the scaled columns at z = 0, (members, 1, n_scales)."""
        zero = self.params.flat.new_zeros(self.n_members, 1, 1, self.n_components)
        with torch.no_grad():
            return self.likelihood.variance(self.decode(zero))[:, 0]

    # -- the model's answers -----------------------------------------------------

    def encode(
        self,
        x: Tensor,
        *,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator] = (),
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (members, rows, components).

        ``x`` is (members, rows, columns) and has no missing cells.
        """
        mean, log_variance = self.encoder(
            self.params, x, dropout=dropout, generators=sources
        )
        log_variance = log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        return mean, log_variance.expand_as(mean)

    def decode(
        self,
        z: Tensor,
        *,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator] = (),
    ) -> Params:
        """Parameters of the cells given codes (members, draws, rows, components)."""
        members, draws, rows, _ = z.shape
        location, log_scale = self.decoder(
            self.params, z.flatten(1, 2), dropout=dropout, generators=sources
        )
        location = location.view(members, draws, rows, self.n_columns)
        if "log_scale" in self.params:
            log_scale = self.params["log_scale"][:, None]
        elif log_scale.shape[1] == 1:
            log_scale = log_scale[:, None]
        else:
            log_scale = log_scale.view(members, draws, rows, log_scale.shape[-1])
        return location, log_scale + self.scale_offset

    def __call__(
        self,
        x: Tensor,
        unit: Tensor | None,
        *,
        observed: Tensor | None = None,
        n_prior: int = 0,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator] = (),
    ) -> Terms:
        """Terms of coded rows.

        Parameters
        ----------
        x : Tensor of shape (members, rows, columns)
            Missing cells hold what the encoder is to see in their place.
        unit : Tensor of shape (members, draws, rows or 1, components) or None
            Standard normal draws; None takes the posterior mean as the one draw.
        observed : Tensor of shape (members, rows, columns) or None
            1 where a cell is observed, 0 where it is missing; None: all are observed.
        n_prior : int
            How many draws of the prior to add, where the first of ``unit`` put them: a
            defensive share bounds the importance weights of rows whose posterior the
            encoder misses (Hesterberg, "Weighted Average Importance Sampling and
            Defensive Mixture Distributions", 1995).
        dropout : float
        sources : sequence of torch.Generator
            Of the dropout, one a member; empty switches it off.
        """
        mean, log_variance = self.encode(x, dropout=dropout, sources=sources)
        if unit is None:
            unit = torch.zeros_like(mean)[:, None]
            z = mean[:, None]
        else:
            z = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * unit
        if n_prior:
            members, _, rows, _ = z.shape
            spread = unit[:, :n_prior].expand(members, -1, -1, -1)
            from_prior = self.prior.at(spread).expand(-1, -1, rows, -1)
            z = torch.cat([z, from_prior], dim=1)
        params = self.decode(z, dropout=dropout, sources=sources)
        return Terms(
            self.likelihood,
            self.prior,
            x,
            observed,
            mean,
            log_variance,
            unit,
            n_prior,
            z,
            params,
        )

    # -- state -------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain description and arrays, from which `from_state` rebuilds the model."""
        spec = {
            "kinds": list(self.likelihood.kinds),
            "n_components": self.n_components,
            "hidden": list(self.encoder.hidden),
            "activation": self.encoder.activation,
            "n_free_scales": (
                self.params["log_scale"].shape[-1]
                if "log_scale" in self.params
                else None
            ),
            "n_members": self.n_members,
        }
        arrays = {
            "params": self.params.flat,
            "variance_floor": self.likelihood.floor,
            "scale_offset": self.scale_offset,
        }
        if isinstance(self.prior, FullNormal):
            arrays["prior_mean"] = self.prior.mean
            arrays["prior_cholesky"] = self.prior.cholesky
        elif isinstance(self.prior, AggregatePosterior):
            arrays["prior_codes"] = self.prior.mean
            arrays["prior_log_variance"] = self.prior.log_variance
        return spec, {name: a.detach().cpu().numpy() for name, a in arrays.items()}

    @classmethod
    def from_state(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> LatentModel:
        """The model that `state` described, on the CPU."""
        spec = {**spec, "kinds": tuple(spec["kinds"]), "hidden": tuple(spec["hidden"])}
        model = cls.build(
            variance_floor=arrays["variance_floor"].copy(),
            scale_offset=arrays["scale_offset"].copy(),
            **spec,
        )
        model.params = model.params.with_flat(torch.tensor(arrays["params"]))
        if "prior_mean" in arrays:
            model.prior = FullNormal(
                torch.tensor(arrays["prior_mean"]),
                torch.tensor(arrays["prior_cholesky"]),
            )
        elif "prior_codes" in arrays:
            model.prior = AggregatePosterior(
                torch.tensor(arrays["prior_codes"]),
                torch.tensor(arrays["prior_log_variance"]),
            )
        return model

    def __getstate__(self) -> dict[str, Any]:
        # Arrays, not tensors: loads on any device and hashes the same after loading.
        spec, arrays = self.state()
        return {"spec": spec, "arrays": arrays}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(vars(self.from_state(state["spec"], state["arrays"])))
