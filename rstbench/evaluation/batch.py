"""Choose how many images make a shard. No torch."""

from __future__ import annotations

from ..errors import BadRequest

# Part of the key of a question: with another number everything on that device is asked anew.
BATCH = {"cpu": 100, "cuda": 500}  # images of a shard where none are named, by the type of the device


def pick_batch(text: str, device: str) -> int:
    """Read 'auto' (see `BATCH`) or a whole number; `device` is the type of torch's. Raises BadRequest."""
    if text == "auto":
        return BATCH[device]
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise BadRequest(f"--batch-size reads auto or a number of images, got {text!r}")
    return int(text)


def whole_shards(images: int, batch: int, available: int) -> int:
    """Round `images` up to whole shards, as far as there are images."""
    return min(available, -(-images // batch) * batch)
