"""Image files of every kind as pixels: what is kept, what is converted, and what is said."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rstbench.data import load
from rstbench.errors import BadFile

RNG = np.random.RandomState(0)
LEVELS = RNG.randint(0, 256, (5, 6)).astype(np.uint8)
COLOUR = RNG.randint(0, 256, (5, 6, 3)).astype(np.uint8)


@pytest.fixture
def read(tmp_path):
    """The files of one class, written from images or bytes by name; sorted by name, unshuffled."""

    def read(**files):
        folder = tmp_path / "test" / "only"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name.replace("_", ".")
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.save(path)
        found = load(f"imagefolder:{tmp_path}")
        order = np.random.RandomState(0).permutation(len(found))
        return found.take(torch.from_numpy(order).argsort())

    return read


def values(images):
    return images.at(slice(None))[0]


def test_grey_files_stay_grey(read):
    found = read(a_png=Image.fromarray(LEVELS), b_png=Image.fromarray(LEVELS > 99))
    assert found.shape == (1, 5, 6)
    assert found.pixels[0, 0].numpy().tolist() == LEVELS.tolist()
    assert found.pixels[1, 0].numpy().tolist() == ((LEVELS > 99) * 255).tolist()
    assert found.notes == ("grey files kept grey",)


def test_grey_among_colour_is_read_as_rgb(read):
    found = read(a_png=Image.fromarray(LEVELS), b_png=Image.fromarray(COLOUR))
    assert found.pixels[0].numpy().tolist() == [LEVELS.tolist()] * 3
    assert found.pixels[1].permute(1, 2, 0).numpy().tolist() == COLOUR.tolist()
    assert found.notes == ("grey files read as RGB: 1 of 2 files",)


def test_palettes_are_what_they_show(read):
    grey, colour = (Image.fromarray(LEVELS % 2) for _ in range(2))
    grey.putpalette([200, 200, 200, 7, 7, 7])
    colour.putpalette([200, 0, 0, 7, 7, 7])
    found = read(a_png=grey)
    assert found.shape == (1, 5, 6)
    assert found.pixels[0, 0].numpy().tolist() == np.where(LEVELS % 2, 7, 200).tolist()
    assert read(b_png=colour).pixels[1, 1].numpy().tolist() == np.where(LEVELS % 2, 7, 0).tolist()


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_divided_by_their_white(read, ending):
    levels = RNG.randint(0, 65536, (5, 6)).astype(np.uint16)
    found = read(**{f"a_{ending}": Image.fromarray(levels)})
    assert values(found)[0, 0].numpy() == pytest.approx(levels / 65535, abs=1e-7)
    assert found.notes[-1] == "16 bits divided by 65535: 1 of 1 files"
    both = read(b_png=Image.fromarray(LEVELS))
    assert values(both)[1, 0].numpy() == pytest.approx(LEVELS / 255, abs=1e-7)


def tiff(levels, bits, white=1):
    """A grey TIFF of one strip, by TIFF 6.0; white: whether the highest level is white, or 0 is."""
    height, width = levels.shape
    text = "".join("".join(f"{level:0{bits}b}" for level in row) for row in levels.tolist())
    data = levels.astype("<u2").tobytes() if bits == 16 else int(text, 2).to_bytes(len(text) // 8, "big")
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: white,
        273: 0,
        277: 1,
        278: height,
        279: len(data),
    }
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the levels begin
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tiff_levels_are_divided_by_the_white_of_their_depth(read, bits):
    levels = RNG.randint(0, 2**bits, (5, 6))
    found = read(a_tiff=tiff(levels, bits))
    assert values(found)[0, 0].numpy() == pytest.approx(levels / (2**bits - 1), abs=1e-6)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_where_zero_is_white_levels_are_turned_round(read, bits):
    levels = RNG.randint(0, 2**bits, (5, 6))
    found = read(a_tiff=tiff(levels, bits, white=0))
    assert values(found)[0, 0].numpy() == pytest.approx(1 - levels / (2**bits - 1), abs=1e-6)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_do_not_say_what_is_white(read, kind):
    with pytest.raises(BadFile, match=r"a\.tiff cannot be read: it has 32 bits"):
        read(a_tiff=Image.fromarray(LEVELS.astype(kind)))


@pytest.mark.parametrize("colours", ["LA", "RGBA"])
def test_transparency_is_dropped_with_a_note(read, colours):
    """As by torchvision's loader; what is opaque needs no note."""
    plain = Image.fromarray(COLOUR).convert(colours[:-1])
    opaque, clear = plain.convert(colours), plain.convert(colours)
    clear.putalpha(Image.fromarray(LEVELS))
    alone = read(a_png=opaque)
    assert not any("transparency" in note for note in alone.notes)
    both = read(b_png=clear)
    assert both.pixels[1].equal(alone.pixels[0])
    assert "transparency dropped: 1 of 2 files" in both.notes


def test_a_transparent_palette_is_no_warning(read):
    image = Image.fromarray(LEVELS % 2)
    image.putpalette([200, 0, 0, 7, 7, 7])
    image.info["transparency"] = b"\x00\xff"
    assert "transparency dropped: 1 of 1 files" in read(a_png=image).notes


def test_print_colours_are_converted(read):
    image = Image.new("CMYK", (6, 5), (0, 255, 255, 0))
    found = read(a_tiff=image)
    assert found.pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert found.notes == ("CMYK converted to RGB: 1 of 1 files",)


def test_rotation_is_not_applied_and_said(read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "test" / "only").mkdir(parents=True)
    Image.fromarray(COLOUR).save(tmp_path / "test" / "only" / "a.jpg", exif=exif)
    found = read()
    assert found.shape == (3, 5, 6)
    assert found.notes == ("rotation in EXIF data not applied: 1 of 1 files",)


def test_the_first_frame_is_read_and_said(read, tmp_path):
    (tmp_path / "test" / "only").mkdir(parents=True)
    red, blue = (Image.new("RGB", (6, 5), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "test" / "only" / "a.png", save_all=True, append_images=[blue])
    found = read()
    assert found.pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert found.notes == ("first frame alone read: 1 of 1 files",)


def png(width, height):
    """The head of a grey PNG of this size, and hardly any pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(40_000, 40_000), "more than 89478485 pixels"),
        (png(10_000, 10_000), "more than 89478485 pixels"),  # of which Pillow only warns
        (png(6, 5), "a.png cannot be read"),
        (png(6, 5)[:40], "a.png cannot be read"),
        (b"", "a.png cannot be read"),
    ],
)
def test_bombs_and_damaged_files(read, content, message):
    with pytest.raises(BadFile, match=message):
        read(a_png=content)


def test_levels_in_a_file_that_is_too_deep(read):
    with pytest.raises(Exception, match="of 8 bits in files of 16"):
        read(a_png=Image.fromarray(LEVELS.astype(np.uint16)))
