"""Arrays of images and labels as people hold them: what is moved, assumed or refused, and what is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest

RNG = np.random.RandomState(0)
COLOUR = RNG.randint(0, 256, (6, 3, 8, 10)).astype(np.uint8)
FRACTIONS = RNG.rand(6, 3, 8, 8).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def read(tmp_path):
    """Images from an archive of these arrays."""

    def read(x, y=LABELS, **others):
        np.savez(tmp_path / "a.npz", x=x, y=y, **others)
        return load(f"npz:{tmp_path}/a.npz")

    return read


def of_shape(*shape):
    return RNG.randint(0, 256, (6, *shape)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last_are_the_same_images_moved(read, channels):
    first = of_shape(channels, 8, 10)
    plain, moved = read(first), read(first.transpose(0, 2, 3, 1))
    assert (moved.digest, moved.shape) == (plain.digest, (channels, 8, 10))
    assert plain.notes == ()
    assert moved.notes == (f"images (n, 8, 10, {channels}) transposed to (n, c, h, w)",)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((3, 8, 10), (3, 8, 10)),
        ((1, 4, 4), (1, 4, 4)),  # both ends could be channels: these leave a square
        ((3, 4, 4), (3, 4, 4)),
        ((4, 4, 3), (3, 4, 4)),
        ((3, 3, 1), (1, 3, 3)),
        ((1, 1, 1), (1, 1, 1)),
        ((8, 16, 16), (8, 16, 16)),  # neither could
        ((16, 16, 8), (8, 16, 16)),
        ((8, 10), (1, 8, 10)),
    ],
)
def test_where_the_channels_are_seen(read, shape, found):
    assert read(of_shape(*shape)).shape == found


@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 8, 1), (3, 3, 3), (1, 4, 3), (16, 16, 16), (8, 10, 12)])
def test_what_could_be_either_is_asked_about(read, shape):
    x = of_shape(*shape)
    with pytest.raises(BadRequest, match=r"may be \(n, c, h, w\) or \(n, h, w, c\); say which"):
        read(x)
    assert read(x, layout="nchw").pixels.numpy().tolist() == x.tolist()
    assert read(x, layout="NHWC").pixels.numpy().tolist() == x.transpose(0, 3, 1, 2).tolist()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (of_shape(300), "flat images want reshaping"),
        (of_shape(100, 3), "channels of pixels in a row"),
        (of_shape(8, 10, 3).transpose(1, 2, 3, 0), r"come last, x\.transpose\(3, 2, 0, 1\)"),
        (of_shape(1, 8, 8, 1), r"wanted images \(n, c, h, w\)"),
        (np.uint8(3), "wanted images"),
        (FRACTIONS.astype(str), "pixels must be numbers, got text"),
        (FRACTIONS + 0j, "real numbers"),
    ],
)
def test_other_shapes_and_kinds(read, x, message):
    with pytest.raises(BadRequest, match=message):
        read(x)


def test_arrays_of_objects_are_named(read):
    sizes = np.empty(6, object)
    sizes[:] = [np.zeros((3, 8, 8 + i)) for i in range(6)]
    with pytest.raises(BadFile, match=r"the array x holds Python objects.*images of one size"):
        read(sizes)


@pytest.mark.parametrize("kind", [np.asfortranarray, lambda x: x.astype(">f4"), np.float64, np.longdouble])
def test_how_an_array_is_stored_changes_nothing(read, kind):
    assert read(kind(FRACTIONS)).digest == read(FRACTIONS).digest


@pytest.mark.parametrize("kind", ["int16", ">u2", "uint16", "int64", "uint64"])
def test_whole_numbers_of_eight_bits_are_bytes(read, kind):
    found = read(COLOUR.astype(kind))
    assert found.digest == read(COLOUR).digest
    assert "read as bytes" in found.notes[0]


def test_black_and_white(read):
    binary = FRACTIONS > 0.5
    wanted = read(binary.astype(np.float32))
    assert read(binary).digest == read(binary.astype(int)).digest == wanted.digest
    assert read(binary.astype(np.uint8) * 255).at(slice(None))[0].equal(wanted.pixels)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((FRACTIONS > 0.5).astype(np.uint8), r"uint8 0 to 1, .* store x \* 255"),
        ((FRACTIONS * 16).round().astype(int), "got int64 0 to 16; store x / white"),
        ((FRACTIONS * 65535).astype(np.uint16), "such as x / 65535 for 16 bits"),
        (COLOUR.astype(int) - 128, "got int64 -128 to 127; add what was subtracted"),
        (FRACTIONS * 255, "where 255 is white, store x / 255"),
        (FRACTIONS * 15, "got 0.* to 1.*; 255 is hardly white there; store x / white"),
        (FRACTIONS * 100, "255 is hardly white there"),
        (FRACTIONS / 255, "divided by 255 twice"),
        (FRACTIONS * 2 - 1, r"scaled to \[-1, 1\], store x / 2 \+ 0.5"),
        (FRACTIONS - 0.5, r"where 0.5 was subtracted, store x \+ 0.5"),
        ((FRACTIONS - 0.45) / 0.225, r"normalised \(mean 0\.\d+, deviation 1\.\d+\), store x \* std \+ mean"),
        (FRACTIONS * 4095, "store x / white"),
        (FRACTIONS * 1.02, "where resizing has overshot"),
        (np.where(FRACTIONS > 0.9, np.nan, FRACTIONS), "pixels must be finite"),
    ],
)
def test_pixels_whose_white_is_not_known(read, x, message):
    with pytest.raises(BadRequest, match=message):
        read(x)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_white_divided_by_255_twice_is_refused_in_every_precision(read, kind):
    """float32(1 / 255) is more than 1 / 255, float16(1 / 255) is less. Two grey levels are read."""
    x = np.zeros_like(COLOUR, kind)
    x[0, 0, 0, 0] = kind(255) / kind(255) / kind(255)
    with pytest.raises(BadRequest, match="divided by 255 twice"):
        read(x)
    x[0, 0, 0, 0] = kind(2) / kind(255)
    assert float(read(x).pixels.max()) == pytest.approx(2 / 255, rel=1e-3)


def test_dark_images_are_noted(read):
    assert read((FRACTIONS * 16).round().astype(np.uint8)).notes == (
        "dark: the brightest pixel is 0.0627 of 1 (16 of 255)",
    )


def test_normalising_and_back_is_clipped(read):
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    )
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(6, 3, 16, 16)
    back = (levels - mean) / std * std + mean
    assert float(back.min()) < 0
    found = read(back.numpy())
    assert float(found.pixels.min()) == 0
    assert torch.allclose(found.pixels, levels, atol=1e-6)


def test_resizing_white_is_clipped(read):
    white = torch.ones(6, 3, 224, 224)
    small = interpolate(white, (96, 96), mode="bilinear", antialias=True)
    assert float(small.max()) > 1
    assert float(read(small.numpy()).pixels.max()) == 1


@pytest.mark.parametrize(
    ("kind", "within", "beyond"),
    [(np.float16, 1.002, 1.01), (np.float32, 1.0000001, 1.00001), (np.float64, 1.000001, 1.00001)],
)
def test_rounding_is_clipped_and_more_is_refused_with_its_digits(read, kind, within, beyond):
    x = FRACTIONS.astype(kind)
    x[0, 0, 0, 0] = within
    assert float(read(x).pixels.max()) == 1
    assert "clipped to [0, 1], as rounding" in read(x).notes[0]
    x[0, 0, 0, 0] = beyond
    with pytest.raises(BadRequest, match=r"got 0\.\S+ to 1\.0\d*[1-9]"):
        read(x)


def test_a_refusal_shows_the_digits_of_its_reason(read):
    x = FRACTIONS.copy()
    x[0, 0, 0, 0] = np.float32(1.000002)
    with pytest.raises(BadRequest, match=r"to 1\.000002;"):
        read(x)


@pytest.mark.parametrize("y", [LABELS[:, None], LABELS[None], LABELS.astype(np.uint8)[:, None]])
def test_a_column_of_labels_is_flattened(read, y):
    found = read(COLOUR, y)
    assert found.digest == read(COLOUR).digest
    assert found.notes[0].endswith("read as (n,)")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3)[LABELS], r"one-hot rows become labels by y\.argmax\(1\)"),
        (np.eye(3, dtype=int)[LABELS], "one-hot rows"),
        (np.full((6, 4), 0.25), "probabilities become labels"),
        (np.ones((6, 3), int), r"labels must be \(n,\)"),
        (LABELS.astype(float), r"got float64; y\.astype\(int\)"),
        (LABELS + 0.5, r"numbers any classes from 0"),
        (LABELS * 2 - 1, "got -1; np.unique"),
        (np.array(list("abcabc")), "labels must be numbers, got text; np.unique"),
        (LABELS[:5], r"got \(6, 3, 8, 10\) and \(5,\)"),
        (np.int64(3), r"labels must be \(n,\)"),
    ],
)
def test_labels_that_are_refused(read, y, message):
    with pytest.raises(BadRequest, match=message):
        read(COLOUR, y)


def test_one_image_with_one_hot_labels(read):
    with pytest.raises(BadRequest, match="one-hot"):
        read(COLOUR[:1], np.eye(3)[:1])
    assert len(read(COLOUR[:1], np.array([[2]]))) == 1


def test_labels_from_one_are_noted(read):
    found = read(COLOUR, LABELS + 1)
    assert found.labels.tolist() == (LABELS + 1).tolist()
    assert found.notes == ("no label is 0, they are 1 to 3: where they count from 1, store y - 1",)


def test_the_line_about_the_data(read):
    assert read(COLOUR).summary.endswith(
        "a.npz:test: 6 images 3x8x10, pixels 0 to 1, at least 3 classes (labels 0 to 2)"
    )
    assert load("digits:test:20").summary == "digits:test: 20 images 1x8x8, pixels 0 to 1, 10 classes"
    assert (
        read(COLOUR, LABELS[:, None])
        .first(2)
        .summary.endswith(
            "2 images 3x8x10, pixels 0 to 1, at least 3 classes (labels 0 to 1); labels (n, 1) read as (n,)"
        )
    )


SOURCE = """
import numpy as np
from rstbench.data import Found

x = np.arange(2 * 8 * 9 * 3).reshape(2, 8, 9, 3).astype(np.uint8)

def pair(id, split, root):
    return x, np.array([0, 1])

def noted(id, split, root):
    return x, np.array([0, 1]), 2, ("as photographed",)

def told(id, split, root):
    return Found(x[:, :3], [0, 1], 2, "cropped", layout="nchw")
"""


def test_sources_of_others_are_looked_at_alike(tmp_path, monkeypatch):
    """Entry points of a package that lies on the path."""
    (tmp_path / "strange_images.py").write_text(SOURCE)
    info = tmp_path / "strange-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1\n")
    lines = (f"strange-{name} = strange_images:{name}\n" for name in ("pair", "noted", "told"))
    (info / "entry_points.txt").write_text("[rstbench.data]\n" + "".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    moved = "images (n, 8, 9, 3) transposed to (n, c, h, w)"
    assert load("strange-pair").shape == (3, 8, 9)
    assert load("strange-pair").notes == (moved,)
    assert load("strange-noted").notes == ("as photographed", moved)
    assert (load("strange-told").shape, load("strange-told").notes) == ((3, 9, 3), ("cropped",))
