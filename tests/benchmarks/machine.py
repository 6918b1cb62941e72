"""What machine a benchmark ran on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, where Linux tells it, and whether it has matrix units or bf16 arithmetic."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    fields = dict(reversed([tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line]))
    able = [name for name, flag in (("AMX", "amx_tile"), ("bf16", "avx512_bf16")) if flag in fields["flags"]]
    return f"{fields.get('model name', platform.machine())}, {' and '.join(able) or 'no AMX'}"
