"""Models side by side: a stack of many, and single ones out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.networks import Network, Parameters


def stack(models: Sequence[LatentModel]) -> LatentModel:
    """All members of some models, alike but for the number of components and floors.

    Where a model has fewer components than the widest, the others' parameters are
    zero: their posterior is the prior, and their draws are to be zero. A member whose
    zeros are never moved trains as if it were alone.
    """
    widest = max(models, key=lambda model: model.n_components)
    flat = torch.cat([widen(model, model.params.flat, widest) for model in models])
    floors = [m.likelihood.floor.expand(m.n_members, -1) for m in models]
    return _over(widest, widest.params.with_flat(flat), torch.cat(floors))


def members_of(model: LatentModel, members: list[int]) -> LatentModel:
    """A copy of some of the members."""
    floor = model.likelihood.floor
    some = _over(
        model,
        model.params.with_flat(model.params.flat[members]),
        floor if floor.dim() == 1 else floor[members],
    )
    return some.with_prior(model.prior.of_members(members))


def unstack(stacked: LatentModel, members: slice, like: LatentModel) -> LatentModel:
    """The members that ``like`` put into the stack, as a model of its shape."""
    places = _places(stacked, like.n_components)
    return like.with_params(like.params.with_flat(stacked.params.flat[members, places]))


def widen(model: LatentModel, flat: Tensor, widest: LatentModel) -> Tensor:
    """What stands beside a model's parameters, at their places in a wider model."""
    wide = flat.new_zeros(len(flat), widest.params.flat.shape[1])
    wide[:, _places(widest, model.n_components)] = flat
    return wide


def _over(model: LatentModel, params: Parameters, floor: Tensor) -> LatentModel:
    likelihood = model.likelihood.with_floor(floor)
    return replace(model, params=params, likelihood=likelihood)


def _places(model: LatentModel, k: int) -> Tensor:
    """Positions of the parameters of a model with the first k components."""
    size = model.params.flat.shape[1]
    index = Parameters(model.params.shapes, torch.arange(size)[None])
    code = torch.arange(k)
    mean_and_variance = torch.cat([code, code + model.n_components])
    parts = []
    for name in model.params.shapes:
        places = index[name][0]
        if name == "encoder.path":
            places = places[:, code]
        elif name in ("encoder.bias", "encoder.head"):
            places = places[:, mean_and_variance]
        elif name == "decoder.path" or name == _first_weight(model.decoder):
            places = places[code]
        parts.append(places.flatten())
    return torch.cat(parts)


def _first_weight(network: Network) -> str | None:
    return f"{network.name}.weight0" if network.hidden else None
