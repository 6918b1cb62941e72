"""`state_dict`: write the plain weights, the network as Python and the recipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from torch import Tensor

from ...errors import BadRequest
from ...files import refuse_foreign, write_whole
from ..checkpoints.csr import to_csr
from .bundle import ExportBundle, write_file
from .python_source import network_source


def state_dict(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write `path`, `<stem>_network.py` whose `network()` needs torch only, and `<path>.json`.

    The weights are safetensors by the suffix, else of `torch.save`. Of a network that cannot be written as
    Python the JSON says why.
    """
    state = to_csr(bundle.state) if bundle.compressed else bundle.state
    source = path.with_name(re.sub(r"\W", "_", path.stem) + "_network.py")
    more: dict[str, str] = {}
    text = ""
    try:
        text = network_source(
            bundle.module, bundle.title, bundle.shape, path.name, compressed=bundle.compressed
        )
    except BadRequest as error:
        more["no_python"] = str(error)
    refuse_foreign(source, path.with_name(path.name + ".json"))
    _, metadata = write_file(bundle, path, weight_bytes(state, path.suffix), **more)
    if not text:
        return [path, metadata]
    write_whole(source, text.encode())
    return [path, source, metadata]


def weight_bytes(state: dict[str, Tensor], suffix: str) -> bytes:
    """Return the bytes of a weight file: safetensors by its suffix, else `torch.save`."""
    if suffix == ".safetensors":
        from safetensors.torch import save

        return save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
