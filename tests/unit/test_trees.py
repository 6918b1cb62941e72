"""Data sets whose real files are not at hand, on small files written in the published layout."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR100, SVHN, ImageFolder

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest

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
    (folder / "train" / "n01" / "images" / "._n01_0.JPEG").write_bytes(b"of a Mac")
    assert len(load("tiny-imagenet:train", tmp_path)) == 2


def test_grey_tiny_imagenet_stays_rgb(tmp_path):
    """Its grey files are a part of the set."""
    folder = tmp_path / "tiny-imagenet-200" / "train" / "n01" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "tiny-imagenet-200" / "wnids.txt").write_text("n01\n")
    Image.new("L", (5, 4), 90).save(folder / "n01_0.JPEG")
    found = load("tiny-imagenet:train", tmp_path)
    assert (found.shape, found.notes) == ((3, 4, 5), ())


def tree(top, *names):
    """A picture for each 'class/file' name."""
    for place, name in enumerate(names):
        picture(top / name, (90, 100 + place, 110))
    return f"imagefolder:{top}"


def test_order_and_digest_are_those_of_torchvision(tmp_path):
    """Nested files, links and endings too; shuffled, and hashed, by hand."""
    names = ["bee/2.png", "bee/b/0.png", "bee/b-c/1.PNG", "bee/a.TIFF", "ant/x.bmp", "cat/y.ppm"]
    text = tree(tmp_path / "test", *names)
    tree(tmp_path / "elsewhere", "z.png")
    (tmp_path / "test" / "dog").symlink_to(tmp_path / "elsewhere")
    found = load(text.removesuffix("/test"))
    theirs = ImageFolder(str(tmp_path / "test"))
    order = np.random.RandomState(0).permutation(len(theirs))
    pixels = np.stack([np.asarray(theirs[place][0]).transpose(2, 0, 1) for place in order])
    labels = np.array([theirs.targets[place] for place in order])
    assert found.pixels.numpy().tolist() == pixels.tolist()
    assert found.labels.tolist() == labels.tolist()
    digest = hashlib.sha256(f"torch.uint8{pixels.shape}".encode() + pixels.tobytes() + labels.tobytes())
    assert found.digest == digest.hexdigest()
    assert (found.classes, found.notes) == (4, ())


def test_what_is_hidden_is_no_data(tmp_path):
    names = ["ant/0.png", "bee/0.png"]
    plain = load(tree(tmp_path / "plain" / "test", *names).removesuffix("/test"))
    left = [".ipynb_checkpoints/0.png", "__MACOSX/ant/._0.png", "@eaDir/0.png", "ant/._0.png", "loose.png"]
    text = tree(tmp_path / "test", *names, *left, "ant/@eaDir/0.png")
    (tmp_path / "test" / "ant" / "Thumbs.db").write_text("")
    (tmp_path / "test" / "ant" / "notes.txt").write_text("")
    (tmp_path / "test" / ".empty\x1b\n").mkdir()
    found = load(text.removesuffix("/test"))
    assert (found.digest, found.classes) == (plain.digest, 2)
    assert found.notes == (
        "skipped 5 hidden folders ('.empty\\x1b\\n', .ipynb_checkpoints, @eaDir, …), 1 file outside the "
        "class folders (loose.png), 2 hidden files (._0.png, Thumbs.db), 1 other file (notes.txt)",
    )


def test_a_class_without_images_is_refused_with_its_name(tmp_path):
    """As by torchvision; it would be a class nobody shows, and shift the labels after it."""
    text = tree(tmp_path, "ant/0.png", "cat/0.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "film.gif").write_bytes(b"GIF")
    with pytest.raises(BadFile, match=r"no images in the class folder .*bee .*remove it"):
        load(text)
    (tmp_path / "bee" / "film.gif").unlink()
    (tmp_path / "bee").rmdir()
    (tmp_path / "bee").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadFile, match="bee is a broken link"):
        load(text)


def test_labels_go_by_the_training_classes(tmp_path):
    text = tree(tmp_path, "train/ant/0.png", "train/bee/0.png", "train/cat/0.png", "test/cat/0.png")
    for named in (f"{text}:test", f"{text}/test"):
        found = load(named)
        assert (found.labels.tolist(), found.classes) == ([2], 3)
        assert found.notes == ("no image of ant, bee",)
    tree(tmp_path, "test/dog/0.png")
    with pytest.raises(BadFile, match=r"test has the class dog, .*train has not"):
        load(text)


def test_numbered_classes_in_text_order_are_noted(tmp_path):
    text = tree(tmp_path, *(f"{number}/0.png" for number in range(11)))
    assert load(text).notes == ("classes in text order: 2 is folder 10",)
    assert load(tree(tmp_path / "few", "0/0.png", "1/0.png")).notes == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/ant/0.png", "train/bee/0.png"], "train is no class but a split; write imagefolder:"),
        (["training/ant/0.png", "Testing/ant/0.png"], "Testing is no class but a split"),
        (["train/ant/0.png", "validation/ant/0.png"], r"write imagefolder:\S+/validation"),
        (
            ["images/ant/0.png", "images/bee/0.png"],
            r"one class folder, images, .*name imagefolder:\S+/images",
        ),
        (["test/0.png", "train/ant/0.png"], "no class folders in"),
        (["0.png"], "no class folders in"),
    ],
)
def test_folders_that_are_no_classes(tmp_path, names, message):
    with pytest.raises(BadFile, match=message):
        load(tree(tmp_path, *names))


def test_a_class_may_be_called_train(tmp_path):
    """As in CIFAR-100 and Pascal VOC."""
    assert load(tree(tmp_path, "bus/0.png", "train/0.png")).classes == 2


def test_links_round_in_a_circle_are_refused(tmp_path):
    text = tree(tmp_path / "test", "ant/0.png")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "back").symlink_to(tmp_path / "test" / "ant")
    (tmp_path / "test" / "ant" / "on").symlink_to(tmp_path / "away")
    with pytest.raises(BadFile, match="on/back links to a folder above it"):
        load(text)


def test_all_splits_are_grey_or_none(tmp_path):
    text = tree(tmp_path, "train/ant/0.png")
    for split in ("test", "train"):
        (tmp_path / split / "ant").mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), 90).save(tmp_path / split / "ant" / "1.png")
    found = load(text)
    assert found.shape == (3, 4, 5)
    assert found.notes[0].startswith("grey files read as RGB, for ")
    (tmp_path / "train" / "ant" / "0.png").unlink()
    assert load(text).shape == load(f"{text}:train").shape == (1, 4, 5)


def test_a_folder_is_wanted():
    with pytest.raises(BadRequest, match="imagefolder:DIR"):
        load("imagefolder")
