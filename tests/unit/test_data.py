"""Image sources: order, range, digests, and what they refuse."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from rstbench.data import download, load, training_images
from rstbench.errors import BadFile, BadRequest
from rstbench.references import DataReference


def test_digits_are_split_once():
    parts = [load(f"digits:{split}") for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [1200, 147, 450]
    from sklearn.datasets import load_digits

    rows = torch.cat([part.pixels for part in parts]).flatten(1)
    real = torch.from_numpy(load_digits().images / 16).float().flatten(1)
    # The same 1,797 images, each in one split.
    assert sorted(rows.tolist()) == sorted(real.tolist())
    assert parts[0].classes == 10
    assert len({part.digest for part in parts}) == 3


def test_the_first_images_are_of_one_data_set():
    few, more = load("digits:test:20"), load("digits:test:100")
    assert few.digest == more.digest
    assert few.name == more.name == "digits:test"
    assert few.pixels.equal(more.pixels[:20])


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("digits", DataReference("digits")),
        ("cifar10:train:50", DataReference("cifar10", split="train", count=50)),
        ("npz:C:/a.npz:test:7", DataReference("npz", "C:/a.npz", "test", 7)),
        ("npz:a.npz", DataReference("npz", "a.npz")),
    ],
)
def test_grammar(text, parsed):
    assert DataReference.parse(text) == parsed
    assert str(parsed) == text


def test_all_of_another_split():
    few = DataReference.parse("npz:a.npz:test:7")
    assert str(few.all_of("train")) == "npz:a.npz:train"
    assert str(few.all_of("")) == "npz:a.npz"
    assert load(DataReference("digits", count=20)).name == "digits:test"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digitz", "did you mean 'digits'"),
        ("digits:test:0", "empty"),
        ("digits:test:9999", "450 images"),
        ("digits:tset", "tset"),
        ("npz:nowhere.npz", "no file nowhere.npz"),
    ],
)
def test_wrong_requests(text, message):
    with pytest.raises(BadRequest, match=message):
        load(text)


def test_learning_takes_training_images():
    train, own = training_images("digits")
    assert train.name == "digits:train"
    assert own.name == "digits:validation"
    with pytest.raises(BadRequest, match="training images"):
        training_images("digits:test")


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_reads_bytes_and_fractions(tmp_path):
    grey = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    as_bytes = load(write_npz(tmp_path / "a.npz", x=grey, y=np.array([0, 2])))
    x, y = as_bytes.at(slice(None))
    assert x.shape == (2, 1, 4, 4)
    assert float(x.max()) == pytest.approx(31 / 255)
    assert y.tolist() == [0, 2]
    assert (as_bytes.classes, as_bytes.classes_known) == (3, False)
    split = load(write_npz(tmp_path / "b.npz", x_test=grey[:, None] / 255.0, y_test=np.array([1, 1])))
    assert split.pixels.dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((0, 1, 2, 2), np.uint8), "y": np.zeros(0, int)}, "empty"),
        ({"x": np.zeros((2, 1, 2, 2)), "y": np.zeros(3, int)}, "wanted images"),
        ({"x": np.full((1, 1, 2, 2), 7.0), "y": np.zeros(1, int)}, "normalisation belongs into the model"),
        ({"x": np.full((1, 1, 2, 2), np.nan), "y": np.zeros(1, int)}, "pixels"),
        ({"x": np.zeros((1, 1, 2, 2)), "y": np.zeros(1, float)}, "whole numbers"),
        ({"x": np.zeros((1, 1, 2, 2)), "y": np.full(1, -1)}, "whole numbers"),
        ({"images": np.zeros((1, 1, 2, 2))}, "it holds images"),
    ],
)
def test_npz_that_are_refused(tmp_path, arrays, message):
    with pytest.raises(BadRequest, match=message):
        load(write_npz(tmp_path / "a.npz", **arrays))


def test_npz_that_is_no_archive(tmp_path):
    for name, content in (
        ("cut", b"PK\x03\x04 cut off"),
        ("text", b"hello"),
        ("pickle", b"\x80\x04."),
        ("none", b""),
    ):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(BadFile, match="no readable numpy archive but another format") as refused:
            load(f"npz:{path}")
        assert "pickle" not in str(refused.value).removeprefix(str(path))
    whole = write_npz(tmp_path / "whole.npz", x=np.zeros((2, 1, 4, 4)), y=np.arange(2)).removeprefix("npz:")
    cut = tmp_path / "half.npz"
    cut.write_bytes(Path(whole).read_bytes()[:-30])
    with pytest.raises(BadFile, match="or cut short"):
        load(f"npz:{cut}")


def test_a_single_array_is_no_archive(tmp_path):
    for name, array in (("x.npy", np.zeros((2, 1, 4, 4))), ("named.npz", np.arange(3))):
        with (tmp_path / name).open("wb") as file:
            np.save(file, array)
        with pytest.raises(BadFile, match=r"a single array \(\.npy\); write one by np\.savez"):
            load(f"npz:{tmp_path / name}")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def test_mnist_is_read_gzipped_or_not_without_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "resources", [])
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.RandomState(0).randint(0, 256, (3, 28, 28)).astype(np.uint8)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([1, 2, 3], np.uint8))))
    found = load("mnist:test", tmp_path)
    assert found.pixels[:, 0].numpy().tolist() == images.tolist()
    assert found.labels.tolist() == [1, 2, 3]
    assert len(list(folder.iterdir())) == 2
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images)[:-1])
    with pytest.raises(BadFile, match="no whole IDX file"):
        load("mnist:test", tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"junk")
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    with pytest.raises(BadFile, match="cannot be read"):
        load("mnist:test", tmp_path)


def test_a_packed_file_with_another_sum_is_refused(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((1, 28, 28), np.uint8))))
    with pytest.raises(BadFile, match="another md5 sum than the published file"):
        load("fashionmnist:test", tmp_path)


def test_download_fetches_once_and_checks(tmp_path, monkeypatch):
    """torchvision's own download, from a server on this machine."""
    source = tmp_path / "published" / "cifar-10-batches-py"
    source.mkdir(parents=True)
    rows = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}
    (source / "test_batch").write_bytes(pickle.dumps(rows))
    (source / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in source.iterdir()}
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    packed = hashlib.md5((tmp_path / "cifar.tar.gz").read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "filename", "cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", packed)
    for split in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, split, [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    root = tmp_path / "root"
    root.mkdir()
    download(map(DataReference, ["cifar10", "digits"]), root)
    assert load("cifar10:test", root).labels.tolist() == [1, 2]
    server.shutdown()
    server.server_close()
    download([DataReference("cifar10")], root)  # all there: nothing is fetched
    with pytest.raises(BadFile, match="cifar10 cannot be downloaded to"):
        download([DataReference("cifar10")], tmp_path / "other")
    with pytest.raises(BadFile, match=r"tiny-imagenet.*; downloads are known of mnist, .*, svhn only$"):
        download([DataReference("tiny-imagenet")], root)
    download([DataReference("npz", "missing.npz")], root)  # the user's own file


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_name_the_variable(tmp_path, name):
    with pytest.raises(BadFile, match="RSTBENCH_DATA"):
        load(f"{name}:test", tmp_path)


def test_damaged_cifar(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"junk")
    with pytest.raises(BadFile, match="md5"):
        load("cifar10:test", tmp_path)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_real_files(data_root, name, shape):
    found = load(f"{name}:test:1000", data_root)
    assert found.shape == shape
    assert len(found) == 1000
    assert found.classes == 10
    x, y = found.at(slice(0, 10))
    assert 0 <= float(x.min()) < 0.1 < 0.9 < float(x.max()) <= 1
    # The published order of the test sets begins so.
    first = {"mnist": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "cifar10": [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]}
    assert y.tolist() == first[name]
