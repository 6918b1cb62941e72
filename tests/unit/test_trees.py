"""Data sets whose real files are not at hand, on small files written in the published layout."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR100, SVHN

from rstbench.data import load
from rstbench.errors import BadFile

RANDOM = np.random.RandomState(0)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar100(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = RANDOM.randint(0, 256, (6, 3072)).astype(np.uint8)
    content = {"data": rows, "fine_labels": [0, 5, 99, 3, 3, 1], "coarse_labels": [0] * 6}
    (folder / "test").write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(CIFAR100, "train_list", [])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(folder / "meta")})
    found = load("cifar100:test", tmp_path)
    assert found.pixels.flatten(1).numpy().tolist() == rows.tolist()
    assert (found.labels.tolist(), found.classes) == ([0, 5, 99, 3, 3, 1], 100)
    (folder / "test").write_bytes(pickle.dumps({**content, "fine_labels": [0] * 6}))
    with pytest.raises(BadFile, match="another md5 sum"):
        load("cifar100:test", tmp_path)


def test_svhn(tmp_path, monkeypatch):
    pixels = RANDOM.randint(0, 256, (32, 32, 3, 4)).astype(np.uint8)
    # Labels are 1 to 10 in the file; 10 stands for the digit 0.
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [9], [2]])})
    url, name, _ = SVHN.split_list["test"]
    monkeypatch.setitem(SVHN.split_list, "test", [url, name, md5(tmp_path / "test_32x32.mat")])
    found = load("svhn:test", tmp_path)
    assert found.labels.tolist() == [1, 0, 9, 2]
    assert found.pixels[3, :, 5, 7].tolist() == pixels[5, 7, :, 3].tolist()


@pytest.mark.parametrize("name", ["cifar100", "svhn", "fashionmnist", "tiny-imagenet"])
def test_what_is_missing_names_the_variable(tmp_path, name):
    with pytest.raises(BadFile, match="RSTBENCH_DATA"):
        load(f"{name}:test", tmp_path)


def picture(path, colour, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_imagefolder(tmp_path):
    for place, name in enumerate(["ant", "bee", "cat"]):
        for index in range(4):
            picture(tmp_path / "test" / name / f"{index}.png", (place, index, 0))
    found = load(f"imagefolder:{tmp_path}:test")
    assert found.shape == (3, 4, 5)
    assert found.classes == 3
    # Each picture carries its class and number; a fixed shuffle mixes the classes.
    assert found.pixels[:, 0, 0, 0].tolist() == found.labels.tolist()
    assert sorted(found.pixels[:, 1, 0, 0].tolist()) == sorted([0, 1, 2, 3] * 3)
    assert found.labels.tolist() != sorted(found.labels.tolist())
    assert load(f"imagefolder:{tmp_path}:test").digest == found.digest
    picture(tmp_path / "test" / "ant" / "9.png", (0, 0, 0), size=(9, 9))
    with pytest.raises(BadFile, match="resize them first"):
        load(f"imagefolder:{tmp_path}:test")
    (tmp_path / "test" / "ant" / "9.png").write_bytes(b"no picture")
    with pytest.raises(BadFile, match=r"9\.png cannot be read"):
        load(f"imagefolder:{tmp_path}:test")
    with pytest.raises(BadFile, match="no folder"):
        load(f"imagefolder:{tmp_path}:train")


def test_tiny_imagenet(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
    )
    for index in range(2):
        picture(folder / "val" / "images" / f"val_{index}.JPEG", (200 * index, 0, 0))
    for name in ("n01", "n02"):
        picture(folder / "train" / name / "images" / f"{name}_0.JPEG", (0, 0, 0))
    found = load("tiny-imagenet:test", tmp_path)
    red = [int(image[0, 0, 0]) > 100 for image in found.pixels]
    assert red == [label == 0 for label in found.labels.tolist()]
    assert len(load("tiny-imagenet:train", tmp_path)) == 2
    assert found.classes == 2
