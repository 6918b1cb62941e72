"""Read image files as one array: grey where all are grey, RGB where one is not."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadFile, one_line
from ..limits import check_file, check_size, max_file_size

if TYPE_CHECKING:
    from PIL import Image

# Pillow opens by content: other decoders run programs (EPS), or read what no image folder holds.
DECODERS = ("PNG", "JPEG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
DECODING = 10  # bytes that a pixel takes while it is decoded: four in Pillow, and two arrays of three
GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16, I;16B, …
ORIENTATION = 0x0112  # of EXIF
# Of TIFF 6.0, section 8: how many bits a level has, and whether 0 is white.
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


def read_pictures(paths: Sequence[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (pixels (n, c, h, w), notes).

    uint8, or float32 in [0, 1] where files have 16 bits; c is 1 where all files are grey, else 3.
    Transparency is dropped and a rotation in EXIF data not applied, both as in torchvision. Raises BadFile
    for files that cannot be read, for images of different sizes, and for more than may be read.
    """
    pictures, remarks, taken = list[np.ndarray](), Counter[str](), 0
    for path in paths:
        picture, notes = _read(path)
        taken += picture.nbytes
        check_size(path, taken, "with the images before it it")
        pictures.append(picture)
        remarks.update(notes)
        first, size = pictures[0].shape[:2], picture.shape[:2]
        if size != first:
            raise BadFile(f"{path} is {size}, others are {first}; resize them first")
    grey = sum(picture.ndim == 2 for picture in pictures)
    pictures = _of_one_dtype(pictures)
    if grey < len(pictures):
        pictures = [p if p.ndim == 3 else np.stack([p] * 3, axis=-1) for p in pictures]
        pixels = np.stack(pictures).transpose(0, 3, 1, 2)
    else:
        pixels = np.stack(pictures)[:, None]
    if 0 < grey < len(pictures):
        remarks["grey files read as RGB"] = grey
    return pixels, tuple(f"{note}: {count} of {len(pictures)} files" for note, count in remarks.items())


def _read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return what `_decode` returns. Raises BadFile."""
    try:
        check_file(path)
        with _opened(path) as image:
            return _decode(image)
    except BadFile:
        raise
    except Exception as error:  # decoders of damaged files raise of every kind
        raise BadFile(f"{path} cannot be read: {one_line(error, 300)}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, of which no more than its header is read yet. Raises BadFile for one that is too large.

    Pillow looks at the sizes that files declare, of frames within them too, but by a number of pixels of its
    own, from which on it warns, and raises from twice as many.
    """
    from PIL import Image

    usual, most = Image.MAX_IMAGE_PIXELS, max_file_size() // DECODING
    Image.MAX_IMAGE_PIXELS = most
    try:
        with warnings.catch_warnings(action="ignore"):  # of damage that does not matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=DECODERS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadFile(
            f"{path} declares an image of over {most} pixels, which take {DECODING} bytes each; if it is "
            f"to be trusted, add a larger --max-file-size"
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _of_one_dtype(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Return uint8 where all pictures are; else float32 in [0, 1]."""
    if all(picture.dtype == np.uint8 for picture in pictures):
        return pictures
    return [p if p.dtype == np.float32 else p.astype(np.float32) / np.float32(255) for p in pictures]


def is_grey(path: Path) -> bool:
    """Whether a file holds grey levels, by its header. Files that cannot be read count as grey."""
    try:
        with _opened(path) as image:
            return _is_grey(image)
    except Exception:
        return True  # whoever reads it says what is wrong


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY or image.mode.startswith("I;16")


def _decode(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Return ((h, w) grey or (h, w, 3), uint8 or float32 in [0, 1]; notes)."""
    frames = getattr(image, "n_frames", 1)
    image.load()
    remarks = {
        "first frame alone read": frames > 1,
        "rotation in EXIF data not applied": _is_rotated(image),
        "transparency dropped": _is_transparent(image),
    }
    notes = [remark for remark, holds in remarks.items() if holds]
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("it has 32 bits, and does not say what is white; save it with 8 or 16")
    if image.mode.startswith("I"):
        # PNG and PGM files of more than 8 bits come scaled to 16; TIFF files of 12 bits do not.
        bits = _tag(image, BITS, 16)
        white = 2**bits - 1
        levels = np.asarray(image).astype(np.uint16)
        notes.append(f"{bits} bits divided by {white}")
        if _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO:
            # Pillow has turned the ones of 8 bits itself.
            levels = np.uint16(white) - levels
            notes.append("white is 0, turned round")
        return levels.astype(np.float32) / np.float32(white), notes
    if _is_grey(image):
        # A grey palette holds its levels in any order: they are looked up, then all three are equal.
        levels = np.asarray(image.convert("RGBA" if image.mode in ("P", "PA") else "L"))
        return levels if levels.ndim == 2 else levels[:, :, 0], notes
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        notes.append(f"{image.mode} converted to RGB")
    # By way of RGBA, since Pillow warns of palettes with transparency otherwise.
    colours = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return np.asarray(colours.convert("RGB")), notes


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return a number of a TIFF file's header."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _is_rotated(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # of damaged EXIF data, which say nothing then
        return False


def _is_transparent(image: Image.Image) -> bool:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    if image.mode.startswith("I"):
        return False  # its colour key makes single levels transparent, no more
    return bool((np.asarray(image.convert("RGBA"))[:, :, 3] < 255).any())
