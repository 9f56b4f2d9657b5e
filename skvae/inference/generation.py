"""New rows from the model, all of them or those that meet conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from skvae._backend import Numbers, as_array, as_asked, as_tensor, generator
from skvae.inference.conditioning import Goal, condition
from skvae.model.latent import LatentModel

# Rows decoded at once.
_CHUNK = 4096


@torch.no_grad()
def sample_rows(model: LatentModel, n_rows: int, seed: int) -> np.ndarray:
    """Coded rows drawn from p(x): a member, a code, then its cells.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
    """
    source = generator(seed, device=model.device)
    members, flat = model.n_members, model.params.flat
    z = model.prior.sample((members, 1, n_rows, model.n_components), flat, source)
    cells = model.likelihood.sample(model.decode(z), source)[:, 0]
    member = torch.randint(members, (n_rows,), generator=source, device=flat.device)
    return as_array(cells[member, torch.arange(n_rows, device=flat.device)])


@torch.no_grad()
def decode_codes(model: LatentModel, codes: Numbers) -> Numbers:
    """Expected coded rows at codes (n_rows, n_components), mean of the members."""
    flat = model.params.flat
    z = as_tensor(codes, flat.dtype, flat.device)[None, None].expand(
        model.n_members, -1, -1, -1
    )
    mean = model.likelihood.mean(model.decode(z)).mean((0, 1))
    return as_asked(model.likelihood.decide(mean), codes)


@dataclass(frozen=True)
class Conditions:
    """What the cells of a new row must hold, coded.

    Parameters
    ----------
    low, high : ndarray of shape (n_columns,)
        Least and largest value of each column, both allowed; infinite where free.
    members : mapping of int to ndarray
        Values that a column may hold: one to equal, or several to choose from. Its
        bounds are infinite.
    shares : mapping of int to ndarray
        What share of each of these values is wanted, in its place; absent where each
        is as a whole.
    """

    low: np.ndarray
    high: np.ndarray
    members: Mapping[int, np.ndarray] = field(default_factory=dict)
    shares: Mapping[int, np.ndarray] = field(default_factory=dict)


def sample_given(
    model: LatentModel, conditions: Conditions, n_rows: int, seed: int
) -> tuple[np.ndarray, float]:
    """Coded rows drawn from p(x | conditions): a code that fits them, then its cells.

    Cells that must equal a value act as observed ones; sets and ranges weigh the codes
    by their probability. The codes come from sampling-importance-resampling, and the
    cells from their law within the conditions: no row is drawn and thrown away.

    Returns
    -------
    rows : ndarray of shape (n_rows, n_columns)
    effective_size : float
        How many independent codes the weighted ones that were chosen from are worth
        (Kong, 1992); many rows share a code where it is below ``n_rows``.

    Raises
    ------
    ValueError
        Where the conditions have no probability at all.
    """
    goal = Goal.of(
        model, conditions.low, conditions.high, conditions.members, conditions.shares
    )
    source = generator(seed, device=model.device)
    codes = condition(model, goal, n_rows, seed)
    chosen = torch.multinomial(codes.weight, n_rows, True, generator=source)
    member = chosen // codes.z.shape[1]
    z = codes.z.flatten(0, 1)[chosen]
    parts = []
    for start in range(0, n_rows, _CHUNK):
        part = slice(start, start + _CHUNK)
        own = member[part], torch.arange(len(member[part]), device=member.device)
        decoded = model.decode(z[None, None, part].expand(model.n_members, -1, -1, -1))
        params = tuple(
            values.expand(model.n_members, 1, len(own[0]), -1)[:, 0][own]
            for values in decoded
        )
        parts.append(as_array(goal.draw(params, source)))
    return np.concatenate(parts), codes.effective_size
