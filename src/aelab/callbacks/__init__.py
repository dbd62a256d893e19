"""Callbacks of training: logging, checkpoints, pictures and early stops."""
