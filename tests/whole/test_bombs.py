"""Small files that ask for much memory: refused by what they declare, with little of it taken."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from rstbench.data import load
from rstbench.evidence.manifest import MANIFEST_FILE, Manifest
from rstbench.evidence.store import Store
from rstbench.models.wrapper import KindOfImages, load_reference
from rstbench.reports import published
from rstbench.study.reading import read_study
from rstbench.tickets.ticket import Ticket
from tests.fuzz.mutations import zipped
from tests.fuzz.sandbox import Outcome, attempt

LIE = 0xFFFFFFF0  # bytes that the list of an archive claims of one member, a little above the limit
KEY = "a" * 64


def claiming(content: bytes, size: int = LIE) -> bytes:
    """Return a zip archive whose list claims that its first member unpacks to `size` bytes."""
    place = content.index(b"PK\1\2") + 24
    return content[:place] + struct.pack("<L", size) + content[place + 4 :]


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_pickle(value) -> bytes:
    """Return a file of torch.save that holds a pickle of this value, and nothing else."""
    with zipfile.ZipFile(io.BytesIO(saved({}))) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    return zipped([(n, pickle.dumps(value, 2) if n.endswith("data.pkl") else c) for n, c in members])


class Memory:
    def __reduce__(self):
        return bytearray, (3 * 10**9,)


def shared(depth=40):
    """A dictionary that is met 2**40 times where it is walked as a tree."""
    value = {"w": torch.zeros(1)}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return value


def itself():
    value = {}
    value["a"] = value
    return value


def safetensors(header, data=b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def ticket(**changes) -> bytes:
    spec = {
        "name": "conv2",
        "shape": [1, 8, 8],
        "classes": 10,
        "width": 0.1,
        "norm": "batch",
        "last_norm": False,
    }
    about = {"format": "rstbench-ticket-1", "spec": {**spec, **changes}, "recipe": {}, "remaining": "0.1"}
    from rstbench.tickets.init import weights_digest

    text = json.dumps({**about, "content": weights_digest({"a": torch.zeros(1)})})
    return safetensors({"__metadata__": {"rstbench": text}, "a": entry([1], 0, 4)}, bytes(4))


def compressed(shape) -> bytes:
    parts = {
        "values": torch.zeros(1),
        "crow_indices": torch.tensor([0, 1]).int(),
        "col_indices": torch.tensor([0]),
    }
    return saved({f"w.{name}": part for name, part in parts.items()} | {"w.shape": torch.tensor(shape)})


def npz(header: str) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return zipped([("x.npy", array), ("y.npy", array)])


def png(width, height) -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def jpeg(width, height) -> bytes:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return (
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
        + frame
        + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
        + b"\xff\xd9"
    )


def bmp(width, height) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(head), 0, 0, 54) + head


def read_weights(path):
    load_reference(f"weights:{path}[arch=conv2]", KindOfImages(10, (1, 8, 8)))


def read_pack(path):
    store = Store(path.parent)
    return [store.read(key) for key in store.keys()]  # noqa: SIM118


def read_line(path):
    Store(path.parent.parent).read(KEY)


def read_picture(path):
    load(f"imagefolder:{path.parent.parent}")


def read_npz(path):
    load(f"npz:{path}")


LONG = b"x" * 10**8
LARGE, UNPACKS, MILLIONS = "takes .* more than", "what it unpacks to takes", "more than 89478485 pixels"
BOMBS = {
    "pack": ("results.zip", lambda: claiming(zipped([(f"{KEY}.jsonl", b"{}\n")])), read_pack, LARGE),
    "torch": ("w.pt", lambda: claiming(saved({"w": torch.zeros(4, 4)})), read_weights, UNPACKS),
    "one number for all": (
        "w.pt",
        lambda: saved({"w": torch.zeros(1).expand(10**5, 10**5)}),
        read_weights,
        "what its tensors hold takes 40GB",
    ),
    "bytearray": ("w.pt", lambda: with_pickle({"w": Memory()}), read_weights, "asks for memory"),
    "bare bytearray": ("w.pt", lambda: pickle.dumps({"w": Memory()}, 2), read_weights, "asks for memory"),
    "shared": ("w.pt", lambda: saved(shared()), read_weights, "more than 1000000 values"),
    "itself": ("w.pt", lambda: saved(itself()), read_weights, "nested deeper"),
    "compressed": ("w.pt", lambda: compressed([10**6, 10**6]), read_weights, "do not fit together"),
    "shape": (
        "w.safetensors",
        lambda: safetensors({"w": entry([10**9, 10**9], 0, 4)}, bytes(4)),
        read_weights,
        "no whole",
    ),
    "overlap": (
        "w.safetensors",
        lambda: safetensors({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(8)),
        read_weights,
        "no whole",
    ),
    "offsets": (
        "w.safetensors",
        lambda: safetensors({"a": entry([1], 10**18, 10**18 + 4)}, bytes(4)),
        read_weights,
        "no whole",
    ),
    "header": ("w.safetensors", lambda: (10**8).to_bytes(8, "little") + b'{"', read_weights, "no whole"),
    "wide ticket": (
        "t.safetensors",
        lambda: ticket(width=1e6),
        Ticket.load,
        "more than --max-file-size allows",
    ),
    "ticket of classes": ("t.safetensors", lambda: ticket(classes=10**15), Ticket.load, "allows"),
    "npz": (
        "a.npz",
        lambda: claiming(npz("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}")),
        read_npz,
        UNPACKS,
    ),
    "array": (
        "a.npz",
        lambda: npz("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        read_npz,
        "another size",
    ),
    "item": (
        "a.npz",
        lambda: npz("{'descr': '|V2000000000', 'fortran_order': False, 'shape': (9,)}"),
        read_npz,
        "another size",
    ),
    "program": (
        "n.pt2",
        lambda: claiming(zipped([("n/models/model.json", b"{}")])),
        lambda path: load_reference(f"torch-export:{path}"),
        UNPACKS,
    ),
    "png": ("d/a/1.png", lambda: png(40_000, 40_000), read_picture, MILLIONS),
    "jpeg": ("d/a/1.jpg", lambda: jpeg(65_500, 65_500), read_picture, MILLIONS),
    "bmp": ("d/a/1.bmp", lambda: bmp(10**6, 10**6), read_picture, MILLIONS),
    "postscript": (
        "d/a/1.png",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        read_picture,
        "cannot be read",
    ),
    "toml": (
        "s.toml",
        lambda: b"a = " + b"[" * 10_000 + b"]" * 10_000,
        lambda path: read_study(str(path)),
        "nested deeper",
    ),
    "dotted": (
        "s.toml",
        lambda: b"a" + b".a" * 10_000 + b" = 1",
        lambda path: read_study(str(path)),
        "nested deeper",
    ),
    "manifest": (
        MANIFEST_FILE,
        lambda: b"a = " + b"[" * 10_000,
        lambda path: Manifest.load(path.parent),
        "nested deeper",
    ),
    "json": ("cifar10/Linf/a.json", lambda: b"[" * 10**5, published.gather, "nested deeper"),
    "digits": (
        "cifar10/Linf/a.json",
        lambda: b'{"a": ' + b"9" * 10**5 + b"}",
        published.gather,
        "is no JSON",
    ),
    "csv": ("a.csv", lambda: LONG, published.gather, LARGE),
    "line": (f"results/{KEY}.jsonl", lambda: b"[" * 10**5 + b"\n", read_line, "nested deeper"),
    "long line": (f"results/{KEY}.jsonl", lambda: LONG, read_line, LARGE),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_memory_is_taken(name, tmp_path):
    file, make, read, message = BOMBS[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make())
    outcome, told = Outcome(), []

    def run(path, folder):
        try:
            read(path)
        except Exception as error:
            told.append(str(error))
            raise

    assert attempt(run, path, tmp_path, outcome) == ""
    assert outcome.refused == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(told[0])


def test_the_option_allows_more_or_less(tmp_path, cli):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 10)
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "w.pt")
    asked = ["evaluate", "torchvision:resnet18", "--data", "npz:a.npz", "--threat", "Linf:0.1"]
    asked += ["--max-file-size"]
    done = cli(*asked, "2kB")
    assert done.returncode == 2
    assert done.stderr == (
        "rstbench: a.npz: what it unpacks to takes 3.2kB, more than the 2kB that may be read; if it is to be "
        "trusted, add --max-file-size 3.2kB\n"
    )
    assert "a size reads 4GB" in cli(*asked, "much").stderr
    refused = cli(*asked[:1], "weights:w.pt[arch=conv2]", *asked[2:], "4kB")
    assert "the file lacks" in refused.stderr  # read, and found to be another network
