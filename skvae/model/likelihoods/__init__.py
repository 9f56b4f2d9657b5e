"""Densities of the table's cells: tensors in, tensors out."""

from __future__ import annotations

from skvae.model.likelihoods.base import Likelihood, Params
from skvae.model.likelihoods.blocks import LIKELIHOODS
from skvae.model.likelihoods.table import TableLikelihood

__all__ = ["LIKELIHOODS", "Likelihood", "Params", "TableLikelihood"]
