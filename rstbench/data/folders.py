"""Folders of image files: one's own in torchvision's ImageFolder layout, and Tiny ImageNet."""

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
from .splits import Splits, named, numbering, refuse_inner_splits, refuse_splits, shared_parts, splits
from .tree import FORMATS, class_folders, holds_classes, holds_images, images_below, innermost, left_out, look

SHUFFLE_SEED = 0
TINY = "tiny-imagenet-200"


def imagefolder(name: str, split: str, root: Path) -> Found:
    """`imagefolder:DIR`: DIR/<split>/<class>/*.png, or DIR/val for the test images, or for them DIR itself.

    Classes by their folders' sorted names, those of the training images where they are there, so that a
    class without test images shifts no label; images of one size, in a fixed shuffle, so that the first
    ones are of all classes. (n, 3, h, w), or (n, 1, h, w) where all files of all splits are grey; uint8, or
    float32 where files have 16 bits.
    """
    if not name:
        raise BadRequest("imagefolder wants a folder: imagefolder:DIR")
    folder, notes = _split_folder(Path(name).expanduser(), split)
    own, beside = class_folders(folder)
    if not own:
        raise BadFile(f"no class folders in {folder}; image trees read {folder}/<class>/*.png")
    among = splits(folder)
    classes, numbered = _classes(folder, own, among)
    parts = _refuse_parts(folder, own, among.others)
    files, skipped, empty = list[tuple[Path, int]](), list[Path](), list[str]()
    for place, label in enumerate(classes):
        found, rest = images_below(folder / label) if label in own else ([], [])
        files += [(path, place) for path in found]
        skipped += rest
        empty += [] if found else [label]
    if not files:
        raise BadFile(f"no images in {folder}; wanted {', '.join(FORMATS)}")
    # Without images in the split alone, a class keeps its label; without any it has none.
    known = {label for label in empty if numbered and holds_images(numbered / label)}
    _refuse_empty(numbered or folder, [label for label in empty if label not in known])
    notes = (*notes, *_numbers(classes), *parts, *((f"no image of {listed(empty)}",) if empty else ()))
    if numbered and classes != own and numbered.name != "train":
        notes += (f"labels by the folders of {numbered}",)
    read = _load(files)
    if read.pixels.shape[1] == 1:
        # All splits are grey, or none.
        colour = next((other for other in among.others if not _all_grey(other)), None)
        notes += (f"grey files read as RGB, for {colour} has colour" if colour else "grey files kept grey",)
        read = read._replace(pixels=read.pixels.repeat(3, axis=1) if colour else read.pixels)
    notes = (*notes, *read.notes, *left_out([*beside, *skipped]))
    return read._replace(classes=len(classes), notes=notes)


def _split_folder(top: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """(where the class folders of a split lie, a note). Raises BadFile."""
    options = [split, *(["val"] if split == "test" else [])]
    name = next((option for option in options if (top / option).is_dir()), None)
    if name and not look(top / name)[0]:
        return _without_classes(top, name, split)
    if name:
        return top / name, () if name == split else (f"no folder {split}: the images of {name}",)
    if split != "test" or not top.is_dir():
        like = [other for other in look(top)[0] if named(other).split == split]
        helps = f"; rename {top / like[0]}" if like else f"; image trees read DIR/{split}/<class>/*.png"
        raise BadFile(f"no folder {top / split}{helps}")
    return top if top.name not in ("", "..") else Path(os.path.abspath(top)), ()


def _without_classes(top: Path, name: str, split: str) -> tuple[Path, tuple[str, ...]]:
    """For a folder of a split's name that has no class folders: a class, or unlabelled images."""
    names, others = look(top)[0], [path for path in splits(top / name).others if holds_classes(path)]
    if others:
        # What is not for learning is what to measure on.
        apt = [path for path in others if named(path.name).split != "train"]
        helps = f"imagefolder:{apt[0]} has some" if apt else f"image trees read {top / name}/<class>/*.png"
        raise BadFile(f"no class folders in {top / name}; {helps}")
    beside = [other for other in names if look(top / other)[1] and not named(other).split]
    if split == "test" and beside and look(top / name)[1]:
        return top, (f"{name} is read as a class beside {listed(beside)}",)
    raise BadFile(f"no class folders in {top / name}; image trees read {top / name}/<class>/*.png")


def _classes(folder: Path, own: list[str], among: Splits) -> tuple[list[str], Path | None]:
    """`numbering`, for a folder whose folders are classes. Raises BadFile where they are not."""
    refuse_inner_splits(folder, own)
    if not any(set(own) & set(look(path)[0]) for path in among.others):
        refuse_splits(folder, own)
    beside, inner = [set(look(path)[0]) for path in among.others], innermost(folder)
    known = any(own[0] in names and len(names) > 1 for names in beside)
    branched = any(len(look(path)[0]) > 1 for path in (inner, *map(innermost, among.others)))
    if inner != folder and branched and not known:
        raise BadFile(
            f"{folder} has one class folder, {own[0]}, which holds folders itself; where those are the "
            f"classes, name imagefolder:{inner}"
        )
    return numbering(folder, own, among)


def _refuse_parts(folder: Path, own: list[str], others: list[Path]) -> tuple[str, ...]:
    """Class folders with the same folders in them: a note where the tree says that they are classes.

    It does where another split has them too, or where they lie in DIR/<split>. Raises BadFile elsewhere.
    """
    shared = shared_parts(folder, own)
    if not shared or any(set(own) & names for names in map(set, (look(path)[0] for path in others))):
        return ()
    if named(folder.name).split and not named(folder.name).rest:
        return (f"{listed(own)} are the classes, not {listed(shared)} in them",)
    raise BadFile(
        f"{listed(own)} in {folder} hold the same folders, {listed(shared)}: where these are the classes, "
        f"name one part, imagefolder:{folder / own[0]}; where {listed(own)} are, move all to {folder}/test"
    )


def _refuse_empty(folder: Path, empty: list[str]) -> None:
    """A class without images, as torchvision does."""
    if empty:
        raise BadFile(
            f"no images in the class folder {folder / empty[0]} ({', '.join(FORMATS)}): remove it, for as a "
            "class it shifts the labels after it"
        )


def _numbers(classes: list[str]) -> tuple[str, ...]:
    """A note where folders are numbered, and a label is not its folder's number, or not in their order."""
    parts = [re.split(r"([0-9]+)", name) for name in classes]
    if len({tuple(part[::2]) for part in parts}) > 1 or len(parts[0]) == 1:
        return ()
    numbers = [[int(number) for number in part[1::2]] for part in parts]
    moved = next((place for place, number in enumerate(sorted(numbers)) if number != numbers[place]), None)
    if moved is not None:
        return (f"classes in text order: {moved} is folder {classes[moved]}",)
    bare = all(name.isdigit() for name in classes)
    moved = next((place for place, number in enumerate(numbers) if bare and number != [place]), None)
    return () if moved is None else (f"classes by place: {moved} is folder {classes[moved]}",)


def _all_grey(folder: Path) -> bool:
    return all(is_grey(path) for name in class_folders(folder)[0] for path in images_below(folder / name)[0])


def tiny_imagenet(name: str, split: str, root: Path) -> Found:
    """100,000 training and, for testing, the 10,000 labelled validation images, 3x64x64, 200 classes;
    from ROOT/tiny-imagenet-200 as it is distributed. Its grey files are read as RGB."""
    no_id("tiny-imagenet", name)
    folder = root / TINY
    try:
        classes = {wnid: place for place, wnid in enumerate((folder / "wnids.txt").read_text().split())}
        if split == "train":
            files = [
                (path, place)
                for wnid, place in classes.items()
                for path in images_below(folder / "train" / wnid / "images")[0]
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
    read = _load(files)
    pixels = read.pixels.repeat(3, axis=1) if read.pixels.shape[1] == 1 else read.pixels
    return read._replace(pixels=pixels, classes=len(classes), notes=())


def _load(files: Sequence[tuple[Path, int]]) -> Found:
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(files))
    pixels, notes = read_pictures([files[place][0] for place in order])
    labels = np.array([files[place][1] for place in order], dtype=np.int64)
    return Found(pixels, labels, notes=notes, layout=FIRST)
