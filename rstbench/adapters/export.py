"""Tickets and checkpoints in forms that need no part of this package."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import torch

from ..harness.store import write_whole
from ..tickets.ticket import Ticket


def export_state_dict(ticket: Ticket, path: Path) -> Path:
    """Writes the dense state dict (`torch.save`, or safetensors by the name's ending), and beside it
    `<path>.json` with the recipe, the network and the counts. Returns the second path."""
    state = {name: tensor.contiguous() for name, tensor in ticket.module().state_dict().items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        content = save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
    write_whole(path, content)
    about = {
        "recipe": asdict(ticket.recipe),
        "network": asdict(ticket.spec),
        "remaining": ticket.remaining,
        "kept_weights": ticket.kept_weights,
        "total_weights": ticket.total_weights,
        "random_digest": ticket.random_digest,
        "input": "pixels in [0, 1], shape (n, channels, height, width)",
        "output": "logits, shape (n, classes)",
    }
    beside = path.with_name(path.name + ".json")
    write_whole(beside, (json.dumps(about, indent=1) + "\n").encode())
    return beside
