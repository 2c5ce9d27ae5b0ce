"""One image file of every kind that Pillow reads: the pixels that a model sees, exactly, or one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from labelreg.data.image_files import CLEAR, DARK, DEEP, FRAMES, PLAIN, REAL, TURNED, counted, decoded, readable
from labelreg.errors import UserError

RED, LIME, BLUE, BLACK = [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]
CORNERS = np.array([[RED, LIME], [BLUE, BLACK]], np.uint8)  # no turn or mirror leaves it as it is
FOUR = [0, 257, 32896, 65535]  # 16 bits that are 0, 1, 128, 255 in 8


def saved(image, kind, **options):
    image.save(written := io.BytesIO(), kind, **options)
    return written.getvalue()


def png(depth, colour, rows, *chunks):
    """2 x 2 pixels as the file format has them, which Pillow writes in few depths."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(bits, photometric, content, sample=1, order="<"):
    """2 x 2 grey pixels; `photometric` 0 where white is zero, `sample` 1 without a sign, 2 with one, 3 a float."""
    tags = [(256, 2), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 2),
            (279, len(content)), (339, sample)]  # fmt: skip
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(content))
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return start + content + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


def read(content, size=2):
    pixels, notes = decoded(content, "x.png", "pets", size)
    assert pixels.shape == (3, size, size) and pixels.dtype == np.uint8
    return pixels, notes


def grey(content):
    """The four values of an image that is the same in all channels, and the notes."""
    pixels, notes = read(content)
    assert (pixels == pixels[0]).all()
    return pixels[0].ravel().tolist(), notes


# greys


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(np.array(FOUR, np.uint16).reshape(2, 2)), "PNG"),
        saved(Image.fromarray(np.array(FOUR, np.uint16).reshape(2, 2)), "TIFF"),
        saved(Image.fromarray(np.array(FOUR, np.uint16).reshape(2, 2)), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(np.array(FOUR, np.uint16).reshape(2, 2)), "JPEG2000", irreversible=False),
        tiff(16, 1, struct.pack(">4H", *FOUR), order=">"),
        b"P5 2 2 65535\n" + struct.pack(">4H", *FOUR),
        b"P2 2 2 1020\n0 4 512 1020\n",  # Pillow brings any range to 16 bits
    ],
    ids=["png", "tiff", "lzw", "jpeg2000", "big-endian", "pgm", "pgm in words"],
)
def test_sixteen_bits_are_scaled_by_their_range(content):
    assert Image.open(io.BytesIO(content)).mode in ("I;16", "I;16B", "I")
    assert grey(content) == ([0, 1, 128, 255], [DEEP.format(65535)])


def test_twelve_bits_and_an_inverted_grey():
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])  # 0, 2048; 4095, 16
    assert grey(tiff(12, 1, packed)) == ([0, 128, 255, 1], [DEEP.format(4095)])
    assert grey(tiff(16, 0, struct.pack("<4H", *FOUR)))[0] == [255, 254, 127, 0]
    assert grey(tiff(8, 0, bytes([0, 1, 128, 255]))) == ([255, 254, 127, 0], [])


def test_sixteen_bits_of_which_few_are_used_are_remarked():
    assert grey(tiff(16, 1, struct.pack("<4H", 0, 257, 2570, 4095))) == ([0, 1, 10, 16], [DARK])


def test_floats_are_fractions_of_white():
    image = Image.fromarray(np.array([[0, 0.5], [0.25, 1]], np.float32))
    assert grey(saved(image, "TIFF")) == ([0, 128, 64, 255], [REAL])
    assert grey(b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 0.25, 1, 0, 0.5)) == ([0, 128, 64, 255], [REAL])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(32, 1, struct.pack("<4f", 0, 0.5, 0.25, 255), 3), "floating-point greys from 0 to 255"),
        (tiff(32, 1, struct.pack("<4f", 0, -0.5, 0.25, 1), 3), "floating-point greys from -0.5 to 1"),
        (tiff(32, 1, struct.pack("<4f", 0, np.nan, 0.25, 1), 3), "floating-point greys from nan"),
        (tiff(32, 1, struct.pack("<4i", 0, 1, 2, 255), 2), "greys of mode I"),
        (tiff(16, 1, struct.pack("<4h", 0, 1, -2, 255), 2), "greys of mode I"),
    ],
)
def test_greys_without_a_known_white_are_refused(content, words):
    with pytest.raises(UserError, match=f"task pets: x.png has {words}.* says which is white.*save 8 or 16 bits"):
        read(content)


def test_few_bits_of_a_grey():
    rows = [bytes([0b00010000]), bytes([0b10110000])]  # 0 1, 2 3
    assert grey(png(2, 0, rows)) == ([0, 85, 170, 255], [])
    assert grey(png(4, 0, [bytes([0x01]), bytes([0x2F])])) == ([0, 17, 34, 255], [])
    assert grey(png(1, 0, [bytes([0b01000000]), bytes([0b10000000])])) == ([0, 255, 255, 0], [])
    assert grey(b"P5 2 2 15\n" + bytes([0, 5, 10, 15])) == ([0, 85, 170, 255], [])


# transparency


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("RGBA", [(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 255, 51), (9, 9, 9, 0)],
         [RED, [255] * 3, [204, 204, 255], [255] * 3]),
        ("LA", [(0, 255), (0, 0), (0, 51), (255, 9)], [BLACK, [255] * 3, [204] * 3, [255] * 3]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA"])
def test_what_is_transparent_stands_on_white(mode, pixels, expected, kind):
    image = Image.new(mode, (2, 2))
    image.putdata(pixels)
    found, notes = read(saved(image, kind, **{"lossless": True} if kind == "WEBP" else {}))
    assert found.transpose(1, 2, 0).reshape(4, 3).tolist() == expected and notes == [CLEAR]


def test_an_opaque_alpha_channel_changes_nothing():
    found, notes = read(saved(Image.fromarray(CORNERS).convert("RGBA"), "PNG"))
    assert np.array_equal(found.transpose(1, 2, 0), CORNERS) and notes == []


@pytest.mark.parametrize(
    ("depth", "rows", "colour", "expected"),
    [
        (1, [bytes([0b01000000]), bytes([0b00000000])], 1, [0, 255, 0, 0]),
        (2, [bytes([0b00010000]), bytes([0b10000000])], 2, [0, 85, 255, 0]),
        (4, [bytes([0x01]), bytes([0x20])], 1, [0, 255, 34, 0]),
        (8, [bytes([7, 8]), bytes([9, 7])], 7, [255, 8, 9, 255]),
        (16, [struct.pack(">HH", 257, 514), struct.pack(">HH", 256, 32896)], 257, [255, 2, 1, 128]),
    ],
)
def test_the_transparent_grey_of_a_png_in_every_depth(depth, rows, colour, expected):
    found, notes = grey(png(depth, 0, rows, (b"tRNS", struct.pack(">H", colour))))
    assert found == expected and CLEAR in notes or depth == 1 and found == expected


def test_the_transparent_colour_of_a_png_and_of_a_palette():
    eight = png(8, 2, [bytes([1, 2, 3, 0, 0, 0]), bytes([3, 2, 1, 1, 2, 3])], (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert read(eight)[0].transpose(1, 2, 0).reshape(4, 3).tolist() == [[255] * 3, BLACK, [3, 2, 1], [255] * 3]
    key = (0x1234, 0x5678, 0x9ABC)
    rows = [struct.pack(">6H", *key, 0, 0, 0), struct.pack(">6H", 65535, 0, 0, 0x3400, 0x7800, 0xBC00)]
    sixteen = png(16, 2, rows, (b"tRNS", struct.pack(">3H", *key)))
    found = read(sixteen)[0].transpose(1, 2, 0).reshape(4, 3).tolist()
    assert found == [[255] * 3, BLACK, RED, [0x34, 0x78, 0xBC]]
    palette = (b"PLTE", bytes([*RED, *LIME, *BLUE, *BLACK]))
    for alpha, blue in ((bytes([255, 0, 51]), [204, 204, 255]), (bytes([255, 0]), BLUE)):
        found, notes = read(png(8, 3, [bytes([0, 1]), bytes([2, 3])], palette, (b"tRNS", alpha)))
        assert found.transpose(1, 2, 0).reshape(4, 3).tolist() == [RED, [255] * 3, blue, BLACK] and notes == [CLEAR]
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "L").convert("P")
    image.putpalette([*RED, *LIME, *BLUE, *BLACK])
    found = read(saved(image, "GIF", transparency=1))[0].transpose(1, 2, 0).reshape(4, 3).tolist()
    assert found == [RED, [255] * 3, BLUE, BLACK]


# colours, frames, orientation


def test_every_colour_mode_and_ending_gives_the_same_colours():
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA", "SGI", "PCX", "QOI", "ICO", "DDS"):
        assert read(saved(colour, kind))[0][:, 0, 0].tolist() == [200, 100, 50], kind
    inverse = Image.merge(
        "CMYK", [Image.new("L", (8, 8), 255 - each) for each in (200, 100, 50)] + [Image.new("L", (8, 8))]
    )
    for kind, options in (("JPEG", {"quality": 100}), ("TIFF", {})):
        content = saved(inverse, kind, **options)
        assert Image.open(io.BytesIO(content)).mode == "CMYK"
        assert np.abs(read(content)[0][:, 0, 0] - np.array([200, 100, 50])).max() <= 1
    for kind in ("JPEG", "TIFF"):
        content = saved(colour.convert("YCbCr"), kind, **({"quality": 100} if kind == "JPEG" else {}))
        assert np.abs(read(content)[0][:, 0, 0] - np.array([200, 100, 50])).max() <= 2


def test_the_first_frame_is_read_and_said():
    first, *more = (Image.new("RGB", (4, 4), tuple(colour)) for colour in (RED, LIME, BLUE))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        pixels, notes = read(saved(first, kind, save_all=True, append_images=more, **lossless))
        assert np.abs(pixels[:, 0, 0].astype(int) - RED).max() <= (1 if kind == "MPO" else 0), kind
        assert notes == [FRAMES, PLAIN], kind
    single = saved(first, "GIF")
    assert read(single)[1] == [PLAIN]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "several TIFF"])
def test_exif_orientation_is_honoured(kind):
    """The eight of the EXIF standard (table of tag 274): where row 0 and column 0 of the stored image belong."""
    at = {1: CORNERS, 2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1], 5: CORNERS.transpose(1, 0, 2),
          6: np.rot90(CORNERS, -1), 7: CORNERS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(CORNERS)}  # fmt: skip
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "several TIFF":
        options = {"save_all": True, "append_images": [Image.new("RGB", (2, 2))]}
    for orientation, expected in at.items():
        exif = Image.Exif()
        exif[274] = orientation
        found, notes = read(saved(Image.fromarray(CORNERS), kind.split()[-1], exif=exif, **options))
        assert np.array_equal(found.transpose(1, 2, 0), expected), orientation
        assert (TURNED in notes) == (orientation != 1)
    for odd in (0, 9):
        exif[274] = odd
        assert np.array_equal(read(saved(Image.fromarray(CORNERS), "PNG", exif=exif))[0].transpose(1, 2, 0), CORNERS)


def test_a_photograph_stored_on_its_side_equals_the_upright_one():
    tall = np.zeros((60, 40, 3), np.uint8)
    tall[:10], tall[50:] = RED, BLUE
    exif = Image.Exif()
    exif[274] = 6
    side = saved(Image.fromarray(np.rot90(tall).copy()), "JPEG", exif=exif, quality=100, subsampling=0)
    upright = saved(Image.fromarray(tall), "JPEG", quality=100, subsampling=0)
    assert np.abs(read(side, 16)[0].astype(int) - read(upright, 16)[0]).max() <= 2


def test_damaged_exif_does_not_hide_the_image():
    for block in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        content = saved(Image.new("RGB", (4, 4), (9, 9, 9)), "JPEG", exif=block, quality=100)
        assert read(content)[0].ravel().tolist() == [9] * 12


def test_one_pixel_and_a_strip():
    assert read(saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), 4)[0][:, 3, 3].tolist() == [1, 2, 3]
    strip = np.zeros((1, 5001, 3), np.uint8)
    strip[0, 2499:2502] = RED  # the middle is what the square keeps
    assert read(saved(Image.fromarray(strip), "PNG"), 4)[0][:, 0, 0].tolist() == RED


# what is refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no image .it is empty."),
        (None, "is no image .it is empty."),
        (b"<html>", "is no image that can be read .it is of no kind that Pillow decodes."),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "is no image that can be read .it is of no kind",
        ),
        (b"P6 20000 20000 255\n", "has more than 89 million pixels"),
        (b"P6 200000 200000 255\n", "has more than 89 million pixels"),
        (saved(Image.new("RGB", (99, 99)), "BMP")[:-9], "is no image that can be read .*truncated"),
    ],
)
def test_what_is_refused_is_one_line_with_the_place(content, words):
    with pytest.raises(UserError, match=f"^task pets: x.png {words}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "TGA", "QOI"])
def test_a_truncated_image_is_never_read(kind):
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3)).astype(np.uint8)
    content = saved(Image.fromarray(noise), kind)
    read(content)
    for share in (0.01, 0.3, 0.6, 0.9, 0.97):
        with pytest.raises(UserError, match="is no image"):
            read(content[: int(share * len(content))])


def test_endings_are_those_of_what_pillow_decodes_by_itself():
    formats, endings = readable()
    assert {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"} <= endings
    assert {".mpo", ".avif", ".jp2", ".apng", ".pgm", ".tga"} <= endings
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".h5", ".mpg", ".grib", ".txt", ".json", ".db"} & endings
    assert not {"EPS", "WMF", "HDF5", "MPEG"} & set(formats)


def test_notes_are_counted_by_their_kind():
    assert counted([("a/1.png", CLEAR), ("b/2.png", CLEAR), ("a/1.png", FRAMES)]) == (
        f"2 images with {CLEAR} (such as a/1.png)",
        f"1 image with {FRAMES} (such as a/1.png)",
    )
