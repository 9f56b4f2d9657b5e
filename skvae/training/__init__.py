"""Fitting a model's parameters: objectives, batches, the optimiser and the loop."""
