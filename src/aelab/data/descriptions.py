"""What scikit-learn says of its own data sets, a sentence or a line of a list a text. Nothing is downloaded."""

import re

from sklearn import datasets

from aelab.data.text import Text

SETS = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


class Descriptions(Text):
    def texts(self) -> tuple[list[str], list[str], list[bool]]:
        texts: dict[str, str] = {}
        for name in SETS:
            description = getattr(datasets, f"load_{name}")().DESCR
            for block in re.split(r"\n\s*\n|\n\s*[-*] ", description):
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(block.split())):
                    if len(sentence) > 10 and re.search("[a-z]{3}", sentence):
                        texts.setdefault(sentence, f"{name} {len(texts)}")
        return list(texts), list(texts.values()), [False] * len(texts)
