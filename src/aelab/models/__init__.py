"""Objectives, one file each. A file holds the whole loss of its paper."""
