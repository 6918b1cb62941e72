"""The user's own images in a numpy archive: `npz:FILE`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..archives import DAMAGE, check_arrays
from ..errors import BadFile, one_line
from .images import Found

MAGIC = b"\x93NUMPY"  # of a file with one array


def npz(id: str, split: str, root: Path) -> Found:
    """Read the arrays `x_<split>` and `y_<split>`, or for the test images `x` and `y`.

    x: (n, c, h, w), (n, h, w, c) or (n, h, w), uint8 or float in [0, 1]; y: (n,), whole numbers from 0. An
    array `layout`, 'nchw' or 'nhwc', tells the axes where their shape does not.
    """
    path = Path(id).expanduser()
    if not path.is_file():
        raise BadFile(f"no file {path}; npz data read 'npz:FILE[:test][:N]'")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            is_npy = file.read(len(MAGIC)) == MAGIC
        kind = "a single array (.npy)" if is_npy else "another format, or cut short"
        raise BadFile(
            f"{path} is no readable numpy archive but {kind}; write one by np.savez(FILE, x=x, y=y)"
        )
    try:
        check_arrays(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            present = list(archive.keys())
            pair = [k for k in (f"x_{split}", f"y_{split}") if k in present] or ["x", "y"]
            if split == "train" and pair == ["x", "y"]:
                # The same images to learn from and to measure on would choose on the test set.
                raise BadFile(f"{path} has no x_train and y_train; its x and y are test images")
            if len(pair) < 2 or any(key not in present for key in pair):
                raise BadFile(
                    f"{path} wants arrays x and y, or x_{split} and y_{split}; it holds {', '.join(present)}"
                )
            layout = str(_array(archive, "layout", path)) if "layout" in present else ""
            x, y = (_array(archive, key, path) for key in pair)
            return Found(x, y, layout=layout.lower())
    except DAMAGE as error:
        raise BadFile(f"{path} is no readable numpy archive: {one_line(error, 200)}") from None


def _array(archive: Any, key: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise BadFile(
            f"{path}: the array {key} holds Python objects, which are not unpickled; store one array of "
            "numbers, images of one size"
        ) from None
