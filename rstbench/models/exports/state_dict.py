"""`state_dict`: the plain weights, and beside them the network as Python and the recipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from torch import Tensor

from ...errors import BadRequest
from ...files import refuse_foreign, write_whole
from ..checkpoints.csr import compressed
from .bundle import ExportBundle, write_file
from .python_source import source_of


def state_dict(parcel: ExportBundle, path: Path) -> list[Path]:
    """`path` (`torch.save`, or safetensors by the name's ending), `<stem>_network.py` whose `network()` needs
    torch only, and `<path>.json` with the recipe. A network that cannot be written as Python gets none, and
    the JSON says why."""
    state = compressed(parcel.state) if parcel.compressed else parcel.state
    source = path.with_name(re.sub(r"\W", "_", path.stem) + "_network.py")
    told: dict[str, str] = {}
    text = ""
    try:
        text = source_of(parcel.module, parcel.title, parcel.shape, path.name, compressed=parcel.compressed)
    except BadRequest as error:
        told["no_python"] = str(error)
    refuse_foreign(source, path.with_name(path.name + ".json"))
    _, beside = write_file(parcel, path, packed(state, path.suffix), **told)
    if not text:
        return [path, beside]
    write_whole(source, text.encode())
    return [path, source, beside]


def packed(state: dict[str, Tensor], suffix: str) -> bytes:
    """The bytes of a weight file: safetensors by its suffix, else `torch.save`."""
    if suffix == ".safetensors":
        from safetensors.torch import save

        return save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
