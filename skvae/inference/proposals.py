"""Where the code of a row with holes lies: the Gaussian around its mode.

The encoder's q(z|x) of a completed row is as narrow as that of a complete one. Draws
for a row with holes come from the Gaussian around the mode of p(z | observed cells)
instead: exact where all is linear and Gaussian, the prior where nothing is observed.

Codes are sought in units u of the prior's Gaussian, z = at(u), where p(u) = N(0, I).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.networks import REACH, SLOPES
from skvae.model.priors import StandardNormal, log_det
from skvae.model.terms import Terms, defended

# Steps to the mode; the first is exact where all is linear and Gaussian.
_STEPS = 24
# The same from the mode of a row that differs in few cells.
_FEW_STEPS = 6
# Squared length, in posterior standard deviations, of a step not worth taking.
_SETTLED = 1e-7
# Shares of a step that are tried next, after one that took the joint density down and
# after one that did not.
_SHORTER, _LONGER = 0.3, 3.0


def propose(
    model: LatentModel,
    x: Tensor,
    observed: Tensor,
    unit: Tensor | None,
    *,
    n_prior: int = 0,
    start: Tensor | None = None,
) -> Terms:
    """Terms of rows with holes.

    Parameters
    ----------
    model : LatentModel
    x, observed : Tensor of shape (rows, columns)
        Cells, and 1 where they are observed, 0 where they are missing.
    unit : Tensor of shape (1 or members, draws, rows or 1, components) or None
        Standard normal draws; None takes the mode as the one draw.
    n_prior : int
        Draws of the prior's Gaussian to add, which bound the importance weights where
        the posterior is no Gaussian.
    start : Tensor of shape (members, rows, components) or None
        The `modes` of rows that differ in few cells: a search from there is short.
    """
    mean, spread = mode_of(model, x, observed, start)
    return terms_around(model, x, observed, mean, spread, unit, n_prior=n_prior)


def modes(model: LatentModel, x: Tensor, observed: Tensor) -> Tensor:
    """Modes of p(u | observed cells), (members, rows, components)."""
    return _mode(model, x, observed)[0]


def mode_of(
    model: LatentModel, x: Tensor, observed: Tensor, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The Gaussian around the mode of p(z | observed cells).

    Returns
    -------
    mean : Tensor of shape (members, rows, components)
    spread : Tensor of shape (members, rows, components, components)
        Root S of the covariance S S'.
    """
    if start is None:
        mode, factor = _mode(model, x, observed)
    else:
        mode, factor, _ = _climb(model, start, x, observed, _FEW_STEPS)
    eye = torch.eye(mode.shape[-1], dtype=mode.dtype, device=mode.device)
    root = torch.linalg.solve_triangular(factor.mT, eye, upper=True)
    return model.prior.at(mode), _axes(model).mT[:, None] @ root


def terms_around(
    model: LatentModel,
    x: Tensor,
    observed: Tensor,
    mean: Tensor,
    spread: Tensor,
    unit: Tensor | None,
    *,
    n_prior: int = 0,
) -> Terms:
    """Terms whose draws are of any Gaussian, mean + spread unit; see `propose`."""
    if unit is None:
        unit = torch.zeros_like(mean)[:, None]
    moved = (spread @ unit.movedim(1, -1)).movedim(-1, 1)
    z = defended(mean[:, None] + moved, unit, model.prior, n_prior)
    return Terms(
        model.likelihood,
        model.prior,
        x.expand(model.n_members, -1, -1),
        observed[None],
        mean,
        spread.square().sum(-1).log(),
        unit,
        n_prior,
        z,
        model.decode(z),
        spread=spread,
    )


def _mode(model: LatentModel, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mode of u given the observed cells, lower factor of the precision there.

    Far from a cell, a heavy tail hardly pulls: the search from the prior's mean may end
    where a precise cell counts as an outlier. Where there are such tails it begins at
    the mode under normal ones too, and the likelier of the two regions is kept (by
    Laplace's approximation of its probability).

    Returns
    -------
    mode : Tensor of shape (members, rows, components)
    factor : Tensor of shape (members, rows, components, components)
    """
    start = x.new_zeros(model.n_members, len(x), model.n_components)
    mode, factor, joint = _climb(model, start, x, observed)
    light = model.likelihood.light_tailed()
    if light is model.likelihood:
        return mode, factor
    lightly = replace(model, likelihood=light)
    start, _, _ = _climb(lightly, start, x, observed)
    other, other_factor, other_joint = _climb(model, start, x, observed)
    better = other_joint - log_det(other_factor) > joint - log_det(factor)
    mode = torch.where(better[..., None], other, mode)
    return mode, torch.where(better[..., None, None], other_factor, factor)


def _climb(
    model: LatentModel,
    start: Tensor,
    x: Tensor,
    observed: Tensor,
    n_steps: int = _STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mode of u near a start, factor of the precision and log joint density there.

    Each row takes Gauss-Newton steps, those that do not lower the joint density, until
    one is too short to matter.
    """
    found = [start.clone(), *_newton(model, start, x, observed)]
    found.append(torch.ones_like(found[3]))
    rows = torch.arange(len(x), device=x.device)
    for _ in range(n_steps):
        rows = rows[(found[4][:, rows] > _SETTLED).any(0)]
        if not len(rows):
            break
        old = [part[:, rows] for part in found]
        mode, step, _, joint, gain, rate = old
        tried = mode + rate[..., None] * step
        new = [tried, *_newton(model, tried, x[rows], observed[rows])]
        # Within rounding is as good: the last steps are taken in any company.
        slack = 10.0 * torch.finfo(x.dtype).eps * (1.0 + joint.abs())
        moving = gain > _SETTLED
        better = moving & (new[3] > joint - slack)
        new.append(torch.ones_like(rate))
        old[5] = torch.where(moving, _SHORTER * rate, rate)
        for all_rows, after, before in zip(found, new, old, strict=True):
            kept = better.view(*better.shape, *[1] * (after.dim() - 2))
            all_rows[:, rows] = torch.where(kept, after, before)
    return found[0], found[2], found[3]


def _newton(
    model: LatentModel, unit: Tensor, x: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step at codes u: (members, rows, components).

    ``x`` and ``observed`` are (members, rows, columns).

    Returns
    -------
    step : Tensor of shape (members, rows, components)
    factor : Tensor of shape (members, rows, components, components)
        Of the precision: that of the prior, one, plus the cells' Fisher information.
    joint : Tensor of shape (members, rows)
        Log density of the observed cells and the code.
    gain : Tensor of shape (members, rows)
        Squared length of the step, in posterior standard deviations.
    """
    z = model.prior.at(unit)
    location, log_scale = (part[:, 0] for part in model.decode(z[:, None]))
    log_scale = log_scale.expand(*location.shape[:2], -1)
    x = x.expand(*location.shape[:2], -1)
    log_px = x.new_empty(*location.shape[:2], x.shape[-1])
    out = log_px, torch.empty_like(location), x.new_empty(log_scale.shape)
    model.likelihood.differentiate((location, log_scale), x, out, observed)
    scaled = observed[..., list(model.likelihood.scaled)]
    by_location, by_log_scale = _slopes(model, z)
    pull = (by_location @ out[1][..., None])[..., 0] - unit
    rooted = model.likelihood.root_information(
        (location, log_scale), by_location, x, observed
    )
    if by_log_scale is not None:
        pull = pull + (by_log_scale @ out[2][..., None])[..., 0]
        # Minus the second derivative by a normal cell's log-scale is twice the squared
        # residual, in variances: the first derivative plus one. Others have less.
        curvature = 2.0 * (out[2] + scaled).clamp(min=0.0)
        rooted = torch.cat([rooted, by_log_scale * curvature.sqrt()[..., None, :]], -1)
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    factor, failed = torch.linalg.cholesky_ex(eye + rooted @ rooted.mT)
    # A precision beyond the arithmetic leaves the prior.
    factor = torch.where((failed > 0)[..., None, None], eye, factor)
    step = torch.cholesky_solve(pull[..., None], factor)[..., 0]
    joint = log_px.sum(-1) + StandardNormal().log_prob(unit)
    return step, factor, joint, (pull * step).sum(-1)


def _axes(model: LatentModel) -> Tensor:
    """Where z goes with each component of u, (members, components, components)."""
    k, flat = model.n_components, model.params.flat
    eye = torch.eye(k, dtype=flat.dtype, device=flat.device)
    eye = eye.expand(model.n_members, -1, -1).contiguous()
    return model.prior.at(eye) - model.prior.at(torch.zeros_like(eye))


def _slopes(model: LatentModel, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """Derivatives of what the decoder says by each component of u.

    Returns
    -------
    by_location : Tensor of shape (members, rows, components, locations)
    by_log_scale : Tensor of shape (members, rows, components, scales) or None
        None where the scales do not depend on the code.
    """
    network, params, axes = model.decoder, model.params, _axes(model)
    members, rows, k = z.shape
    linear = (axes @ params[f"{network.name}.path"])[:, None]
    if not network.hidden:
        return linear.expand(-1, rows, -1, -1), None
    h = z.clamp(-REACH, REACH)
    moved = axes[:, None] * (h == z)[..., None, :]
    for i in range(len(network.hidden)):
        weight = params[f"{network.name}.weight{i}"]
        h = torch.baddbmm(params[f"{network.name}.bias{i}"], h, weight)
        slope = torch.empty_like(h)
        SLOPES[network.activation](h, slope)
        moved = (moved.flatten(1, 2) @ weight).view(members, rows, k, -1)
        moved = moved * slope[:, :, None]
    moved = moved.flatten(1, 2) @ params[f"{network.name}.head"]
    moved = moved.view(members, rows, k, -1)
    by_location = linear + moved[..., : network.n_linear]
    by_log_scale = moved[..., network.n_linear :]
    return by_location, by_log_scale if network.n_extra else None
