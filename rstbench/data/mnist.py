"""MNIST and Fashion-MNIST from their raw files, gzipped or not, in torchvision's folder layout.

torchvision itself refuses a folder that holds only the `.gz` files, and would unpack them.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np

from ..archives import gunzip
from ..errors import BadFile
from ..limits import read_bytes
from .images import train_or_test

FILES = {"train": "train", "test": "t10k"}


def mnist(id: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Read 60,000 training and 10,000 test digits, 28x28 grey, uint8; from ROOT/MNIST/raw."""
    return _read("MNIST", id, split, root)


def fashionmnist(id: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Read Fashion-MNIST (Xiao et al. 2017), in MNIST's form; from ROOT/FashionMNIST/raw."""
    return _read("FashionMNIST", id, split, root)


def _read(folder: str, id: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    train_or_test(folder.lower(), id, split)
    raw = root / folder / "raw"
    images = _read_idx(raw / f"{FILES[split]}-images-idx3-ubyte", 3)
    return images, _read_idx(raw / f"{FILES[split]}-labels-idx1-ubyte", 1).astype(np.int64), 10


def _read_checked(gz: Path) -> bytes:
    """Check the md5 sum of a gzip file where torchvision knows it, and unpack it. Raises BadFile."""
    from torchvision import datasets

    content = read_bytes(gz)
    md5_sums = dict(getattr(datasets, gz.parent.parent.name).resources)
    if md5_sums.get(gz.name, "") not in ("", hashlib.md5(content).hexdigest()):
        raise BadFile(f"{gz} has another md5 sum than the published file")
    return gunzip(gz)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic 0x0000 08 DD, DD big-endian sizes, then the data."""
    gz = path.with_name(path.name + ".gz")
    try:
        content = read_bytes(path) if path.exists() else _read_checked(gz)
    except FileNotFoundError:
        raise BadFile(
            f"no file {path}[.gz]; set --data-root or RSTBENCH_DATA to the folder that holds "
            f"{path.parent.parent.name}/raw"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{gz} cannot be read: {error}") from None
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, 8, dimensions]):
        raise BadFile(f"{path} is no IDX file of {dimensions} dimensions")
    sizes = np.frombuffer(content[4:head], dtype=">u4")
    data = np.frombuffer(content[head:], dtype=np.uint8)
    if data.size != int(np.prod(sizes)):
        raise BadFile(f"{path} is no whole IDX file of {dimensions} dimensions")
    return data.reshape(*sizes).copy()
