"""Architectures, one file each. A net is a recipe that builds encoders and decoders for a shape."""
