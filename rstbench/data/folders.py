"""Folders of image files: the user's own in torchvision's ImageFolder layout, and Tiny ImageNet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import BadFile, BadRequest, listed
from .images import Found, no_id
from .layout import FIRST
from .pictures import is_grey, read_pictures
from .splits import Siblings, class_labels, refuse_inner, refuse_splits, shared_parts, siblings_of, split_name
from .tree import FORMATS, class_folders, find_images, holds_classes, holds_images, innermost, scan, skip_note

SHUFFLE_SEED = 0
TINY = "tiny-imagenet-200"


def imagefolder(id: str, split: str, root: Path) -> Found:
    """Read DIR/<split>/<class>/*.png; for the test images also DIR/val, or DIR itself.

    Classes are the sorted names of the training folder where there is one, so that a class without test
    images shifts no label. Images have one size and come in a fixed shuffle, so that the first ones are of
    all classes: (n, 3, h, w), or (n, 1, h, w) where all files of all splits are grey; uint8, or float32 where
    files have 16 bits.
    """
    if not id:
        raise BadRequest("imagefolder wants a folder: imagefolder:DIR")
    folder, notes = _split_folder(Path(id).expanduser(), split)
    own, beside = class_folders(folder)
    if not own:
        raise BadFile(f"no class folders in {folder}; image trees read {folder}/<class>/*.png")
    siblings = siblings_of(folder)
    classes, label_folder = _classes(folder, own, siblings)
    parts = _refuse_parts(folder, own, siblings.others)
    files, skipped, empty = list[tuple[Path, int]](), list[Path](), list[str]()
    for label, name in enumerate(classes):
        paths, others = find_images(folder / name) if name in own else ([], [])
        files += [(path, label) for path in paths]
        skipped += others
        empty += [] if paths else [name]
    if not files:
        raise BadFile(f"no images in {folder}; wanted {', '.join(FORMATS)}")
    # Without images in the split alone, a class keeps its label; without any it has none.
    known = {name for name in empty if label_folder and holds_images(label_folder / name)}
    _refuse_empty(label_folder or folder, [name for name in empty if name not in known])
    notes = (*notes, *_numbers(classes), *parts, *((f"no image of {listed(empty)}",) if empty else ()))
    if label_folder and classes != own and label_folder.name != "train":
        notes += (f"labels by the folders of {label_folder}",)
    images = _load(files)
    if images.pixels.shape[1] == 1:
        # All splits are grey, or none.
        colour = next((other for other in siblings.others if not _all_grey(other)), None)
        notes += (f"grey files read as RGB, for {colour} has colour" if colour else "grey files kept grey",)
        images = images._replace(pixels=images.pixels.repeat(3, axis=1) if colour else images.pixels)
    notes = (*notes, *images.notes, *skip_note([*beside, *skipped]))
    return images._replace(classes=len(classes), notes=notes)


def _split_folder(top: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """Return (the folder that holds the class folders of a split, notes). Raises BadFile."""
    options = [split, *(["val"] if split == "test" else [])]
    name = next((option for option in options if (top / option).is_dir()), None)
    if name and not scan(top / name)[0]:
        return _without_classes(top, name, split)
    if name:
        return top / name, () if name == split else (f"no folder {split}: the images of {name}",)
    if split != "test" or not top.is_dir():
        like = [other for other in scan(top)[0] if split_name(other).split == split]
        helps = f"; rename {top / like[0]}" if like else f"; image trees read DIR/{split}/<class>/*.png"
        raise BadFile(f"no folder {top / split}{helps}")
    return top if top.name not in ("", "..") else Path(os.path.abspath(top)), ()


def _without_classes(top: Path, name: str, split: str) -> tuple[Path, tuple[str, ...]]:
    """Read a folder of a split's name without class folders as a class. Raises BadFile where it is none."""
    names, siblings = scan(top)[0], siblings_of(top / name).others
    others = [path for path in siblings if holds_classes(path)]
    if others:
        # Splits other than the training one are for evaluation.
        apt = [path for path in others if split_name(path.name).split != "train"]
        helps = f"imagefolder:{apt[0]} has some" if apt else f"image trees read {top / name}/<class>/*.png"
        raise BadFile(f"no class folders in {top / name}; {helps}")
    beside = [other for other in names if scan(top / other)[1] and not split_name(other).split]
    if split == "test" and beside and scan(top / name)[1]:
        return top, (f"{name} is read as a class beside {listed(beside)}",)
    raise BadFile(f"no class folders in {top / name}; image trees read {top / name}/<class>/*.png")


def _classes(folder: Path, own: list[str], siblings: Siblings) -> tuple[list[str], Path | None]:
    """Return `class_labels` of a folder whose folders are classes. Raises BadFile where they are not."""
    refuse_inner(folder, own)
    beside, inner = [set(scan(path)[0]) for path in siblings.others], innermost(folder)
    if not any(set(own) & names for names in beside):
        refuse_splits(folder, own)
    known = any(own[0] in names and len(names) > 1 for names in beside)
    branched = any(len(scan(path)[0]) > 1 for path in (inner, *map(innermost, siblings.others)))
    if inner != folder and branched and not known:
        raise BadFile(
            f"{folder} has one class folder, {own[0]}, which holds folders itself; where those are the "
            f"classes, name imagefolder:{inner}"
        )
    return class_labels(folder, own, siblings)


def _refuse_parts(folder: Path, own: list[str], others: list[Path]) -> tuple[str, ...]:
    """Note class folders with the same folders in them, where the tree shows that they are the classes.

    It does where another split has them too, or where they lie in DIR/<split>. Raises BadFile elsewhere.
    """
    shared = shared_parts(folder, own)
    if not shared or any(set(own) & names for names in map(set, (scan(path)[0] for path in others))):
        return ()
    if split_name(folder.name).split and not split_name(folder.name).rest:
        return (f"{listed(own)} are the classes, not {listed(shared)} in them",)
    raise BadFile(
        f"{listed(own)} in {folder} hold the same folders, {listed(shared)}: where these are the classes, "
        f"name one part, imagefolder:{folder / own[0]}; where {listed(own)} are, move all to {folder}/test"
    )


def _refuse_empty(folder: Path, empty: list[str]) -> None:
    """Raise BadFile for a class without images, as torchvision does."""
    if empty:
        raise BadFile(
            f"no images in the class folder {folder / empty[0]} ({', '.join(FORMATS)}): remove it, for as a "
            "class it shifts the labels after it"
        )


def _numbers(classes: list[str]) -> tuple[str, ...]:
    """Note where folders are numbered, and a label is not its folder's number, or not in their order."""
    parts = [re.split(r"([0-9]+)", name) for name in classes]
    if len({tuple(part[::2]) for part in parts}) > 1 or len(parts[0]) == 1:
        return ()
    numbers = [[int(number) for number in part[1::2]] for part in parts]
    moved = next((label for label, number in enumerate(sorted(numbers)) if number != numbers[label]), None)
    if moved is not None:
        return (f"classes in text order: {moved} is folder {classes[moved]}",)
    bare = all(name.isdigit() for name in classes)
    moved = next((label for label, number in enumerate(numbers) if bare and number != [label]), None)
    return () if moved is None else (f"classes by place: {moved} is folder {classes[moved]}",)


def _all_grey(folder: Path) -> bool:
    return all(is_grey(path) for name in class_folders(folder)[0] for path in find_images(folder / name)[0])


def tiny_imagenet(id: str, split: str, root: Path) -> Found:
    """Read 100,000 training and, for testing, the 10,000 labelled validation images, 3x64x64, 200 classes.

    They lie in ROOT/tiny-imagenet-200 as it is distributed; its grey files are read as RGB.
    """
    no_id("tiny-imagenet", id)
    folder = root / TINY
    try:
        classes = {wnid: label for label, wnid in enumerate((folder / "wnids.txt").read_text().split())}
        if split == "train":
            files = [
                (path, label)
                for wnid, label in classes.items()
                for path in find_images(folder / "train" / wnid / "images")[0]
            ]
        else:
            lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
            marked = (line.split("\t")[:2] for line in lines)
            files = [(folder / "val" / "images" / file, classes[wnid]) for file, wnid in marked]
    except (OSError, KeyError, ValueError, BadFile) as error:
        raise BadFile(
            f"no whole Tiny ImageNet at {folder} ({error}); set --data-root or RSTBENCH_DATA to its parent"
        ) from None
    if not files:
        raise BadFile(f"no images in {folder}; wanted {', '.join(FORMATS)}")
    images = _load(files)
    pixels = images.pixels.repeat(3, axis=1) if images.pixels.shape[1] == 1 else images.pixels
    return images._replace(pixels=pixels, classes=len(classes), notes=())


def _load(files: Sequence[tuple[Path, int]]) -> Found:
    """Read (file, label) pairs in a fixed shuffle."""
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(files))
    pixels, notes = read_pictures([files[index][0] for index in order])
    labels = np.array([files[index][1] for index in order], dtype=np.int64)
    return Found(pixels, labels, notes=notes, layout=FIRST)
