"""Folders of image files: one's own in torchvision's ImageFolder layout, and Tiny ImageNet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import BadFile, BadRequest, listed
from .images import Found, no_id
from .layout import FIRST
from .pictures import is_grey, read_pictures
from .tree import FORMATS, class_folders, images_below, is_hidden, is_image, left_out

SHUFFLE_SEED = 0
TINY = "tiny-imagenet-200"
SPLIT_FOLDERS = ("train", "validation", "val", "test")
LIKE_SPLITS = {*SPLIT_FOLDERS, "training", "valid", "testing", "dev", "eval"}


def imagefolder(name: str, split: str, root: Path) -> Found:
    """`imagefolder:DIR`: DIR/<split>/<class>/*.png, or DIR/val for the test images, or for them DIR itself.

    Classes by their folders' sorted names, those of DIR/train where it is there, so that a class without
    test images shifts no label; images of one size, in a fixed shuffle, so that the first ones are of all
    classes. (n, 3, h, w), or (n, 1, h, w) where all files of all splits are grey; uint8, or float32 where
    files have 16 bits.
    """
    if not name:
        raise BadRequest("imagefolder wants a folder: imagefolder:DIR")
    folder, tree = _split_folder(Path(name).expanduser(), split)
    own, beside = class_folders(folder)
    classes, notes = _classes(own, folder, tree)
    files, skipped, empty = list[tuple[Path, int]](), list[Path](), list[str]()
    for place, label in enumerate(classes):
        found, rest = images_below(folder / label) if label in own else ([], [])
        files += [(path, place) for path in found]
        skipped += rest
        empty += [] if found else [label]
    if not files:
        raise BadFile(f"no images in {folder}; wanted {', '.join(FORMATS)}")
    if _train(folder, tree):
        notes += (f"no image of {listed(empty)}",) if empty else ()
    else:
        _refuse_odd(folder, classes, [path for path, _ in files], empty)
    read = _load(files)
    if read.pixels.shape[1] == 1:
        # All splits are grey, or none.
        colour = next((other for other in _other_splits(folder, tree) if not _all_grey(other)), None)
        notes += (f"grey files read as RGB, for {colour} has colour" if colour else "grey files kept grey",)
        read = read._replace(pixels=read.pixels.repeat(3, axis=1) if colour else read.pixels)
    notes = (*notes, *read.notes, *left_out([*beside, *skipped]))
    return read._replace(classes=len(classes), notes=notes)


def _split_folder(top: Path, split: str) -> tuple[Path, Path]:
    """(where the class folders of a split lie, the folder of all splits). Raises BadFile."""
    options = [top / split, *([top / "val"] if split == "test" else [])]
    folder = next((option for option in options if option.is_dir()), None)
    if folder:
        return folder, top
    if split != "test" or not top.is_dir():
        raise BadFile(f"no folder {top / split}; image trees read DIR/{split}/<class>/*.png")
    splits = [name for name in class_folders(top)[0] if name.lower() in LIKE_SPLITS]
    splits = [name for name in splits if _holds_classes(top / name)]
    if splits:
        # What is not for learning is what to measure on.
        wanted = next((name for name in splits if not name.lower().startswith("train")), splits[0])
        raise BadFile(
            f"{top} has no folder test or val, and {wanted} is no class but a split; write "
            f"imagefolder:{top / wanted} for its images, or name the test folder test"
        )
    whole = Path(os.path.abspath(top))
    return whole, whole.parent if whole.name in SPLIT_FOLDERS else whole


def _holds_classes(folder: Path) -> bool:
    """Whether a folder has folders with images in it, and none beside them."""
    names, beside = class_folders(folder)
    loose = any(is_image(path.name) and not is_hidden(path.name) for path in beside)
    return bool(names) and not loose


def _train(folder: Path, tree: Path) -> Path | None:
    """The training images that a split's labels go by, where it is not they."""
    train = tree / "train"
    return train if folder not in (train, tree) and train.is_dir() and _holds_classes(train) else None


def _classes(own: list[str], folder: Path, tree: Path) -> tuple[list[str], tuple[str, ...]]:
    """The classes by label, and a note. Raises BadFile for test classes that are not learnt from."""
    if not own:
        raise BadFile(f"no class folders in {folder}; image trees read {folder}/<class>/*.png")
    train = _train(folder, tree)
    classes = class_folders(train)[0] if train else own
    strange = sorted(set(own) - set(classes))
    if strange:
        raise BadFile(
            f"{folder} has the class {strange[0]}, {train} has not, so their labels would not agree; rename "
            "it, or add it there"
        )
    if not all(name.isascii() and name.isdigit() for name in classes):
        return classes, ()
    numbers = sorted(classes, key=int)
    moved = next((place for place, name in enumerate(numbers) if name != classes[place]), None)
    return classes, () if moved is None else (f"classes in text order: {moved} is folder {classes[moved]}",)


def _refuse_odd(folder: Path, classes: list[str], files: list[Path], empty: list[str]) -> None:
    """A class without images, as torchvision does; and one class that is the folder of all classes."""
    if empty:
        raise BadFile(
            f"no images in the class folder {folder / empty[0]} ({', '.join(FORMATS)}): remove it, for as a "
            "class it shifts the labels after it"
        )
    parents = {path.parent for path in files}
    if len(classes) == 1 and len(parents) > 1 and folder / classes[0] not in parents:
        raise BadFile(
            f"{folder} has one class folder, {classes[0]}, which holds folders itself; where those are the "
            f"classes, name imagefolder:{folder / classes[0]}"
        )


def _other_splits(folder: Path, tree: Path) -> list[Path]:
    if folder == tree:
        return []
    return [tree / name for name in SPLIT_FOLDERS if (tree / name).is_dir() and tree / name != folder]


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
