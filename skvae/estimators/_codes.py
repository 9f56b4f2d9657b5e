"""Questions about the code of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from skvae.estimators._arrays import answers_directly
from skvae.estimators._fitted import Fitted
from skvae.estimators._tables import FLOATS, PRESERVED_DTYPES, in_blocks
from skvae.inference.generation import decode_codes
from skvae.inference.scoring import posterior_of
from skvae.table.raw import RawTable


class Codes(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Fitted):
    """Methods of the estimators whose `transform` gives codes.

    A TransformerMixin, because `set_output` reaches only a `transform` that a subclass
    of that mixin defines itself.
    """

    @answers_directly
    def transform(self, X: Any) -> np.ndarray:
        """Posterior mean of the code of each row.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        codes : ndarray of shape (n_samples, n_components)
            The same for the same row, whatever the other rows are; the prior's mean
            for a row without observed cells.
        """
        return self.posterior(X)[0]

    @answers_directly
    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of the code of each row.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        mean, std : ndarray of shape (n_samples, n_components)
            Missing cells widen it.
        """
        raw = self._check(X)
        model = self._model_for(raw.dtype)

        def answer(part: RawTable, coded: Any) -> tuple[Any, Any]:
            return posterior_of(model, coded)

        mean, std = in_blocks(raw, self._encode, answer)
        return mean, std

    @answers_directly
    def inverse_transform(self, X: Any) -> Any:
        """Expected row at each code; of categories the likeliest.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Codes, as from `transform`.

        Returns
        -------
        rows : table of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given; bounds that a
            column kept there (0, or 0 and 1) are kept. Dates are rounded to the
            coarsest of days, hours, minutes, seconds (of UTC) and their parts in which
            all those of `fit` were whole.
        """
        check_is_fitted(self)
        floats = None if isinstance(X, Tensor) else FLOATS
        codes = check_array(X, dtype=floats, force_writeable=True)
        if codes.shape[1] != self.n_components_:
            raise ValueError(
                f"A code has {self.n_components_} components, got rows of "
                f"{codes.shape[1]}. Pass what transform returned."
            )
        coded = decode_codes(self._model_for(codes.dtype), codes)
        return self._container.restore(self._schema.decode(coded))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # TransformerMixin has just made them afresh.
        tags.transformer_tags.preserves_dtype = list(PRESERVED_DTYPES)
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_components_
