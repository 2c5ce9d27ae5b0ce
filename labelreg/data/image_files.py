"""One image file as pixels: what Pillow decodes by itself, upright, on white, greys by the range of their mode."""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from labelreg.errors import UserError
from labelreg.output import printable, words_of

Pixels = np.ndarray  # [3, side, side] uint8; of several images [examples, 3, side, side]

# runs Ghostscript; a film whose frames Pillow does not decode
NOT_READ = ("EPS", "MPEG")
SHORT = {"TIFF": {12: 2**12 - 1}}  # bits of a sample that Pillow stores in 16 without scaling
ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0  # TIFF's tags, the first also EXIF's

FRAMES = "more than one frame: the first is read"
TURNED = "turned upright as the orientation in EXIF says"
NO_EXIF = "EXIF that cannot be read: taken as upright"
CLEAR = "transparent parts, which stand on white"
DEEP = "16 bits a grey: scaled by their range, {} is white"
DARK = "16 bits a grey and nothing brighter than a sixteenth of white: few greys are left (scale them when you save)"
REAL = "floating-point greys: 1.0 is white"
PLAIN = "a single colour all over, as the model sees them"


class _Refused(Exception):
    """Why an image that Pillow reads is not taken."""


def said(path: object) -> str:
    """A path or a name for a line: with escapes where it would break or recolour it."""
    return printable(str(path)).replace("\n", r"\n").replace("\t", r"\t")


@cache
def readable() -> tuple[tuple[str, ...], frozenset[str]]:
    """Pillow's formats that it decodes by itself, in the order in which it tries them; and their endings."""
    endings = Image.registered_extensions()  # loads every plug-in
    stub = ImageFile.StubImageFile  # knows a format (WMF, HDF5) and leaves decoding to another program

    def decodes(name: str) -> bool:
        factory = Image.OPEN[name][0] if name in Image.OPEN else None
        foreign = factory is None or isinstance(factory, type) and issubclass(factory, stub)
        return not foreign and name not in NOT_READ

    formats = {name for name in endings.values() if decodes(name)}
    also = {"MPO": "JPEG"}  # opened by another format's plug-in
    known = {ending for ending, name in endings.items() if also.get(name, name) in formats}
    return tuple(name for name in Image.ID if name in formats), frozenset(known)


def decoded(content: bytes | None, origin: str, name: str, size: int) -> tuple[Pixels, list[str]]:
    """One image as [3, size, size] uint8: its shorter side at `size`, cut in the middle; and what was done to it.

    Colours are taken as they are stored: colour profiles and gamma are not applied.

    Raises:
        UserError: no image, damaged, too large to be one, or greys without a known white.
    """
    if not content:
        raise UserError(f"task {name}: {origin} is no image (it is empty)")
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what it refuses it raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=readable()[0]) as image:
                if getattr(image, "n_frames", 1) > 1:
                    notes.append(FRAMES)
                    image.seek(0)
                _match_depth(image, content)
                square = ImageOps.fit(_colours(_upright(image, notes), notes), (size, size), Image.Resampling.BILINEAR)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels"
        raise UserError(f"task {name}: {origin} has more than {limit}, the most that is read; shrink it") from None
    except _Refused as error:
        raise UserError(f"task {name}: {origin} {error}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, and more for a damaged file
        strange = isinstance(error, Image.UnidentifiedImageError)
        what = "it is of no kind that Pillow decodes" if strange else _line(error)
        raise UserError(f"task {name}: {origin} is no image that can be read ({what})") from None
    pixels = np.asarray(square).transpose(2, 0, 1)
    if (pixels == pixels[:, :1, :1]).all():
        notes.append(PLAIN)
    return pixels, notes


def _match_depth(image: Image.Image, content: bytes) -> None:
    """PNG names its transparent colour in the bits of the file, where Pillow's pixels have eight (or 16, mode I;16)."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    depth = content[24]  # IHDR: bits of a sample
    if image.mode == "L":
        image.info["transparency"] = colour * (255 // (2**depth - 1))
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(each >> 8 for each in colour)


def _line(error: Exception) -> str:
    return said(words_of(error, 150)) or type(error).__name__


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image turned as EXIF says; TIFF files turn themselves while they are loaded."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block beside a sound image
        orientation = None
        notes.append(NO_EXIF)
    image.load()
    if orientation in range(2, 9):
        notes.append(TURNED)
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _colours(image: Image.Image, notes: list[str]) -> Image.Image:
    """Mode RGB, 8 bits, whatever the file has."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _greys(image, notes).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    extrema: Any = clear.getextrema()  # (low, high) of each of four bands
    if extrema[3][0] == 255:
        return image.convert("RGB")
    notes.append(CLEAR)
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _greys(image: Image.Image, notes: list[str]) -> Image.Image:
    """Mode L from 16 bits or floats, rounded to the nearest of 256 greys."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise _Refused(
                f"has floating-point greys from {values.min():.6g} to {values.max():.6g}: only 0 (black) to 1 (white) "
                "says which is white; scale them, or save 8 or 16 bits"
            )
        notes.append(REAL)
        white = 1
    elif image.format == "FITS" or image.mode == "I" and image.format != "PPM":
        raise _Refused(f"has greys of mode {image.mode} ({image.format}), and nothing says which is white; "
                       "save 8 or 16 bits without a sign")  # fmt: skip
    else:
        white = SHORT.get(image.format or "", {}).get(tags.get(BITS, (16,))[0], 2**16 - 1)
        notes.append(DARK if values.max() < white / 16 else DEEP.format(white))
    greys = np.rint(values * (255 / white))
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        greys = 255 - greys
    if image.info.get("transparency") is not None:
        greys = np.where(values == image.info["transparency"], 255, greys)
        notes.append(CLEAR)
    return Image.fromarray(greys.astype(np.uint8))


def grey(side: int) -> bytes:
    """A PNG file of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(file, "PNG")
    return file.getvalue()


def counted(notes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """One line for each kind of note on images, given as (origin, note): how many, and the first."""
    found: dict[str, list[str]] = {}
    for origin, note in notes:
        found.setdefault(note, []).append(origin)
    return tuple(
        f"{len(places)} image{'s' * (len(places) > 1)} with {note} (such as {places[0]})"
        for note, places in found.items()
    )
