"""The figures of `ae visualize`, and the pages of `ae explore` and `ae report`."""
