"""Sizes, numbers and texts from anywhere: how much is read, and what is refused before it is."""

from __future__ import annotations

import gzip
import os
import zipfile
from fractions import Fraction

import numpy as np
import pytest

from rstbench.archives import check_arrays, gunzip
from rstbench.attacks import AttackSpec
from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.fields import is_of
from rstbench.limits import (
    DEFAULT,
    check_size,
    file_size_limit,
    max_file_size,
    parse_size,
    read_bytes,
    read_text,
)
from rstbench.networks.network import NetworkSpec, build
from rstbench.networks.normalise import parse_normalisation
from rstbench.parsing import DEEPEST, exact_number, parse_json, parse_toml
from rstbench.references import DataReference, Reference
from rstbench.threat import Threat
from rstbench.tickets.mask import parse_remaining
from rstbench.training.recipe import Recipe, recipe_for


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("1.5 kB", 1500), ("2GiB", 2**31), ("12", 12), (12, 12), ("3mb", 3 * 10**6)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4 G B", "-1", "0", "1e9", "4XB", "٣GB", "9" * 30, True, "0.1B"])
def test_what_is_no_size(text):
    with pytest.raises(BadRequest, match="a size reads 4GB, 500MB"):
        parse_size(text)


def test_the_limit_holds_within_its_block(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2000)
    assert read_bytes(path) == path.read_bytes()
    with (
        file_size_limit("1kB"),
        pytest.raises(BadFile, match=r"takes 2kB, more than the 1kB .*add --max-file-size 2kB"),
    ):
        read_bytes(path)
    with file_size_limit("100kB"), pytest.raises(BadFile, match="add --max-file-size 128kB"):
        read_text(path)  # parsed it takes more
    with file_size_limit("128kB"):
        assert read_text(path) == "x" * 2000
    assert max_file_size() == DEFAULT


def test_what_is_asked_for_is_enough(tmp_path):
    """The size that the message names is one with which the file is read."""
    for size in (2, 999, 1001, 123_456_789, 5 * 10**9 + 1):
        with file_size_limit(size - 1), pytest.raises(BadFile) as told:
            check_size(tmp_path, size)
        assert parse_size(str(told.value).rpartition(" ")[2]) >= size


def test_devices_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(BadFile, match="no ordinary file"):
            read_bytes(tmp_path / name)


def test_a_gzip_file_is_read_up_to_the_limit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    assert len(gunzip(path)) == 3_000_000
    with file_size_limit("1MB"), pytest.raises(BadFile, match="what it unpacks to takes"):
        gunzip(path)


def test_arrays_have_the_size_that_they_declare(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32), text=np.array("nchw"), empty=np.zeros((0, 5)))
    check_arrays(path)
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4)}".ljust(118)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00\x76\x00" + text)
    with pytest.raises(BadFile, match=r"declares float32 \(9, 4\), and has another size"):
        check_arrays(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8/255", Fraction(8, 255)),
        (" 0.5 ", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("+.5", Fraction(1, 2)),
    ],
)
def test_numbers_are_exact(text, number):
    assert exact_number(text) == number


@pytest.mark.parametrize(
    "text", ["1e999999999", "1e-999999999", "1/0", "٣", "", ".", "nan", "inf", "9" * 5000, "1_"]
)
def test_numbers_that_are_none(text):
    """Of the first two Python would compute the power, for hours."""
    with pytest.raises(ValueError):  # noqa: PT011
        exact_number(text)
    for read in (
        lambda: Threat.parse(f"L2:{text}"),
        lambda: AttackSpec.parse(f"pgd:step={text}"),
        lambda: parse_remaining(text),
        lambda: Recipe(drops=text),
    ):
        with pytest.raises(BadRequest):
            read()


def test_a_number_of_images_has_few_digits():
    with pytest.raises(BadRequest, match="no data set has so many"):
        DataReference.parse("digits:test:" + "9" * 5000)
    assert DataReference.parse("digits:test:007").count == 7


def test_options_are_few():
    """Each was tried as a path with all that follow it, which took minutes for some thousand."""
    with pytest.raises(BadRequest, match="a reference has up to 100 options, got 5000"):
        Reference.parse(f"file:a.py:net[{','.join(f'a{n}=1' for n in range(5000))}]")


def test_json_and_toml_that_are_too_much():
    deep = "[" * DEEPEST * 2 + "]" * DEEPEST * 2
    for text in (deep, "[" * 100_000, '"\\ud800"', "9" * 30, "9" * 100_000, b'"\xed\xa0\x80"'):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(text)
    for text in (
        f"a = {deep}",
        "a = " + "[" * 10_000,
        ".".join("a" * 10_000) + " = 1",
        "a = " + "9" * 30,
        "a = " + "9" * 10**5,
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_toml(text)
    assert parse_json('{"a": [1, 2.5, "\\u00e9"]}') == {"a": [1, 2.5, "é"]}
    assert parse_toml("a = [[1]]") == {"a": [[1]]}


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (float("nan"), float, False),
        (10**400, float, False),
        (2**63, int, False),
        ("a", str, True),
        (None, int | None, True),
        ([1], tuple[int, ...], True),
        (["a", 1], list[str], False),
        ({"a": {"b": "c"}}, dict[str, dict[str, str]], True),
        ({"a": 1}, dict[str, str], False),
    ],
)
def test_values_of_files_have_the_declared_types(value, hint, fits):
    assert is_of(value, hint) == fits


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 1e9},
        {"width": float("inf")},
        {"classes": 10**12},
        {"shape": (3, 10**6, 10**6)},
        {"shape": (0, 8, 8)},
    ],
)
def test_networks_that_no_machine_holds(changes):
    with pytest.raises(BadRequest):
        build(NetworkSpec(**{"name": "conv2", "shape": (1, 8, 8), "classes": 10, **changes}))


def test_settings_that_are_none():
    with pytest.raises(BadRequest, match="no setting named 'widht'; did you mean 'width'"):
        recipe_for({"widht": 1.0})
    with pytest.raises(BadRequest, match="width wants a float"):
        recipe_for({"width": 10**400})
    with pytest.raises(BadRequest, match="normalize is one of"):
        parse_normalisation("nan/0.5")


def test_a_message_is_one_line_of_bounded_length():
    error = BadRequest("a\nb\u2028c" + "x" * 100_000)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 3000
    assert str(error).startswith("a b c")
