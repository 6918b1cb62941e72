"""`examples.npz`: which images are kept, and how parts of it are joined."""

from __future__ import annotations

import numpy as np
import pytest

from rstbench.errors import BadFile
from rstbench.evidence.examples import BUDGET, COUNT, PARTS, Examples, join_parts, name_of, wanted, write_part
from rstbench.evidence.manifest import Manifest, Row

T = "Linf:8/255"
ROWS = (Row("a", T, 0, ("pgd", "autoattack")), Row("b", T, 0, ("pgd",)), Row("s", T, 0, ("pgd", "arc")))
REQUEST = Manifest(study={}, run={}, images=8, models={}, rows=ROWS)
FIRST = {("a", "pgd", T, 0), ("b", "pgd", T, 0), ("s", "pgd", T, 0)}


def test_every_first_attack_is_kept_and_the_others_while_there_is_room():
    assert wanted(REQUEST, 1) == FIRST | {("a", "autoattack", T, 0), ("s", "arc", T, 0)}
    one = BUDGET // COUNT
    assert wanted(REQUEST, one) == FIRST  # no room even for one, and yet all first ones
    assert wanted(REQUEST, one // 4) == FIRST | {("a", "autoattack", T, 0)}
    assert wanted(Manifest(study={}, run={}, images=8, models={}, rows=()), 1) == frozenset()


def test_the_clean_images_have_no_threat():
    assert name_of(("a", "clean", T, 3)) == "a/clean"
    assert name_of(("a", "pgd", T, 3)) == "a/pgd/Linf:8/255/3"


def test_parts_are_joined_in_order_and_added_to_what_is_there(tmp_path):
    join_parts(tmp_path, {"old": np.arange(2)})
    write_part(tmp_path, "x", 4, {"x": np.array([4, 5])})
    write_part(tmp_path, "x", 0, {"x": np.arange(4)})
    write_part(tmp_path, "y", 4, {"y": np.arange(4)})  # its beginning was lost
    join_parts(tmp_path, {"d/images": np.zeros((1, 1, 2, 2)), "d/labels": np.array([7])})
    found = Examples.read(tmp_path)
    assert set(found.arrays) == {"old", "x", "d/images", "d/labels"}
    assert found.arrays["x"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.images("d")[1].tolist() == [7]
    assert found.images("other") is None
    assert not (tmp_path / PARTS).exists()
    # Crafted again, from image 0 on: the new ones stand.
    write_part(tmp_path, "x", 0, {"x": np.arange(3)})
    join_parts(tmp_path, {})
    assert Examples.read(tmp_path).arrays["x"].tolist() == [0, 1, 2]


def test_equal_examples_are_equal_bytes(tmp_path):
    for folder, names in (("one", "ab"), ("two", "ba")):
        for name in names:
            write_part(tmp_path / folder, name, 0, {name: np.arange(3.0)})
        join_parts(tmp_path / folder, {})
    files = [(tmp_path / folder / "examples.npz").read_bytes() for folder in ("one", "two")]
    assert files[0] == files[1]


def test_no_examples_and_damaged_ones(tmp_path):
    assert Examples.read(tmp_path).crafted(("a", "pgd", T, 0)) is None
    (tmp_path / "examples.npz").write_bytes(b"PK no")
    with pytest.raises(BadFile, match="damaged"):
        Examples.read(tmp_path)
