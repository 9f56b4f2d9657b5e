"""Training rows' codes as places where the code of a row with holes may lie.

The Gaussian prior knows neither clusters nor bent surfaces. Half of the prior of a row
with holes is therefore the codes at which training rows were found, each a point: what
is observed then chooses among rows like it, as neighbours do, and where none is like
it the other half answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, as_tensor, generator
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms

# Draws of the codes for each row, at most.
_DRAWS = 64
# Share of the prior that they have.
_SHARE = 0.5
# Relative difference of marks within which two rows are the same.
_SAME = 1e-5
# Densities of cells in one chunk.
_CHUNK = 2**21


@dataclass(frozen=True, eq=False)
class Donors:
    """Codes of training rows; no rows are kept.

    Parameters
    ----------
    codes : ndarray of shape (n_members, n_codes, n_components)
    log_share : ndarray of shape (n_codes,)
        Of the rows' weights.
    mark : ndarray of shape (n_codes,)
        A number by which a row knows itself: it tells nothing new of its own holes.
    """

    codes: np.ndarray
    log_share: np.ndarray
    mark: np.ndarray

    def join(self, model: LatentModel, terms: Terms) -> Terms:
        """The terms of rows with holes, with draws at the codes that explain them.

        With A the importance-weighted likelihood of the draws that ``terms`` have and B
        the mean likelihood over the codes, the weights of all sum to their mixture.
        """
        like, n_old = terms.z, terms.z.shape[1]
        codes = as_tensor(self.codes, like.dtype, like.device)
        log_px = self._log_px(model, terms, codes)
        # Systematic resampling: a code gets as many draws as its weight deserves.
        log_mean = log_px.logsumexp(1)
        n_new = min(_DRAWS, codes.shape[1])
        steps = (torch.arange(n_new).to(like) + 0.5) / n_new
        summed = (log_px - log_mean[:, None]).exp().nan_to_num().cumsum(1).mT
        steps = steps.expand(*summed.shape[:2], -1).contiguous()
        chosen = torch.searchsorted(summed.contiguous(), steps)
        chosen = chosen.clamp(max=codes.shape[1] - 1).mT  # (members, draws, rows)
        member = torch.arange(len(codes), device=like.device)[:, None, None]
        new = codes[member, chosen]
        n_draws = n_old + n_new
        old_ratio = terms.log_pz - terms.log_qz + math.log1p(-_SHARE)
        location, log_scale = model.decode(new)
        joined = replace(
            terms,
            z=torch.cat([terms.z, new], 1),
            params=(
                torch.cat([terms.params[0], location], 1),
                _along_draws(terms.params[1], log_scale),
            ),
        )
        own = joined.log_px[:, n_old:].sum(-1)
        new_ratio = log_mean[:, None] - own + math.log(_SHARE)
        joined.log_ratio = torch.cat(
            [
                old_ratio + math.log(n_draws / n_old),
                new_ratio + math.log(n_draws / n_new),
            ],
            1,
        )
        return joined

    def _log_px(self, model: LatentModel, terms: Terms, codes: Tensor) -> Tensor:
        """Log of share times density of the observed cells, (members, codes, rows)."""
        observed = terms.observed
        assert observed is not None
        params = model.decode(codes[:, :, None])
        parts = []
        size = max(1, _CHUNK // (codes.shape[0] * codes.shape[1] * model.n_columns))
        for start in range(0, observed.shape[1], size):
            rows = slice(start, start + size)
            x, seen = terms.x[:, None, rows], observed[:, None, rows]
            parts.append(model.likelihood.log_prob(params, x, seen).sum(-1))
        log_px = torch.cat(parts, 2)
        log_px = (
            log_px + as_tensor(self.log_share, log_px.dtype, log_px.device)[:, None]
        )
        mark = as_tensor(self.mark, log_px.dtype, log_px.device)[:, None]
        here = _marks(terms.x[0], observed[0])
        same = (mark - here).abs() <= _SAME * (1.0 + mark.abs())
        # Rows of which nothing is observed are no row's own.
        same &= (observed[0] > 0).any(-1) & ~same.all(0)
        return log_px.masked_fill(same, -torch.inf)


def mark_rows(coded: np.ndarray) -> np.ndarray:
    """A number for each coded row (n_rows, n_columns) and its holes."""
    observed = ~np.isnan(coded)
    x = torch.as_tensor(np.where(observed, coded, 0.0))
    return as_array(_marks(x, torch.as_tensor(observed).to(x)))


def _marks(x: Tensor, observed: Tensor) -> Tensor:
    """Random projections of cells and holes, (rows,)."""
    source, n_columns = generator(0), x.shape[-1]
    axes = torch.empty(2, n_columns, dtype=torch.float64).normal_(generator=source)
    axes = axes.to(x)
    return x @ axes[0] + observed @ axes[1]


def _along_draws(old: Tensor, new: Tensor) -> Tensor:
    """Scales of old and new draws, one for all where they do not depend on the code."""
    if old.shape[1] == 1 and new.shape[1] == 1:
        return old
    return torch.cat([old, new], 1)
