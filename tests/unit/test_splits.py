"""Splits of image trees under every name: labels and pixels are those of torchvision, or it is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from rstbench.data import load
from rstbench.data.splits import split_name
from rstbench.errors import BadFile


def tree(top, *names):
    """A picture of its own for each 'folder/file' name; folders end with '/'."""
    for place, name in enumerate(names):
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (90, 100 + place, 7 * place)).save(path.with_suffix(".png"))
    return f"imagefolder:{top}"


def classes(folder, names):
    return [f"{folder}/{name}/0" for name in names]


def shown(x, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, labels, strict=True))


def of_torchvision(measured, learnt):
    """Its pixels of one folder, labelled by the classes that it finds in the other."""
    data, by_name = ImageFolder(str(measured)), ImageFolder(str(learnt)).class_to_idx
    pixels = [np.asarray(image).transpose(2, 0, 1) for image, _ in data]
    return shown(pixels, [by_name[data.classes[target]] for target in data.targets]), len(by_name)


def ours(text):
    found = load(text)
    return shown(found.pixels.numpy(), found.labels), found.classes


@pytest.mark.parametrize(
    ("learnt", "measured", "name"),
    [
        ("train", "valid", "valid"),
        ("Training", "Testing", "Testing"),
        ("train", "Test", "Test"),
        ("Train", "test", ""),
        ("TRAIN", "val", ""),
        ("training_set", "test_set", "test_set"),
        ("TrainSet", "TestSet", "TestSet"),
        ("x_train", "x_test", "x_test"),
        ("train2017", "val2017", "val2017"),
        ("train", "holdout", "holdout"),
        ("train", "ours", "ours"),
        ("val", "test", ""),
        ("validation", "test", "test"),
        ("fold1", "fold2", "fold2"),
        ("seg_train/seg_train", "seg_test/seg_test", "seg_test/seg_test"),
        ("train/images", "test/images", "test/images"),
        ("train/images", "test", ""),
        ("train", "test/test", "test/test"),
    ],
)
def test_a_class_without_test_images_shifts_no_label(tmp_path, learnt, measured, name):
    """`ant, bee, cat` learnt, `ant, cat` measured: the label of cat is 2 under every name."""
    text = tree(tmp_path, *classes(learnt, ["ant", "bee", "cat"]), *classes(measured, ["ant", "cat"]))
    named_so = f"{text}/{name}" if name else text
    assert ours(named_so) == of_torchvision(tmp_path / measured, tmp_path / learnt)
    assert "no image of bee" in load(named_so).notes


def test_one_of_several_kinds_of_test_images(tmp_path):
    text = tree(
        tmp_path, *classes("Train", "abc"), *classes("Test/clean", "ac"), *classes("Test/noisy/3", "bc")
    )
    for kind in ("clean", "noisy/3"):
        wanted = of_torchvision(tmp_path / "Test" / kind, tmp_path / "Train")
        assert ours(f"{text}/Test/{kind}") == wanted
    tree(tmp_path, "Test/odd/a/0", "Test/odd/d/0")
    with pytest.raises(BadFile, match=r"odd has the class d, .*Train has not"):
        load(f"{text}/Test/odd")


def test_links_and_relative_names_lead_to_the_same_labels(tmp_path, monkeypatch):
    tree(tmp_path / "data", *classes("Train", "abc"), *classes("Test", "ac"))
    (tmp_path / "mine").symlink_to(tmp_path / "data" / "Test")
    wanted = of_torchvision(tmp_path / "data" / "Test", tmp_path / "data" / "Train")
    assert ours(f"imagefolder:{tmp_path / 'mine'}") == wanted
    monkeypatch.chdir(tmp_path / "data" / "Test")
    assert ours("imagefolder:.") == wanted
    os.chdir("..")
    assert ours("imagefolder:Test") == wanted


def test_class_folders_beside_a_test_folder(tmp_path):
    text = tree(tmp_path, "ant/0", "bee/0", "cat/0", "test/ant/1", "test/cat/1")
    assert sorted(load(text).labels.tolist()) == [0, 2]


def test_stray_images_in_the_training_folder_shift_no_label(tmp_path):
    text = tree(tmp_path, *classes("train", "abc"), "train/stray", *classes("test", "ac"))
    assert ours(text) == of_torchvision(tmp_path / "test", tmp_path / "train")


@pytest.mark.parametrize("broken", ["train", "train/bee"])
def test_broken_links_among_the_training_images_are_refused(tmp_path, broken):
    text = tree(tmp_path, *classes("test", ["ant", "cat"]), *([] if broken == "train" else ["train/ant/0"]))
    (tmp_path / broken).symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadFile, match=r"cannot be read|is a broken link"):
        load(text)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # Each of several folders has the classes.
        ([*classes("fold1", "ab"), *classes("fold2", "ab")], "fold1, fold2 in .* the same folders, a, b"),
        ([*classes("fold1", "ab"), *classes("fold2", "bc")], "name one part, imagefolder:.*fold1"),
        ([*classes("amazon/images", "ab"), *classes("dslr/images", "ab")], "amazon, dslr in"),
        ([*classes("images", "ab"), *classes("masks", "ab")], "images, masks in"),
        # Splits by name.
        (
            [*classes("seg_train/seg_train", "ab"), *classes("seg_test/seg_test", "ab")],
            "seg_test/seg_test for",
        ),
        ([*classes("training_set", "ab"), *classes("test_set", "ab")], "test_set is no class but a split"),
        ([*classes("x_train", "ab"), *classes("x_test", "a")], "x_test is no class but a split"),
        ([*classes("training_set", "ab"), "test_set/0"], "training_set is no class but a split"),
        (["training_set/0", "test_set/0"], "test_set, training_set are splits"),
        ([*classes("test/train", "ab"), *classes("test/val", "ab")], "val is no class but a split"),
        # Splits in the classes, or one folder further down.
        (["a/train/0", "a/test/0", "b/train/0", "b/test/0"], r"a has splits in it \(test, train\)"),
        ([*classes("data/train", "ab"), *classes("data/test", "ab")], r"name imagefolder:\S+/data$"),
        (
            [*classes("train/images", "abc"), *classes("test/images", "ac")],
            r"name imagefolder:\S+/test/images",
        ),
        # Test images without labels.
        ([*classes("train", "ab"), *classes("valid", "ab"), "test/0"], r"imagefolder:\S+/valid has some"),
        ([*classes("train", "ab"), *classes("val", "ab"), "test/"], r"imagefolder:\S+/val has some"),
        (
            [*classes("train", "ab"), *classes("val", "ab"), "test/unknown/0"],
            r"imagefolder:\S+/val has none such",
        ),
        ([*classes("val", "ab"), "test/unknown/0"], r"imagefolder:\S+/val has none such"),
        (["train/0", "val/0", "test/0"], "no class folders in"),
        # Classes that do not agree.
        ([*classes("val", "ab"), *classes("test", "bc")], "their labels would not agree"),
        (["train/a/0", "test/b/0"], "their labels would not agree"),
        ([*classes("train", "ab"), *classes("Training", "bc"), "test/b/0"], "differ in the class a"),
        ([*classes("train", "ac"), "train/b/", *classes("test", "ac")], "no images in the class folder .*b"),
        (["train/images/0", "train/labels/", "test/images/0", "test/labels/"], "no images in .*train/labels"),
    ],
)
def test_splits_are_no_classes(tmp_path, names, message):
    with pytest.raises(BadFile, match=message):
        load(tree(tmp_path, *names))


@pytest.mark.parametrize(
    "names",
    [
        ["a/images/0", "b/images/0"],  # as in Tiny ImageNet
        ["a/s1/0", "a/s2/0", "b/s3/0", "b/s4/0"],
        ["a/0", "a/s1/1", "b/0", "b/s1/1"],
        ["bullet_train/0", "steam_train/0"],
        ["crash_test/0", "drive/0"],
        ["bus/0", "train/0", "valid/0"],
        ["real/0", "test/0"],
        ["bus/0", "test/0", "train/0"],
        ["bus/0", "val/0"],
    ],
)
def test_classes_are_no_splits(tmp_path, names):
    text = tree(tmp_path, *names)
    assert ours(text) == of_torchvision(tmp_path, tmp_path)
    name = next((n for n in ("test", "val") if f"{n}/0" in names), None)
    assert any(note.startswith(f"{name} is read as a class") for note in load(text).notes) == bool(name)


def test_sessions_of_a_class_in_a_test_folder(tmp_path):
    """The tree says what the classes are: by DIR/test with a note, by the training folder without."""
    text = tree(tmp_path, "test/a/s1/0", "test/a/s2/0", "test/b/s1/0", "test/b/s2/0")
    assert ours(text) == of_torchvision(tmp_path / "test", tmp_path / "test")
    assert load(text).notes == ("a, b are the classes, not s1, s2 in them",)
    tree(tmp_path, *classes("train", "abc"))
    assert ours(text) == of_torchvision(tmp_path / "test", tmp_path / "train")


def test_unlabelled_images_beside_leave_the_validation_images_alone(tmp_path):
    text = tree(tmp_path, *classes("val", "ab"), "test/unknown/0")
    assert ours(f"{text}/val") == of_torchvision(tmp_path / "val", tmp_path / "val")
    assert load(tree(tmp_path / "other", *classes("val", "ab"))).notes == (
        "no folder test: the images of val",
    )


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["1", "2", "3"], "classes by place: 0 is folder 1"),
        (["0", "2"], "classes by place: 1 is folder 2"),
        ([f"class_{i}" for i in range(11)], "classes in text order: 2 is folder class_10"),
        (["0", "1", "2"], None),
        (["a1", "b10"], None),
    ],
)
def test_numbers_that_are_no_labels_are_noted(tmp_path, names, note):
    text = tree(tmp_path, *(f"{name}/0" for name in names))
    assert ours(text) == of_torchvision(tmp_path, tmp_path)
    assert load(text).notes == ((note,) if note else ())


def test_all_splits_are_grey_or_none_under_any_name(tmp_path):
    text = tree(tmp_path, *classes("Train", "ab"))
    (tmp_path / "Valid" / "a").mkdir(parents=True)
    Image.new("L", (5, 4), 90).save(tmp_path / "Valid" / "a" / "0.png")
    assert load(f"{text}/Valid").shape == (3, 4, 5)


def test_a_split_of_another_name_is_said(tmp_path):
    text = tree(tmp_path, *classes("Train", "ab"), *classes("dev", "ab"))
    for split, name in (("train", "Train"), ("validation", "dev")):
        with pytest.raises(BadFile, match=rf"rename \S+/{name}"):
            load(f"{text}:{split}")


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("seg_train", "train", ("seg",)),
        ("Training Set", "train", ()),
        ("testData", "test", ()),
        ("val2017", "validation", ()),
        ("train_test", "", ("train", "test")),
        ("trainer", "", ("trainer",)),
        ("contest", "", ("contest",)),
    ],
)
def test_names_of_splits(name, split, rest):
    assert split_name(name) == (split, rest)
