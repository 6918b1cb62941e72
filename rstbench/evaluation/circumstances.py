"""On what a shard is answered: the device and the versions of what decides a result."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__


def device_name(device: torch.device) -> str:
    """Return 'cpu', or the name of the GPU."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions(*more: str) -> dict[str, str]:
    """Return the versions of what decides a result; more: packages that some questions need."""
    fixed = {"rstbench": __version__, "torch": torch.__version__, "pyautoattack": _version("pyautoattack")}
    return fixed | {package: _version(package) for package in more}
