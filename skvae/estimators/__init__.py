"""The estimators: they validate, fit and keep the fitted state."""
