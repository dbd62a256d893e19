"""Texts of your own: `ae train data=text data.root=verses.txt`, with one text a line, or a folder of .txt files.

A text is a row of ids (1, max_length): its bytes or words, the end, and padding. The end is explained, padding is not.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from aelab.atomic import write_text
from aelab.data.base import DataModule
from aelab.data.drawing import written
from aelab.data.loader import Items
from aelab.data.text_files import read, words
from aelab.errors import UserError
from aelab.ranges import Count, ProperShare
from aelab.tokens import END, MASK, PADDING, SPECIAL, UNKNOWN

log = logging.getLogger(__name__)

SHOWN = {PADDING: "", END: "", UNKNOWN: "�", MASK: "_"}


@dataclass(eq=False, kw_only=True)
class Text(DataModule):
    level: Literal["bytes", "words"]
    """What a token is. Words are in lower case, and marks are words."""
    max_length: Count
    """Tokens of a text, its end included."""
    vocabulary: Count
    """Number of ids. Of bytes it is 260. Of words, the most frequent ones of the training split have an id."""
    test_size: Count | ProperShare
    """Size of the test split, as a number or a share below 1, if the source has none of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level == "bytes" and self.vocabulary != SPECIAL + 256:
            raise UserError(f"data.vocabulary={self.vocabulary}: bytes have {SPECIAL + 256}")
        if self.domain != "tokens":
            raise UserError(f"data.domain={self.domain}: texts are tokens, so type data.domain=tokens")
        self.known: list[str] = []
        """The words that have an id, in the order of their ids."""

    def texts(self) -> tuple[list[str], list[str], list[bool]]:
        """Return all texts, their names, and which are of the source's own test split."""
        return read(self.root)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        texts, _, own_test = self.texts()
        everything = torch.arange(len(texts))
        held_out = torch.tensor(own_test)
        if held_out.any():
            rest, test = everything[~held_out], everything[held_out]
        else:
            rest, test = _parted(everything, self.test_size, 0, "test_size")
        train, val = _parted(rest, self.val_size, self.split_seed, "val_size")
        if self.level == "words" and not self.known:
            counts = Counter(word for index in train.tolist() for word in words(texts[index]))
            self.known = [word for word, _ in counts.most_common(self.vocabulary - SPECIAL)]
        ids, labels = self.ids(texts), torch.zeros(len(texts), dtype=torch.long)
        if cut := int((ids[:, 0, -1] > END).sum()):
            log.info(
                "text    %d of %d texts are longer than data.shape=%s, and are cut", cut, len(ids), list(self.shape)
            )
        self.splits = {
            "train": (ids, labels, train),
            "val": (ids, labels, val),
            "test": (ids, labels, test),
        }
        self.num_classes = 1
        self.fingerprint = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    def ids(self, texts: list[str]) -> Tensor:
        """Return texts as ids (N, 1, T). Longer ones are cut, and have no end then."""
        length = self.shape[1]
        number = {word: i for i, word in enumerate(self.known, SPECIAL)}
        ids = torch.full((len(texts), 1, length), PADDING, dtype=torch.int32)
        for row, text in enumerate(texts):
            if self.level == "bytes":
                tokens = [byte + SPECIAL for byte in text.encode()[:length]]
            else:
                tokens = [number.get(word, UNKNOWN) for word in words(text)[:length]]
            tokens = [*tokens, END][:length]
            ids[row, 0, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        return ids

    def said(self, x: Tensor) -> list[str]:
        """Return ids (N, 1, T) as texts, each up to its end."""
        texts = []
        for row in x.long()[:, 0].tolist():
            row = row[: row.index(END)] if END in row else row
            if self.level == "bytes":
                parts = [SHOWN[i].encode() if i < SPECIAL else bytes([i - SPECIAL]) for i in row]
                texts.append(b"".join(parts).decode(errors="replace"))
            else:
                names = (
                    SHOWN[i] if i < SPECIAL else self.known[i - SPECIAL] for i in row if i < SPECIAL + len(self.known)
                )
                texts.append(" ".join(name for name in names if name))
        return texts

    def pictures(self, x: Tensor) -> Tensor:
        return written(self.said(x))

    def new(self, root: str) -> tuple[list[str], list[str], Items]:
        texts, names, _ = read(root)
        return names, [""] * len(names), self.ids(texts)

    def write(self, folder: Path, names: Sequence[str], x: Tensor) -> None:
        write_text(folder / "reconstructions.txt", "\n".join(self.said(x)) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """The vocabulary, which a trained model needs. It lies in the checkpoint."""
        return {"known": self.known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.known = list(state_dict["known"])


def _parted(indices: Tensor, size: float, seed: int, key: str) -> tuple[Tensor, Tensor]:
    try:
        kept, cut = train_test_split(range(len(indices)), test_size=size, random_state=seed)
    except ValueError as error:
        raise UserError(f"data.{key}={size} must leave some, and not all, of {len(indices)} texts") from error
    return indices[sorted(kept)], indices[sorted(cut)]
