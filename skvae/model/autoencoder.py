"""Encoder and decoder of coded cells, and where their parameters start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import generator
from skvae.model.likelihoods import Params, TableLikelihood
from skvae.model.linear import LinearGaussian
from skvae.model.networks import Network, Parameters

# exp() of these stays far inside float32, and no posterior is that sharp or broad.
LOG_VARIANCE_LIMIT = 30.0


@dataclass(eq=False, repr=False)
class Autoencoder:
    """What leads from cells to codes and from codes to what cells may be.

    Parameters
    ----------
    encoder, decoder : Network
    likelihood : TableLikelihood
    scale_offset : Tensor of shape (n_scales,)
        Added to the log-scales: ties columns to one scale in the user's units.
    params : Parameters
    """

    encoder: Network
    decoder: Network
    likelihood: TableLikelihood
    scale_offset: Tensor
    params: Parameters

    @property
    def n_members(self) -> int:
        """Number of models side by side."""
        return len(self.params.flat)

    @property
    def n_columns(self) -> int:
        """Number of coded columns."""
        return self.likelihood.n_columns

    @property
    def n_locations(self) -> int:
        """Number of the cells' locations, and of features."""
        return self.decoder.n_linear

    @property
    def n_inputs(self) -> int:
        """Number of features and flags."""
        return self.encoder.n_inputs

    @property
    def n_components(self) -> int:
        """Number of latent components."""
        return self.encoder.n_linear

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params.flat.device

    # -- there and back ----------------------------------------------------------

    def encode(
        self,
        x: Tensor,
        *,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator] = (),
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (members, rows, components).

        ``x`` is what the encoder sees, (members, rows, n_inputs).
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
        location = location.view(members, draws, rows, self.n_locations)
        if "log_scale" in self.params:
            log_scale = self.params["log_scale"][:, None]
        elif log_scale.shape[1] == 1:
            log_scale = log_scale[:, None]
        else:
            log_scale = log_scale.view(members, draws, rows, log_scale.shape[-1])
        return location, log_scale + self.scale_offset

    @torch.no_grad()
    def prior_mean_row(self) -> Tensor:
        """Expected statistics of the cells at z = 0, (members, n_locations)."""
        return self.likelihood.mean(self._at_zero())[:, 0, 0]

    def start_noise(self) -> Tensor:
        """Variance of the continuous columns at z = 0, (members, 1, their number)."""
        return self.likelihood.variance(self._at_zero())[:, 0]

    @torch.no_grad()
    def _at_zero(self) -> Params:
        """Parameters of the cells at z = 0, (members, 1, 1, ...)."""
        zero = self.params.flat.new_zeros(self.n_members, 1, 1, self.n_components)
        return self.decode(zero)

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
        kept = ~self.likelihood.reference
        self.params["encoder.path"].zero_()
        self.params["encoder.path"][:, : self.n_locations][:, kept] = flat(weight)
        self.params["encoder.bias"][..., :k] = flat(intercept)
        self.params["encoder.bias"][..., k:] = flat(np.log(variance))
        noise = torch.ones(self.n_locations, dtype=torch.float64)
        noise[kept] = flat(linear.noise_variance)
        location, slopes, squared_scale = self.likelihood.start(
            self.likelihood.with_reference(flat(linear.mean)),
            self.likelihood.with_reference(flat(linear.loadings.T), total=0.0),
            noise,
        )
        self.params["decoder.path"][:] = slopes
        self.params["decoder.bias"][..., : self.n_locations] = location
        self.set_noise(squared_scale.numpy())

    def set_noise(self, variance: np.ndarray) -> None:
        """Let the scales, before any dependence on z, have these squares.

        Parameters
        ----------
        variance : ndarray of shape (n_scales,)
            Coded units; the floor is part of it.
        """
        own = self.likelihood
        if not own.n_scales:
            return
        scaled = torch.tensor(own.scaled)
        floor = own.floor[scaled]
        free = torch.as_tensor(variance, device=floor.device) - floor
        # At the floor nothing is left for the learned part: make it negligible.
        least = 1e-4 * floor + torch.finfo(free.dtype).tiny
        log_scale = 0.5 * torch.maximum(free, least).log()
        if "log_scale" not in self.params:
            log_scale = log_scale - self.scale_offset
            self.params["decoder.bias"][..., self.n_locations :] = log_scale
            return
        continuous = torch.tensor(own.continuous)[scaled].to(floor.device)
        if self.params["log_scale"].shape[-1] == len(log_scale):
            shared = log_scale - self.scale_offset
        elif bool(continuous.all()):
            shared = (log_scale - self.scale_offset).mean()
        else:
            # The spread of codes and counts has no units to share: what it differs by
            # is its offset.
            shared = (log_scale - self.scale_offset)[continuous].mean().nan_to_num(0.0)
            offset = torch.where(continuous, self.scale_offset, log_scale - shared)
            self.scale_offset = offset.to(self.scale_offset)
        self.params["log_scale"][:] = shared

    def natural_rates(self) -> Tensor:
        """How far a step should move each parameter, (members, size).

        What leads to a code is moved in units of the posterior's standard deviation,
        what leads to a cell in units of its noise's: where the linear start leaves
        little of either, a step of common length would throw the start away.
        """
        rates = self.params.with_flat(torch.ones_like(self.params.flat))
        k, d = self.n_components, self.n_locations
        code = torch.exp(0.5 * self.params["encoder.bias"][..., k:])
        cell = self.likelihood.step_size(self._at_zero())[:, 0]
        for name, width, scale in (("encoder", k, code), ("decoder", d, cell)):
            for part in ("path", "bias", "head"):
                if f"{name}.{part}" in rates:
                    rates[f"{name}.{part}"][..., :width] *= scale
        return rates.flat
