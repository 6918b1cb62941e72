"""Trees of image files: one's own in torchvision's ImageFolder layout, and Tiny ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadFile
from .images import no_id

SHUFFLE_SEED = 0
TINY = "tiny-imagenet-200"
FORMATS = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".webp")


def imagefolder(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """`imagefolder:DIR`: DIR/<split>/<class>/*.png, or DIR/val for the test images, or for them DIR itself.

    Classes by their folders' sorted names; images of one size, in a fixed shuffle, so that the first ones
    are of all classes. (n, 3, h, w), uint8.
    """
    top = Path(name).expanduser()
    options = [top / split, *([top / "val", top] if split == "test" else [])]
    folder = next((option for option in options if option.is_dir()), None)
    if folder is None:
        raise BadFile(f"no folder {top / split}; image trees read DIR/{split}/<class>/*.png")
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir())
    files = [(path, place) for place, wnid in enumerate(classes) for path in _images(folder / wnid)]
    return *_load(files, folder), len(classes)


def tiny_imagenet(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """100,000 training and, for testing, the 10,000 labelled validation images, 3x64x64, 200 classes;
    from ROOT/tiny-imagenet-200 as it is distributed."""
    no_id("tiny-imagenet", name)
    folder = root / TINY
    try:
        classes = {wnid: place for place, wnid in enumerate((folder / "wnids.txt").read_text().split())}
        if split == "train":
            files = [
                (p, place) for w, place in classes.items() for p in _images(folder / "train" / w / "images")
            ]
        else:
            lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
            marked = (line.split("\t")[:2] for line in lines)
            files = [(folder / "val" / "images" / file, classes[wnid]) for file, wnid in marked]
    except (OSError, KeyError, ValueError) as error:
        raise BadFile(
            f"no whole Tiny ImageNet at {folder} ({error}); set --data-root or RSTBENCH_DATA to its parent"
        ) from None
    return *_load(files, folder), len(classes)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)


def _load(files: list[tuple[Path, int]], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    if not files:
        raise BadFile(f"no images in {folder}; wanted {', '.join(FORMATS)}")
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(files))
    pixels = []
    for place in order:
        path = files[place][0]
        try:
            with Image.open(path) as image:
                pixels.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except (OSError, UnidentifiedImageError) as error:
            raise BadFile(f"{path} cannot be read: {error}") from None
        if pixels[-1].shape != pixels[0].shape:
            raise BadFile(
                f"{path} is {pixels[-1].shape[1:]}, others are {pixels[0].shape[1:]}; resize them first"
            )
    return np.stack(pixels), np.array([files[place][1] for place in order], dtype=np.int64)
