"""New rows from the model."""

from __future__ import annotations

import numpy as np
import torch

from skvae._backend import as_array, as_tensor, generator
from skvae.model.latent import LatentModel


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
def decode_codes(model: LatentModel, codes: np.ndarray) -> np.ndarray:
    """Expected coded rows at codes (n_rows, n_components), mean of the members."""
    flat = model.params.flat
    z = as_tensor(codes, flat.dtype, flat.device)[None, None].expand(
        model.n_members, -1, -1, -1
    )
    return as_array(model.likelihood.mean(model.decode(z)).mean((0, 1)))
