"""Data sources, one file each, and the loaders that make batches of them."""
