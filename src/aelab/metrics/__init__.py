"""Metrics of a trained model. Each file holds one group."""
