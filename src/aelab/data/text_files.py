"""Reads texts: a file with one text a line, or a folder with a text per .txt file."""

import re
from pathlib import Path

from aelab.errors import UserError

SPLITS = {"train": False, "val": False, "test": True}


def read(root: str) -> tuple[list[str], list[str], list[bool]]:
    """Return the texts, their names, and which are of the test split, if files or folders are named `test`.

    Empty lines are left out. Raises UserError for a file that is absent or empty, or no UTF-8.
    """
    path = Path(root).expanduser()
    if path.is_file():
        lines = _text(path).splitlines()
        found = [(line.strip(), f"line {number}", False) for number, line in enumerate(lines, 1) if line.strip()]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if not file.name.startswith("."))
        lists = {file: SPLITS[file.stem] for file in files if file.parent == path and file.stem in SPLITS}
        if "train" in {file.stem for file in lists}:  # train.txt and test.txt, one text a line
            found = [
                (line.strip(), f"{file.name} line {number}", test)
                for file, test in lists.items()
                for number, line in enumerate(_text(file).splitlines(), 1)
                if line.strip()
            ]
        else:
            found = [
                (_text(file).strip(), str(file.relative_to(path)), file.relative_to(path).parts[0] == "test")
                for file in files
            ]
            found = [one for one in found if one[0]]
    else:
        raise UserError(f"{path} does not exist: type data.root=FILE.txt, or a folder of .txt files")
    if not found:
        raise UserError(f"{path} holds no text")
    texts, names, test = (list(column) for column in zip(*found, strict=True))
    return texts, names, test


def words(text: str) -> list[str]:
    """Return the words of a text and its marks, in lower case."""
    return re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text.lower())


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is no UTF-8 (byte {error.start}): save the file as UTF-8") from error
