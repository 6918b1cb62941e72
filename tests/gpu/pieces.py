"""Pack CIFAR-10's files into pieces of at most 24 MB that any channel carries, and join them again.

`python tests/gpu/pieces.py DATA OUT` writes OUT/cifar10.000, …, of the folder `cifar-10-batches-py` in DATA,
and OUT/cifar10.sha256 with the digest of the whole. `tests/gpu/run.py --data OUT` joins them.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

FOLDER, NAME, PIECE = "cifar-10-batches-py", "cifar10", 24_000_000


def split(data: Path, out: Path) -> list[Path]:
    """Write the pieces and return them. Raises FileNotFoundError where the folder is not there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in [*sorted((data / FOLDER).glob("*_batch*")), data / FOLDER / "batches.meta"]:
            tar.add(file, f"{FOLDER}/{file.name}")
    whole = buffer.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    pieces = []
    for index, start in enumerate(range(0, len(whole), PIECE)):
        pieces.append(out / f"{NAME}.{index:03d}")
        pieces[-1].write_bytes(whole[start : start + PIECE])
    (out / f"{NAME}.sha256").write_text(hashlib.sha256(whole).hexdigest() + "\n")
    return pieces


def join(data: Path, to: Path) -> Path:
    """Return the folder that holds CIFAR-10: `data`, or `to`, where its pieces are unpacked.

    Raises ValueError where a piece is missing or damaged.
    """
    if not (data / f"{NAME}.sha256").exists() or (data / FOLDER).is_dir():
        return data
    if not (to / FOLDER / "batches.meta").exists():
        whole = b"".join(file.read_bytes() for file in sorted(data.glob(f"{NAME}.[0-9][0-9][0-9]")))
        if hashlib.sha256(whole).hexdigest() != (data / f"{NAME}.sha256").read_text().strip():
            raise ValueError(f"the pieces in {data} are not all there, or not as they were")
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            tar.extractall(to, filter="data")
    return to


if __name__ == "__main__":
    print(*split(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
