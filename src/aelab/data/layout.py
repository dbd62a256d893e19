"""How a user's folder of images is laid out: which files there are, their splits and their classes."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from aelab.errors import UserError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
# Pillow opens these formats with programs or libraries that it does not bring, or they hold no images.
_FOREIGN = {"BUFR", "GRIB", "HDF5", "WMF", "EPS", "MPEG", "PDF"}
LAYOUTS = (
    "the layouts are ROOT/*.png, ROOT/CLASS/*.png, and ROOT/train/… with ROOT/val/… or ROOT/test/… or both, "
    "each with its images or its class folders"
)


@dataclass(frozen=True)
class Found:
    """Files below a folder. Hidden and system files and folders are left out, and links are followed."""

    images: list[str]
    """Names of the images, relative to the folder, with `/`, sorted."""
    folders: list[str]
    """Names of all folders, relative to the folder."""
    skipped: Mapping[str, int]
    """Number of files of each suffix that is none of an image."""


@dataclass(frozen=True)
class Layout:
    """The images of a folder by split."""

    splits: dict[str, list[str]]
    """Names of images, by `train`, `val` and `test`. A folder without splits has `train` only."""
    classes: dict[str, str]
    """The class of each image. It is the empty word where there are no class folders."""
    empty: list[str]
    """Class folders without an image."""
    masks: int
    """Number of images in `ground_truth`, which are masks of anomalies and not read (Bergmann et al., MVTec AD)."""
    skipped: Mapping[str, int]


def suffixes() -> set[str]:
    """Return the suffixes of the image formats that Pillow opens by itself."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _FOREIGN}


def find(root: Path) -> Found:
    """Return the files below a folder. A link that leads back to a folder above it is not entered."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder: type data.root=FOLDER with a folder of images")
    known, images, folders, skipped = suffixes(), [], [], Counter[str]()

    def enter(folder: Path, name: str, above: frozenset[str]) -> None:
        place = os.path.realpath(folder)
        if place in above:
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
                    continue
                inner = f"{name}{entry.name}"
                if entry.is_dir():
                    folders.append(inner)
                    enter(folder / entry.name, f"{inner}/", above | {place})
                elif (suffix := Path(entry.name).suffix.lower()) in known:
                    images.append(inner)
                else:
                    skipped[suffix or "no suffix"] += 1

    enter(root, "", frozenset())
    return Found(sorted(images, key=_parts), folders, dict(skipped.most_common()))


def read_layout(root: Path) -> Layout:
    """Return the images of a folder by split and class.

    Raises UserError for a layout that cannot be understood, and for fewer than three images.
    """
    found = find(root)
    top = [name for name in found.folders if "/" not in name]
    given: dict[str, str] = {}
    for name in top:
        if split := SPLITS.get(name.lower()):
            if split in given:
                raise UserError(f"{root} has both {given[split]} and {name}: keep one of them ({LAYOUTS})")
            given[split] = name
    if given and "train" not in given:
        raise UserError(f"{root} has {', '.join(given.values())} but no train: {LAYOUTS}")
    masks = {name for name in found.images if given and name.split("/")[0].lower() == "ground_truth"}
    images = [name for name in found.images if name not in masks]
    if given:
        splits = {split: _below(folder, images) for split, folder in given.items()}
        if strays := set(images) - {name for names in splits.values() for name in names}:
            raise UserError(f"{root} holds {min(strays)} beside {', '.join(given.values())}: {LAYOUTS}")
        if hollow := [given[split] for split, names in splits.items() if not names]:
            raise UserError(f"{root}/{hollow[0]} holds no image: fill or remove it ({LAYOUTS})")
    else:
        splits = {"train": images}
        for name in top:
            inner = {SPLITS.get(other.rpartition("/")[2].lower()) for other in found.folders if _is_in(other, name)}
            if "train" in inner and {"val", "test"} & inner:
                raise UserError(f"{root}/{name} holds train and test folders: type data.root={root}/{name}")
    if len(images) < 3:
        raise UserError(
            f"{root} holds {len(images)} images, but at least 3 are needed: add files such as .png and .jpg, "
            f"or type another data.root{said(found.skipped, '; skipped: ')}"
        )
    depth = 1 if given else 0  # the first folder below the root or the split is the class
    classes = {name: name.split("/")[depth] if name.count("/") > depth else "" for name in images}
    named = sorted(set(classes.values()) - {""})
    if named and (loose := [name for name, label in classes.items() if not label]):
        raise UserError(
            f"{root} holds {loose[0]} beside the class folders {', '.join(named[:3])}: move it into one ({LAYOUTS})"
        )
    places = {folder.split("/")[depth] for folder in found.folders if folder.count("/") == depth and _counts(folder)}
    return Layout(splits, classes, sorted(places - set(named) - set(top if given else ())), len(masks), found.skipped)


def said(counts: Mapping[str, int], before: str = "") -> str:
    """Return counts in words, such as `.txt 2, .json 1`. Empty without counts."""
    return before + ", ".join(f"{name} {count}" for name, count in counts.items()) if counts else ""


def _below(folder: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def _is_in(folder: str, above: str) -> bool:
    return folder.rpartition("/")[0] == above


def _counts(folder: str) -> bool:
    return folder.split("/")[0].lower() != "ground_truth"


def _parts(name: str) -> list[str]:
    return name.split("/")
