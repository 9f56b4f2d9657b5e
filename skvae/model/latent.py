"""The latent-variable model p(x, z) of coded rows, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, fits
from skvae.model.autoencoder import Autoencoder
from skvae.model.incomplete import fill
from skvae.model.likelihoods import TableLikelihood
from skvae.model.linear import LinearGaussian
from skvae.model.networks import Network, Parameters
from skvae.model.priors import Prior, StandardNormal, prior_of
from skvae.model.rows import (
    AnyRows,
    Coded,
    OnDemand,
    Rows,
    RowsOnDemand,
    RowsOnHost,
    blocks,
    is_kept,
    scaled_weight,
)
from skvae.model.terms import Terms, defended


@dataclass(eq=False, repr=False)
class LatentModel(Autoencoder):
    """Encoder, decoder, likelihood and prior over coded rows.

    Parameters
    ----------
    encoder, decoder, likelihood, scale_offset, params
        As of `Autoencoder`.
    prior : Prior
    flagged : tuple of int
        Columns of whose holes the encoder is told: its inputs are the features of the
        cells, then a 1 for each flagged column that is missing, else 0.
    filler : LinearGaussian or None
        Model of the features (each categorical column's commonest level left out) that
        fills what the encoder sees of missing cells.
    """

    prior: Prior = field(default_factory=StandardNormal)
    flagged: tuple[int, ...] = ()
    filler: LinearGaussian | None = None

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
        levels: Sequence[Sequence[float]] = (),
        centre: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        trials: float = 1.0,
        flagged: tuple[int, ...] = (),
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
        levels, centre, scale, trials
            As of `TableLikelihood`.
        flagged : tuple of int
            Columns of whose holes the encoder is told.
        """
        likelihood = TableLikelihood(
            kinds,
            torch.as_tensor(variance_floor),
            levels,
            None if centre is None else torch.as_tensor(centre, dtype=torch.float64),
            None if scale is None else torch.as_tensor(scale, dtype=torch.float64),
            trials,
        )
        n_scales, n_locations = likelihood.n_scales, likelihood.n_locations
        from_network = n_scales if n_free_scales is None else 0
        n_inputs, k = n_locations + len(flagged), n_components
        encoder = Network("encoder", n_inputs, k, k, hidden, activation)
        decoder = Network(
            "decoder", k, n_locations, from_network, hidden[::-1], activation
        )
        shapes = {**encoder.shapes, **decoder.shapes}
        if n_free_scales is not None:
            shapes["log_scale"] = (1, n_free_scales)
        offset = np.zeros(n_scales) if scale_offset is None else scale_offset
        params = Parameters.zeros(shapes, n_members)
        return cls(
            encoder,
            decoder,
            likelihood,
            torch.as_tensor(offset),
            params,
            flagged=flagged,
        )

    def to(self, dtype: torch.dtype, device: torch.device) -> LatentModel:
        """A copy in another precision or place."""
        flat = self.params.flat.detach().to(dtype=dtype, device=device, copy=True)
        return replace(
            self,
            likelihood=self.likelihood.to(dtype, device),
            scale_offset=self.scale_offset.to(dtype=dtype, device=device),
            params=self.params.with_flat(flat),
            prior=self.prior.to(dtype, device),
        )

    def with_params(self, params: Parameters) -> LatentModel:
        """The same model over other parameters."""
        return replace(self, params=params)

    def with_prior(self, prior: Prior) -> LatentModel:
        """The same model under another density of the codes."""
        return replace(self, prior=prior)

    # -- rows ----------------------------------------------------------------------

    def rows(
        self,
        coded: np.ndarray,
        weight: np.ndarray | None = None,
        *,
        features: Tensor | None = None,
    ) -> Rows:
        """Coded rows as tensors of this model's precision and place.

        Parameters
        ----------
        coded : ndarray of shape (n_rows, n_columns)
            NaN where a cell is missing.
        weight : ndarray of shape (n_rows,) or None
        features : Tensor of shape (n_rows, n_locations) or None
            Those of the cells, all holes filled, where they are known already.
        """
        flat, own = self.params.flat, self.likelihood
        rows = Rows.from_coded(coded, flat.dtype, flat.device, weight)
        if features is None:
            features = own.features(rows.x)
            if rows.observed is not None:
                seen = own.spread(rows.observed) > 0.0
                features = torch.where(seen, features, self._expected(features, seen))
        flags = features[:, :0]
        if self.flagged:
            flags = features.new_zeros(len(features), len(self.flagged))
            if rows.observed is not None:
                flags = 1.0 - rows.observed[:, list(self.flagged)]
        seen = torch.cat([features, flags], 1) if self.flagged else features
        return replace(rows, seen=None if seen is rows.x else seen)

    def all_rows(self, coded: Coded, weight: np.ndarray | None = None) -> Rows:
        """The same, made block by block and then joined."""
        rows = Rows.concatenate([self.rows(part) for _, part in blocks(coded)])
        if weight is None:
            return rows
        flat = self.params.flat
        return replace(rows, weight=scaled_weight(weight, flat.dtype, flat.device))

    def rows_for_batches(
        self,
        coded: Coded,
        weight: np.ndarray | None = None,
        *,
        once: bool = False,
    ) -> AnyRows:
        """Coded rows as `rows` makes them: at once, or when they are asked for.

        A device with a memory of its own holds all rows that fit there; those of a
        table that is too large for the device are made on the host. That keeps all rows
        of a table of moderate size, and where holes take long to fill, all filled
        features, unless each row is asked for only ``once``.
        """
        flat, host = self.params.flat, torch.device("cpu")
        n_cells = coded.shape[0] * (2 * coded.shape[1] + self.encoder.n_inputs)
        fitting = fits(n_cells * flat.itemsize, flat.device)
        if isinstance(coded, OnDemand):
            keep = is_kept(coded.shape) and not once
            if flat.device.type == "cuda":
                keep = fitting
            if keep:
                return self.all_rows(coded, weight)
            own = None if weight is None else scaled_weight(weight, flat.dtype, host)
            features = None
            if self.filler is not None and not (coded.whole or once):
                features = self._filled(coded)
            return RowsOnDemand(coded, self.rows, own, features)
        if fitting:
            return self.rows(coded, weight)
        return RowsOnHost(self.to(flat.dtype, host).rows(coded, weight), flat.device)

    def _filled(self, coded: Coded) -> Tensor:
        """Features of all cells, holes filled, on the host."""
        width = self.likelihood.n_locations
        filled = torch.empty((len(coded), width), dtype=self.params.flat.dtype)
        for rows, part in blocks(coded):
            filled[rows] = self.rows(part).inputs[:, :width].cpu()
        return filled

    def _expected(self, features: Tensor, seen: Tensor) -> Tensor:
        """Features to put where ``seen`` is false, one row or one for each."""
        if self.filler is None:
            return self.likelihood.features_of(self.prior_mean_row().mean(0))
        kept = as_array(~self.likelihood.reference)
        holed = torch.where(seen, features, torch.nan)
        filled = fill(self.filler, as_array(holed).astype(np.float64)[:, kept])
        whole = self.likelihood.with_reference(torch.as_tensor(filled))
        return whole.to(features)

    # -- the model's answers -----------------------------------------------------

    def __call__(
        self,
        x: Tensor,
        unit: Tensor | None,
        *,
        seen: Tensor | None = None,
        observed: Tensor | None = None,
        n_prior: int = 0,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator] = (),
    ) -> Terms:
        """Terms of coded rows.

        Parameters
        ----------
        x : Tensor of shape (members, rows, columns)
            Missing cells hold any number.
        unit : Tensor of shape (members, draws, rows or 1, components) or None
            Standard normal draws; None takes the posterior mean as the one draw.
        seen : Tensor of shape (members, rows, n_inputs) or None
            What the encoder sees; None: the features of ``x``, no cell flagged.
        observed : Tensor of shape (members, rows, columns) or None
            1 where a cell is observed, 0 where it is missing; None: all are observed.
        n_prior : int
            How many draws of the prior to add; see `skvae.model.terms.defended`.
        dropout : float
        sources : sequence of torch.Generator
            Of the dropout, one a member; empty switches it off.
        """
        if seen is None:
            seen = self.likelihood.features(x)
            if self.flagged:
                seen = torch.nn.functional.pad(seen, (0, len(self.flagged)))
        mean, log_variance = self.encode(seen, dropout=dropout, sources=sources)
        if unit is None:
            unit = torch.zeros_like(mean)[:, None]
            z = mean[:, None]
        else:
            z = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * unit
        z = defended(z, unit, self.prior, n_prior)
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
            seen=seen,
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
            "levels": [list(shares) for shares in self.likelihood.levels],
            "trials": self.likelihood.trials,
            "flagged": list(self.flagged),
        }
        arrays = {
            "params": self.params.flat,
            "variance_floor": self.likelihood.floor,
            "scale_offset": self.scale_offset,
            "centre": self.likelihood.centre,
            "scale": self.likelihood.scale,
            **self.prior.state(),
        }
        held = {name: as_array(a) for name, a in arrays.items()}
        if self.filler is not None:
            held["filler_mean"] = self.filler.mean
            held["filler_loadings"] = self.filler.loadings
            held["filler_noise"] = self.filler.noise_variance
        return spec, held

    @classmethod
    def from_state(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> LatentModel:
        """The model that `state` described, on the CPU."""
        tuples = {name: tuple(spec[name]) for name in ("kinds", "hidden", "flagged")}
        model = cls.build(
            variance_floor=arrays["variance_floor"].copy(),
            scale_offset=arrays["scale_offset"].copy(),
            centre=arrays["centre"].copy(),
            scale=arrays["scale"].copy(),
            **{**spec, **tuples},
        )
        model.params = model.params.with_flat(torch.tensor(arrays["params"]))
        model.prior = prior_of(arrays)
        if "filler_mean" in arrays:
            model.filler = LinearGaussian(
                arrays["filler_mean"].copy(),
                arrays["filler_loadings"].copy(),
                arrays["filler_noise"].copy(),
            )
        return model

    def __getstate__(self) -> dict[str, Any]:
        # Arrays, not tensors: loads on any device and hashes the same after loading.
        spec, arrays = self.state()
        return {"spec": spec, "arrays": arrays}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(vars(self.from_state(state["spec"], state["arrays"])))
