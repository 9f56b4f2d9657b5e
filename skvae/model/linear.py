"""Linear-Gaussian latent models in closed form: where the networks start.

Probabilistic PCA and factor analysis are the same model,

    z ~ N(0, I_k),    x | z ~ N(mean + W z, Psi),    Psi diagonal,

with one noise variance for all columns or one for each. Both are fitted here from
the mean and the covariance of a table alone, so the number of rows never matters.
Given Psi, the best loadings are known: with (l_j, u_j) the leading eigenpairs of
Psi^-1/2 S Psi^-1/2,

    w_j = Psi^1/2 u_j (l_j - 1)_+^1/2

(Joreskog 1967; Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196). In
this rotation W' Psi^-1 W is diagonal, and so is the posterior covariance of z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, optimize

Array = NDArray[np.float64]

__all__ = ["LinearGaussian", "factor_analysis", "probabilistic_pca"]

# A noise below this share of its column's variance is rounding: the covariance itself
# is only known to about d * 1e-16, and the likelihood squares the ratio's inverse.
_LEAST_SHARE = 1e-10

_TINY = float(np.finfo(float).tiny)

# Each evaluation of the likelihood is one d x d eigenproblem. Wide tables get fewer of
# them, about two seconds' worth: 62 at 784 columns; below 300 `max_iter` decides.
_EIGEN_WORK = 3e10

# Up to this width all eigenpairs (divide and conquer) come faster than the leading few.
_ALL_EIGENPAIRS = 150


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """A Gaussian table with linear latent factors, p(x) = N(mean, W W' + Psi).

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Mean of the rows.
    loadings : ndarray of shape (n_features, n_components)
        W, in the rotation where W' Psi^-1 W is diagonal; columns of zeros are
        components that the data do not need.
    noise_variance : ndarray of shape (n_features,)
        Diagonal of Psi, positive.

    Raises
    ------
    ValueError
        If shapes disagree, a noise variance is not positive, or W is not rotated.

    Examples
    --------
    >>> import numpy as np
    >>> model = LinearGaussian(np.zeros(2), np.array([[1.0], [2.0]]), np.ones(2))
    >>> model.posterior()[2].round(3)
    array([0.167])
    >>> model.log_prob(np.zeros((1, 2))).round(3)
    array([-2.734])
    """

    mean: Array
    loadings: Array
    noise_variance: Array

    def __post_init__(self) -> None:
        d = self.mean.shape[0]
        shapes = (self.mean.shape, self.loadings.shape, self.noise_variance.shape)
        if self.loadings.ndim != 2 or shapes != ((d,), (d, shapes[1][1]), (d,)):
            raise ValueError(
                "mean, loadings and noise_variance must have shapes (d,), (d, k) and "
                f"(d,), however their shapes are {shapes}."
            )
        if not (np.isfinite(self.noise_variance) & (self.noise_variance > 0)).all():
            raise ValueError(
                "Every noise variance must be positive and finite, however the least "
                f"is {self.noise_variance.min()}. Raise the floor."
            )
        gram = self._whitened.T @ self._whitened
        size = np.sqrt(np.diag(gram))
        off_diagonal = np.abs(gram - np.diag(np.diag(gram)))
        # Loose enough for loadings that have been through float32.
        if (off_diagonal > 1e-4 * np.outer(size, size)).any():
            raise ValueError(
                "loadings must be rotated so that W' Psi^-1 W is diagonal, however it "
                f"has entries of up to {off_diagonal.max()} off the diagonal. Multiply "
                "W by the right singular vectors of Psi^-1/2 W."
            )

    @property
    def _whitened(self) -> Array:
        """Psi^-1/2 W, (d, k)."""
        return self.loadings / np.sqrt(self.noise_variance)[:, None]

    @property
    def _signal(self) -> Array:
        """Diagonal of W' Psi^-1 W, (k,): signal to noise of each component."""
        signal: Array = np.sum(self._whitened**2, axis=0)
        return signal

    def posterior(self) -> tuple[Array, Array, Array]:
        """Exact posterior of the components, E[z | x] = x @ weight + intercept.

        Returns
        -------
        weight : ndarray of shape (n_features, n_components)
        intercept : ndarray of shape (n_components,)
        variance : ndarray of shape (n_components,)
            The same for every row: the posterior covariance is diag(variance).
        """
        variance = 1.0 / (1.0 + self._signal)
        weight = self.loadings / self.noise_variance[:, None] * variance
        return weight, -self.mean @ weight, variance

    def log_prob(self, X: ArrayLike) -> Array:
        """Exact log-density of rows, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        scaled = (np.asarray(X, dtype=float) - self.mean) / np.sqrt(self.noise_variance)
        whitened, signal = self._whitened, self._signal
        z = scaled @ whitened / (1.0 + signal)
        # The Woodbury form r'r - z'(I + signal) z loses all digits when the noise is
        # tiny; the misfit of the posterior mean plus its own length is the same number.
        distance = np.sum((scaled - z @ whitened.T) ** 2, axis=1) + np.sum(z**2, axis=1)
        log_det = np.sum(np.log(2 * np.pi * self.noise_variance))
        log_prob: Array = -0.5 * (log_det + np.sum(np.log1p(signal)) + distance)
        return log_prob


def probabilistic_pca(
    mean: ArrayLike,
    covariance: ArrayLike,
    n_components: int,
    *,
    floor: ArrayLike = 0.0,
    units: ArrayLike | None = None,
) -> LinearGaussian:
    """Maximum-likelihood probabilistic PCA: one noise variance for all columns.

    Parameters
    ----------
    mean, covariance : array-like of shape (n_features,), (n_features, n_features)
        The covariance may be singular.
    n_components : int
        At least 1. From n_features on the fit is the Gaussian itself: the noise is
        half of the least eigenvalue, which leaves every component something to
        explain at the same likelihood; further components have zero loadings.
    floor : float or array-like of shape (n_features,), default=0.0
        Least noise variance of a column, in the units of `covariance`. Where it binds,
        that column's noise is the floor rather than the shared value.
    units : array-like of shape (n_features,), default=None
        The noise is shared by the columns once column j is multiplied by `units[j]`.
        For coded columns x / scale pass the scales, and the fit is the PPCA of x.

    Returns
    -------
    LinearGaussian
        In the units of `mean` and `covariance`.

    Examples
    --------
    >>> import numpy as np
    >>> model = probabilistic_pca(np.zeros(3), np.diag([4.0, 2.0, 1.0]), 1)
    >>> model.noise_variance
    array([1.5, 1.5, 1.5])
    """
    mean, covariance = _check_moments(mean, covariance, n_components)
    d = len(mean)
    units = _check_vector(1.0 if units is None else units, "units", d, least=_TINY)
    floor = _check_vector(floor, "floor", d, least=0.0)
    eigenvalues = linalg.eigvalsh(covariance * np.outer(units, units))
    if n_components < d:
        shared = eigenvalues[: d - n_components].mean()
    else:
        shared = eigenvalues[0] / 2
    # Eigenvalues are known to eps times the largest: below that, "zero" is the truth.
    rounding = d * np.finfo(float).eps * (eigenvalues[-1] if eigenvalues[-1] > 0 else 1)
    noise = np.maximum(max(shared, rounding) / units**2, floor)
    return LinearGaussian(mean, _loadings(covariance, noise, n_components), noise)


def factor_analysis(
    mean: ArrayLike,
    covariance: ArrayLike,
    n_components: int,
    *,
    floor: ArrayLike = 0.0,
    least_unique: ArrayLike = 0.0,
    max_iter: int = 500,
    tol: float = 1e-9,
) -> LinearGaussian:
    """Maximum-likelihood factor analysis: one noise variance for each column.

    Climbs Joreskog's concentrated likelihood over the log noise, with its exact
    gradient, from closed-form starts. The result is never less likely than a start,
    one of which is probabilistic PCA at the same floor.

    Parameters
    ----------
    mean, covariance : array-like of shape (n_features,), (n_features, n_features)
        The covariance may be singular (copied columns, fewer rows than columns).
    n_components : int
        At least 1; components that the data do not need have zero loadings.
    floor : float or array-like of shape (n_features,), default=0.0
        Least noise variance of a column, in the units of `covariance`. Never below
        1e-10 of the column's variance, where the likelihood drowns in rounding;
        below about 1e-7 the search may stop a little (1e-3 nats) early.
    least_unique : float or array-like of shape (n_features,), default=0.0
        Least noise variance of a column as a share of what the other columns leave
        unexplained of it. Above 0 no component can copy a single column, noise and
        all, as those do in a Heywood case.
    max_iter : int, default=500
        Most evaluations of the likelihood from a start; fewer from about 390 columns.
    tol : float, default=1e-9
        Relative change of the log-likelihood at which the search stops.

    Returns
    -------
    LinearGaussian
        In the units of `mean` and `covariance`.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, 2.0, 3.0])
    >>> noise = np.array([0.5, 1.0, 2.0])
    >>> model = factor_analysis(np.zeros(3), np.outer(w, w) + np.diag(noise), 1)
    >>> model.noise_variance.round(3)
    array([0.5, 1. , 2. ])
    """
    mean, covariance = _check_moments(mean, covariance, n_components)
    d = len(mean)
    variance = np.diag(covariance)
    spread = np.sqrt(np.where(variance > 0, variance, 1.0))
    correlation = covariance / np.outer(spread, spread)
    floor = _check_vector(floor, "floor", d, least=0.0)
    lowest = np.maximum(floor / spread**2, _LEAST_SHARE)
    least_unique = _check_vector(least_unique, "least_unique", d, least=0.0)
    if least_unique.any():
        unexplained = 1.0 / _partial_precision(correlation, 1e-6)
        lowest = np.maximum(lowest, least_unique * unexplained)

    pca = probabilistic_pca(mean, covariance, n_components, floor=floor)
    starts = [
        probabilistic_pca(mean, correlation, n_components).noise_variance,
        _unique_variances(correlation, n_components),
        pca.noise_variance / spread**2,
    ]
    log_noise = _search(correlation, n_components, starts, lowest, max_iter, tol)
    noise = np.maximum(np.exp(log_noise), lowest)
    loadings = _loadings(correlation, noise, n_components)
    # Rounding must not take the noise below the floor on its way back to units.
    noise = np.maximum(noise * spread**2, floor)
    return LinearGaussian(mean, loadings * spread[:, None], noise)


def _search(
    correlation: Array,
    n_components: int,
    starts: list[Array],
    lowest: Array,
    max_iter: int,
    tol: float,
) -> Array:
    """Log noise (d,) at the best of the starts and of the points reached from them."""

    def loss(log_noise: Array) -> tuple[float, Array]:
        return _concentrated(log_noise, correlation, n_components)

    def height(log_noise: Array) -> float:
        return loss(log_noise)[0]

    bottom = np.log(lowest)
    # No maximum lies above the column's own variance, 1 on this scale.
    bounds = optimize.Bounds(bottom, np.maximum(bottom, 0.0))
    affordable = int(_EIGEN_WORK / len(lowest) ** 3)
    evaluations = min(max_iter, max(20, affordable))
    points = sorted((np.maximum(np.log(s), bottom) for s in starts), key=height)
    # The likelihood has several maxima, and the better start need not lead to the
    # better one: where it costs little, climb from two.
    for start in points[: 2 if len(lowest) <= _ALL_EIGENPAIRS else 1]:
        result = optimize.minimize(
            loss,
            np.minimum(start, bounds.ub),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxfun": evaluations, "ftol": tol, "gtol": 1e-7, "maxcor": 20},
        )
        found = np.asarray(result.x)
        if not (result.success or result.fun < height(start)):
            # The line search can fail at its first step on a singular table; EM cannot.
            found = np.log(_em(correlation, np.exp(start), n_components, lowest))
        points.append(found)
    return min(points, key=height)


def _concentrated(
    log_noise: Array, correlation: Array, n_components: int
) -> tuple[float, Array]:
    """-2 log-likelihood per row at the best loadings, less d log(2 pi); its gradient.

    Joreskog (1967), https://doi.org/10.1007/BF02289658. In terms of the eigenpairs
    (l_j, u_j) of Psi^-1/2 S Psi^-1/2 the loss is sum(log psi) + trace - sum over the
    kept l_j > 1 of (l_j - 1 - log l_j): only the kept ones are needed.
    """
    noise = np.exp(log_noise)
    values, vectors = _whitened_eigenpairs(correlation, noise, n_components)
    gain = np.maximum(values - 1.0, 0.0)
    ratio = np.diag(correlation) / noise
    loss = np.sum(log_noise) + np.sum(ratio) - np.sum(gain - np.log1p(gain))
    # (Sigma - S)_ii / psi_i: a column's noise is right when its variance is matched.
    gradient = 1.0 + vectors**2 @ gain - ratio
    return float(loss), gradient


def _em(
    correlation: Array,
    noise: Array,
    n_components: int,
    lowest: Array,
    n_steps: int = 50,
) -> Array:
    """Noise (d,) after EM steps from the best loadings for `noise` (Rubin & Thayer)."""
    loadings = _loadings(correlation, noise, n_components)
    for _ in range(n_steps):
        weighted = loadings / noise[:, None]
        variance = linalg.inv(np.eye(n_components) + loadings.T @ weighted)
        weight = weighted @ variance
        cross = correlation @ weight
        loadings = np.linalg.solve(variance + weight.T @ cross, cross.T).T
        explained = np.sum(loadings * cross, axis=1)
        noise = np.maximum(np.diag(correlation) - explained, lowest)
    return noise


def _loadings(covariance: Array, noise: Array, n_components: int) -> Array:
    """Maximum-likelihood loadings (d, k) given the noise variances (d,)."""
    values, vectors = _whitened_eigenpairs(covariance, noise, n_components)
    # Eigenvectors have no sign of their own: let the largest entry be positive.
    largest = np.argmax(np.abs(vectors), axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(len(values))] < 0, -1, 1)
    loadings = np.zeros((len(noise), n_components))
    scale = np.sqrt(np.maximum(values - 1.0, 0.0))
    loadings[:, : len(values)] = np.sqrt(noise)[:, None] * vectors * scale
    return loadings


def _whitened_eigenpairs(
    covariance: Array, noise: Array, n_components: int
) -> tuple[Array, Array]:
    """Leading min(k, d) eigenpairs of Psi^-1/2 S Psi^-1/2, largest first."""
    d = len(noise)
    kept = min(n_components, d)
    weight = 1.0 / np.sqrt(noise)
    whitened = covariance * weight[:, None] * weight
    if d <= _ALL_EIGENPAIRS or kept > d // 2:
        values, vectors = linalg.eigh(whitened, driver="evd")
    else:
        values, vectors = linalg.eigh(whitened, subset_by_index=[d - kept, d - 1])
    return values[::-1][:kept], vectors[:, ::-1][:, :kept]


def _unique_variances(correlation: Array, n_components: int) -> Array:
    """Joreskog's start (d,): (1 - k / 2d) / diag(S^-1), of a slightly shrunk S."""
    share = max(1 - n_components / (2 * len(correlation)), 0.5)
    return share / _partial_precision(correlation, 1e-3)


def _partial_precision(correlation: Array, shrinkage: float) -> Array:
    """Inverse of the share of each column that the others do not explain, (d,)."""
    shrunk = (1.0 - shrinkage) * correlation + shrinkage * np.eye(len(correlation))
    precision: Array = np.diag(linalg.pinvh(shrunk))
    return precision


def _check_moments(
    mean: ArrayLike, covariance: ArrayLike, n_components: int
) -> tuple[Array, Array]:
    """Mean (d,) and symmetric covariance (d, d) as float64."""
    mean = np.asarray(mean, dtype=float)
    covariance = np.asarray(covariance, dtype=float)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            "mean and covariance must have shapes (d,) and (d, d), however their "
            f"shapes are {mean.shape} and {covariance.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(
            "mean and covariance must be finite, however they hold NaN or infinity. "
            "Compute them from complete rows."
        )
    if n_components < 1:
        raise ValueError(f"n_components must be at least 1, however: {n_components=}.")
    return mean, (covariance + covariance.T) / 2


def _check_vector(values: ArrayLike, name: str, d: int, *, least: float) -> Array:
    """`values` as (d,), finite and at least `least`."""
    values = np.asarray(values, dtype=float)
    if (
        values.shape not in ((), (d,))
        or not (least <= values).all()
        or np.isinf(values).any()
    ):
        raise ValueError(
            f"{name} must be one or {d} finite numbers of at least {least:g}, however: "
            f"{name}={values}."
        )
    return np.broadcast_to(values, (d,))
