"""The user's table: what its columns are, how they are coded, what holds them.

Nothing here imports torch or scikit-learn: a schema can be learned, merged and
read on a machine that has neither.
"""

from __future__ import annotations

from skvae.table.containers import Container
from skvae.table.kinds import KINDS, Coding
from skvae.table.raw import RawTable
from skvae.table.schema import Column, Schema
from skvae.table.statistics import Statistics

__all__ = ["KINDS", "Coding", "Column", "Container", "RawTable", "Schema", "Statistics"]
