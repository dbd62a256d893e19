"""Ids of tokens that stand for no byte and no word. The reconstruction term, the noise and the data share them."""

PADDING = 0  # after the end of a text: it is not explained
END = 1  # of a text: it is explained
UNKNOWN = 2  # a word that is not in the vocabulary
MASK = 3  # what noise hides
SPECIAL = 4  # number of these ids
