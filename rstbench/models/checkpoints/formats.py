"""Recognise weight files by their contents, and read them without running code.

Add another format here: its first bytes in `_SIGNATURES`, its reader in `read_weight_file`.
"""

from __future__ import annotations

import argparse
import collections
import mmap
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...archives import DAMAGE, check_archive
from ...errors import BadFile, first_line, listed
from .tensors import check_content

UNPACK = "unpack it first"
_BYTES = b"bytearray"
_TICKET = re.compile(r'"format": *"rstbench-ticket')
OWN_CODE = "load it in a file of your own: file:PATH.py:factory"
# First bytes of other files: (what it is, what helps).
_SIGNATURES = {
    b"\x89HDF": ("an HDF5 file, as Keras writes", f"convert it, or {OWN_CODE}"),
    b"GGUF": ("a GGUF file", f"convert it, or {OWN_CODE}"),
    b"\x93NUMPY": ("a NumPy array", f"save a state dict with torch.save, or {OWN_CODE}"),
    b"\x1f\x8b": ("a gzip archive", UNPACK),
    b"BZh": ("a bzip2 archive", UNPACK),
    b"\xfd7zXZ": ("an xz archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"(\xb5/\xfd": ("a zstd archive", UNPACK),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "fetch it: git lfs pull"),
    b"<": ("a web page", "download the file itself"),
    b"{": ("JSON text, such as an index of several files", "name the file of weights; a folder is hub:DIR"),
}
_SUFFIXES = {
    ".onnx": ("an ONNX graph", "use onnx:FILE"),
    ".pb": ("a TensorFlow graph", f"convert it, or {OWN_CODE}"),
    ".tflite": ("a TensorFlow Lite file", f"convert it, or {OWN_CODE}"),
    ".index": ("a TensorFlow checkpoint", f"convert it, or {OWN_CODE}"),
    ".msgpack": ("a Flax file", f"convert it, or {OWN_CODE}"),
}
# Members of zip archives that torch.save did not write.
_MEMBERS: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (lambda name: name.endswith("serialized_exported_program.json") or "/models/model.json" in f"/{name}",
     "a program of torch.export", "use torch-export:FILE"),
    (lambda name: "/code/" in f"/{name}" or name.endswith("constants.pkl"),
     "a TorchScript archive", f"torch.jit.load(…) in {OWN_CODE.partition(' in ')[2]}"),
    (lambda name: name.endswith(".npy"),
     "an archive of NumPy arrays", f"save a state dict with torch.save, or {OWN_CODE}"),
    (lambda name: name.endswith(".weights.h5"), "a Keras model", f"convert it, or {OWN_CODE}")
)  # fmt: skip


def read_weight_file(path: Path) -> tuple[Any, bool]:
    """Return (contents of a `.safetensors` or `torch.save` file, whether the tensors are in network order).

    Raises BadFile for files that are missing, damaged, of another kind, or would run code.
    """
    path = path.expanduser()
    if path.is_dir():
        raise BadFile(f"{path} is a folder; name the file of weights in it, or use hub:DIR")
    if not path.is_file():
        raise BadFile(f"no file {path}")
    check_archive(path)
    head = _first_bytes(path)
    if _is_safetensors(head):
        return _safetensors(path), False  # sorted by name
    if other := _other_kind(path, head):
        raise BadFile(f"{path} is {other}")
    if not head.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle as until torch 1.5
        if path.suffix == ".safetensors":
            return _safetensors(path), False  # for the library's own error
        raise BadFile(f"{path} is no file of torch.save: it begins with {head[:16]!r}")
    if _allocates(path):
        raise BadFile(f"{path} asks for memory while it is read; save its state dict alone")
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(_plain_classes()),
            path.open("rb") as file,  # of a path torch would take the ending for the format
        ):
            content = torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) or "Unsupported" in str(error):
            raise BadFile(f"{path} {_more_than_tensors(str(error))}") from None
        raise BadFile(f"{path} is damaged: {first_line(error)}") from None
    except Exception as error:  # the unpickler raises of every kind
        raise BadFile(f"{path} is no whole file of torch.save: {first_line(error)}") from None
    check_content(content, path)
    return content, True


def describe_file(path: Path) -> str:
    """Tell by its contents what kind of model file this is, and what helps; '' for none known."""
    head = _first_bytes(path)
    if _is_safetensors(head):
        return "a safetensors file; use weights:FILE[arch=NETWORK]"
    if other := _other_kind(path, head, by_name=False):
        return other
    is_torch = head.startswith((b"PK", b"\x80"))
    return "a file of torch.save; use weights:FILE[arch=NETWORK]" if is_torch else ""


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_safetensors(head: bytes) -> bool:
    """Whether a length in eight bytes and then JSON follow."""
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**30


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("rstbench", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} is no whole safetensors file: {error}") from None
    if _TICKET.search(about):
        raise BadFile(f"{path} is a ticket of this tool; use ticket:FILE")
    check_content(tensors, path)
    return tensors


def _other_kind(path: Path, head: bytes, *, by_name: bool = True) -> str:
    """Tell what a file that torch.save did not write is, and what helps; by_name: its suffix counts."""
    if not head:
        return "empty; fetch or write it again"
    if by_name and path.suffix in _SUFFIXES:
        return "; ".join(_SUFFIXES[path.suffix])
    for signature, description in _SIGNATURES.items():
        if head.lstrip().startswith(signature):
            return "; ".join(description)
    if head.startswith(b"PK"):
        return _other_zip(path)
    try:
        return f"a tar archive; {UNPACK}" if tarfile.is_tarfile(path) else ""
    except (OSError, EOFError):
        return ""


def _other_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        size = path.stat().st_size
        return f"damaged: an archive without its end, after {size} bytes; fetch or write it again"
    for is_member, what, helps in _MEMBERS:
        if any(map(is_member, members)):
            return f"{what}; {helps}"
    if not any(f"/{name}".endswith("/data.pkl") for name in members):
        return f"a zip archive of {listed(members)}; {UNPACK}"
    return ""


def _allocates(path: Path) -> bool:
    """Whether a pickle names `bytearray`, which torch lets it call: with a number it takes as much memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] != b"PK":
            return content.find(_BYTES) >= 0
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_BYTES in archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
    except DAMAGE:
        return False  # what reads it says what is wrong


def _plain_classes() -> list[Any]:
    """Return the classes that training code stores beside tensors and that run no code when loaded."""
    scalar, rebuilt = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    return [
        argparse.Namespace, collections.defaultdict, list, dict, int, float, np.dtype, np.ndarray, *kinds,
        *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
          for function, name in ((scalar, "scalar"), (rebuilt, "_reconstruct")))
    ]  # fmt: skip


def _more_than_tensors(text: str) -> str:
    match = re.search(r"GLOBAL ([\w.]+)", text)
    what = f" ({match[1]})" if match else ""
    helps = "save its state dict alone (torch.save(model.state_dict(), …))"
    if match and match[1].startswith(("torch.ao", "torch._C.ScriptObject", "torch.jit")):
        what, helps = f", packed ones of a quantised network{what}", "save the float network's state dict"
    return f"holds more than tensors{what}, and loading it would run code; {helps}, or {OWN_CODE}"
