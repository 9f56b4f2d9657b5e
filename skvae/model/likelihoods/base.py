"""What every kind of column can say of its cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

Params: TypeAlias = tuple[Tensor, ...]

# Of a variance: its square too is finite in float32, and no column is that noisy.
LARGEST_EXPONENT = 40.0


@dataclass(frozen=True)
class Columns:
    """What is known of some columns when their likelihood is made.

    Attributes
    ----------
    floor : Tensor of shape (n_columns,) or (n_members, n_columns)
        Least squared scale.
    levels : tuple of tuple of float
        Shares of each column's codes; empty for kinds without levels.
    centre, scale : Tensor of shape (n_columns,)
        Of what the encoder sees of codes and counts.
    trials : float
        Mean total of a row's multinomial counts.
    """

    floor: Tensor
    levels: tuple[tuple[float, ...], ...]
    centre: Tensor
    scale: Tensor
    trials: float

    def part(self, columns: slice) -> Columns:
        """Some of the columns."""
        return Columns(
            self.floor[..., columns],
            self.levels[columns],
            self.centre[columns],
            self.scale[columns],
            self.trials,
        )


class Likelihood(ABC):
    """One kind of column: its density, mean and draws.

    A likelihood's parameters are a tuple of tensors that broadcast against the cells:
    the locations first (one a column; one a level for a categorical column) and, for
    kinds with a scale, its logarithm. Every method takes the parameters first; the
    last axis is the columns', or that of their locations.

    Attributes
    ----------
    has_scale : bool
        Whether there is a log-scale.
    continuous : bool
        Whether cells have a density and a location and scale in their own units.
    plain : bool
        Whether the encoder sees the cells as they are.
    ordered : bool
        Whether cells have an order.
    tied : bool
        Whether the columns share the total of a row.
    """

    has_scale: ClassVar[bool] = False
    continuous: ClassVar[bool] = False
    plain: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
    tied: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, columns: Columns) -> Likelihood:
        """The likelihood of these columns."""

    @classmethod
    def widths(cls, columns: Columns) -> tuple[int, ...]:
        """Number of locations of each column."""
        return (1,) * columns.floor.shape[-1]

    @classmethod
    def n_levels(cls, columns: Columns) -> tuple[int, ...]:
        """Number of codes of each column; 0 for kinds without levels."""
        return (0,) * columns.floor.shape[-1]

    # -- density -----------------------------------------------------------------

    @abstractmethod
    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log density (mass, for discrete kinds) of each cell, nats."""

    @abstractmethod
    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        """Log density of each cell and its derivative by each parameter.

        Parameters
        ----------
        params : tuple of Tensor
        x : Tensor
        out : tuple of Tensor
            Overwritten: the log density, then the derivatives in the order of
            ``params``.
        """

    def restrict(
        self, params: Params, x: Tensor, observed: Tensor
    ) -> tuple[Params, Tensor]:
        """Parameters and cells of the observed cells alone, where cells are tied."""
        return params, x

    @abstractmethod
    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        """Slopes of the locations times a root of the Fisher information.

        Parameters
        ----------
        params : tuple of Tensor
        slopes : Tensor of shape (..., n_components, n_locations)
        x : Tensor

        Returns
        -------
        rooted : Tensor of the shape of ``slopes``
            ``rooted @ rooted.mT`` is the information that the cells hold of the code.
        """

    # -- moments and draws -------------------------------------------------------

    @abstractmethod
    def mean(self, params: Params) -> Tensor:
        """Expected statistic."""

    @abstractmethod
    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        """One draw for each location."""

    # -- parts of the line -------------------------------------------------------

    @abstractmethod
    def cdf(self, params: Params, x: Tensor) -> Tensor:
        """P(cell <= x)."""

    @abstractmethod
    def log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= cell <= high)."""

    @abstractmethod
    def sample_within(
        self,
        params: Params,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """One draw for each location, from what lies in the range."""

    # -- between cells, their statistics and what the encoder sees ---------------

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees of the cells; NaN of what is NaN."""
        return x

    def features_of(self, mean: Tensor) -> Tensor:
        """What the encoder would see of expected statistics."""
        return mean

    def statistic(self, x: Tensor) -> Tensor:
        """What `mean` is the expectation of."""
        return x

    def decide(self, mean: Tensor) -> Tensor:
        """The cell to name where ``mean`` is expected."""
        return mean

    def spread(self, cells: Tensor) -> Tensor:
        """Each column's value at all its locations."""
        return cells

    def collapse(self, values: Tensor) -> Tensor:
        """Sum over the locations of each column."""
        return values

    # -- start -------------------------------------------------------------------

    def feature_floor(self, floor: Tensor) -> Tensor:
        """Least noise variance of each feature in the linear start.

        Parameters
        ----------
        floor : Tensor of shape (n_columns,)
        """
        return floor

    @abstractmethod
    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        """Parameters that match a linear-Gaussian model of the features.

        Parameters
        ----------
        mean, noise : Tensor of shape (n_locations,)
        slopes : Tensor of shape (n_components, n_locations)

        Returns
        -------
        location : Tensor of shape (n_locations,)
        slopes : Tensor of shape (n_components, n_locations)
        squared_scale : Tensor of shape (n_columns,)
            Only of kinds with a scale.
        """

    @abstractmethod
    def step_size(self, params: Params) -> Tensor:
        """How far a location moves before its cells feel it."""


def squared_scale(log_scale: Tensor, floor: Tensor) -> Tensor:
    """exp(2 log_scale) + floor: additive, since a clamp would lose the gradient."""
    return (2.0 * log_scale).clamp_(max=LARGEST_EXPONENT).exp_() + _beside(
        log_scale, floor
    )


def squared_scale_and_share(log_scale: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Squared scale, and the share of it that is not the floor's."""
    free = (log_scale + log_scale).clamp_(max=LARGEST_EXPONENT).exp_()
    whole = free + _beside(log_scale, floor)
    return whole, free.div_(whole)


def _beside(log_scale: Tensor, floor: Tensor) -> Tensor:
    """Floors (members, columns), to broadcast against (members, ..., columns)."""
    if floor.dim() == 1:
        return floor
    return floor.view(len(floor), *(1,) * (log_scale.dim() - 2), -1)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform draws in the shape of ``like``."""
    return torch.empty_like(like).uniform_(generator=generator)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws in the shape of ``like``."""
    return torch.empty_like(like).normal_(generator=generator)
