"""`ticket`: write a ticket file of this tool, for tickets of other projects."""

from __future__ import annotations

from pathlib import Path

from ...errors import BadRequest
from ...tickets.ticket import Ticket
from .bundle import ExportBundle


def ticket(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write `path` for `ticket:`, `switch:` and `train --from`. Raises BadRequest for what is no ticket."""
    if not isinstance(bundle.artifact, Ticket):
        raise BadRequest(f"{bundle.name} is no ticket: no mask over random weights is known of it")
    if path.exists():
        raise BadRequest(f"{path} exists; choose another --out")
    bundle.artifact.save(path)
    return [path]
