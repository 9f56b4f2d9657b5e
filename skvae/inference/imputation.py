"""What the model expects in cells that are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, as_tensor, generator
from skvae.inference.scoring import DEFENSIVE
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import Params
from skvae.model.priors import StandardNormal, defensive_log_prob

# Steps to the mode of p(z | observed cells); the first is exact where all is linear.
_NEWTON_STEPS = 8

# Draws decoded at once, all rows and members together.
_CHUNK = 2**13


def conditional_mean(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray
) -> np.ndarray:
    """E[x | observed cells] of rows with holes, importance-weighted over the draws.

    Mattei and Frellsen, "MIWAE", ICML 2019: with w the softmax of log p(observed | z)
    + log p(z) - log q(z), the mean is the sum of w times the decoder's means. Rows
    without holes keep their values.
    """

    def reading(drawn: _Drawn) -> Tensor:
        cells = model.likelihood.mean(drawn.params).flatten(0, 1)
        return torch.einsum("lr,lrc->rc", drawn.weight, cells)

    means = coded.copy()
    holed = np.isnan(coded).any(1)
    if holed.any():
        means[holed] = _read(model, coded[holed], bank, reading)
    return means


def conditional_draws(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, n_draws: int, seed: int
) -> np.ndarray:
    """Draws from p(x | observed cells) by sampling-importance-resampling.

    Returns
    -------
    ndarray of shape (n_draws, n_rows, n_columns)
        Rows without holes keep their values.
    """
    source = generator(seed, device=model.device)

    def reading(drawn: _Drawn) -> Tensor:
        chosen = torch.multinomial(drawn.weight.T, n_draws, True, generator=source)
        params = tuple(_of_draws(part, chosen, drawn.unit) for part in drawn.params)
        return model.likelihood.sample(params, source)

    draws = np.repeat(coded[None], n_draws, axis=0)
    holed = np.isnan(coded).any(1)
    if holed.any():
        draws[:, holed] = _read(model, coded[holed], bank, reading).swapaxes(0, 1)
    return draws


# -- the proposal ------------------------------------------------------------------
#
# q(z|x) of a completed row is as narrow as that of a complete one, so the draws come
# from the Gaussian around the mode given the observed cells only. All codes here are
# in units u of the prior, z = prior.at(u), where p(u) = N(0, I).


@dataclass
class _Drawn:
    """Draws of the code of some rows.

    Attributes
    ----------
    unit : Tensor of shape (members, draws, rows, components)
    params : tuple of Tensor
        Of the cells given each draw.
    weight : Tensor of shape (members * draws, rows)
        Each row's sum to one.
    """

    unit: Tensor
    params: Params
    weight: Tensor


@torch.no_grad()
def _read(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    reading: Callable[[_Drawn], Tensor],
) -> np.ndarray:
    """Read the draws of all rows with bounded extra memory."""
    dtype, device = model.params.flat.dtype, model.device
    noise = as_tensor(bank, dtype, device)
    n_decoded = max(len(bank), 2 * model.n_components) * model.n_members
    size = max(1, _CHUNK // n_decoded)
    parts = []
    for start in range(0, len(coded), size):
        part = coded[start : start + size]
        seen = as_tensor(~np.isnan(part), dtype, device)
        x = as_tensor(np.nan_to_num(part), dtype, device)
        parts.append(as_array(reading(_draw(model, x, seen, noise))))
    return np.concatenate(parts)


def _draw(model: LatentModel, x: Tensor, seen: Tensor, noise: Tensor) -> _Drawn:
    """Weighted draws given the observed cells of x, (rows, columns).

    Some are of the prior, which bounds the weights where the posterior is no Gaussian.
    """
    mode, factor = _proposal(model, x, seen)
    spread = torch.linalg.solve_triangular(factor.mT, noise.T, upper=True)
    unit = mode[:, None] + spread.movedim(-1, 1)
    n_prior = -(-len(noise) // DEFENSIVE)
    from_prior = noise[:n_prior, None].expand(len(unit), -1, len(x), -1)
    unit = torch.cat([unit, from_prior], dim=1)
    params = model.decode(model.prior.at(unit))
    log_pu = StandardNormal().log_prob(unit)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    whitened = torch.einsum("mrji,mlrj->mlri", factor, unit - mode[:, None])
    log_qu = StandardNormal().log_prob(whitened) + log_det[:, None]
    log_qu = defensive_log_prob(log_qu, log_pu, n_prior / unit.shape[1])
    log_px = (model.likelihood.log_prob(params, x) * seen).sum(-1)
    weight = (log_px + log_pu - log_qu).flatten(0, 1).softmax(0)
    return _Drawn(unit, params, weight)


def _proposal(model: LatentModel, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mode of the code given the observed cells, lower factor of the precision there.

    Gauss-Newton steps, each kept where it raises the joint density.

    Returns
    -------
    mode : Tensor of shape (members, rows, components)
    factor : Tensor of shape (members, rows, components, components)
    """
    mode = x.new_zeros(model.n_members, len(x), model.n_components)
    step, factor, log_joint = _newton(model, mode, x, seen)
    rate = torch.ones_like(log_joint)
    for _ in range(_NEWTON_STEPS):
        tried = mode + rate[..., None] * step
        new_step, new_factor, new_joint = _newton(model, tried, x, seen)
        better = new_joint > log_joint
        log_joint = torch.where(better, new_joint, log_joint)
        mode = torch.where(better[..., None], tried, mode)
        step = torch.where(better[..., None], new_step, step)
        factor = torch.where(better[..., None, None], new_factor, factor)
        rate = torch.where(better, torch.ones_like(rate), 0.3 * rate)
    return mode, factor


def _newton(
    model: LatentModel, unit: Tensor, x: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Step to the mode, factor of the precision, log joint density at these codes."""
    slopes = _slopes(model, unit)
    params = tuple(part[:, 0] for part in model.decode(model.prior.at(unit[:, None])))
    slope, curvature = _cell_pull(model, params, x)
    pull = torch.einsum("mrkd,mrd->mrk", slopes, seen * slope) - unit
    rooted = slopes * (seen * curvature).sqrt()[..., None, :]
    one = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    factor, failed = torch.linalg.cholesky_ex(one + rooted @ rooted.mT)
    # A precision beyond the arithmetic leaves the prior.
    factor = torch.where((failed > 0)[..., None, None], one, factor)
    step = torch.cholesky_solve(pull[..., None], factor)[..., 0]
    log_px = (model.likelihood.log_prob(params, x) * seen).sum(-1)
    return step, factor, log_px + StandardNormal().log_prob(unit)


def _cell_pull(model: LatentModel, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
    """First derivative of log p(x | location), and minus the second one's size.

    (x - m) / v and 1 / v of a column with a scale, x - p and p (1 - p) of a 0/1 one
    by its log-odds; each (members, rows, columns).
    """
    mean = model.likelihood.mean(params)
    variance, curvature = torch.ones_like(mean), mean * (1.0 - mean)
    if model.likelihood.n_scales:
        scaled = torch.tensor(model.likelihood.scaled, device=x.device)
        own = model.likelihood.variance(params).expand_as(mean[..., scaled])
        variance[..., scaled], curvature[..., scaled] = own, 1.0 / own
    return (x - mean) / variance, curvature


def _slopes(model: LatentModel, unit: Tensor) -> Tensor:
    """Derivative of the locations by each component of the code.

    Central differences: exact where the decoder is linear, and elsewhere more than a
    proposal asks for.

    Returns
    -------
    Tensor of shape (members, rows, components, columns)
    """
    k = unit.shape[-1]
    reach = torch.finfo(unit.dtype).eps ** (1.0 / 3.0)
    shift = reach * torch.eye(k, dtype=unit.dtype, device=unit.device)[:, None]
    around = torch.cat([unit[:, None] + shift, unit[:, None] - shift], dim=1)
    location = model.decode(model.prior.at(around))[0]
    return ((location[:, :k] - location[:, k:]) / (2.0 * reach)).transpose(1, 2)


def _of_draws(values: Tensor, chosen: Tensor, unit: Tensor) -> Tensor:
    """What belongs to the chosen draws of each row, (rows, chosen, columns)."""
    own = values.expand(*unit.shape[:3], -1).flatten(0, 1).transpose(0, 1)
    return own.gather(1, chosen[..., None].expand(-1, -1, own.shape[-1]))
