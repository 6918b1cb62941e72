"""`ticket`: a file of this tool, for tickets that came from elsewhere."""

from __future__ import annotations

from pathlib import Path

from ...errors import BadRequest
from ...tickets.ticket import Ticket
from .bundle import ExportBundle


def ticket(parcel: ExportBundle, path: Path) -> list[Path]:
    """`path`, which `ticket:`, `switch:` and `train --from` read. Raises BadRequest for what is no ticket."""
    if not isinstance(parcel.made, Ticket):
        raise BadRequest(f"{parcel.name} is no ticket: no mask over random weights is known of it")
    if path.exists():
        raise BadRequest(f"{path} exists; choose another --out")
    parcel.made.save(path)
    return [path]
