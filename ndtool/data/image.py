"""One image of any origin -> the contract's uint8 pixels. The only module that uses Pillow to read.

Order (users.md, 3): format from the first bytes -> limits from the header -> first frame -> EXIF
orientation -> mode -> resize by the contract. Only formats that Pillow decodes in this process are
allowed: never PostScript, which starts a program.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndtool.console import visible
from ndtool.contract import Alpha, Color, Contract, Resize
from ndtool.data.problems import data_error
from ndtool.data.types import U8
from ndtool.errors import ConfigError, ContractError, DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ASPECT: Final = 32
# Pillow raises above twice its own bound whatever we allow (PIL.Image.MAX_IMAGE_PIXELS, which is
# global and therefore left alone).
PILLOW_MAX_PIXELS: Final = 2 * 89_478_485
_MAX_SCALED_PIXELS: Final = 64 * 1024 * 1024  # of the whole scaled image that a crop is cut from
_FIX: Final = "delete or replace it, or list it in .ndignore"

# Pillow's name, offset, bytes. P1..P6 of PPM are checked apart: a digit and white space follow.
_MAGIC: Final = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WEBP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("BMP", 0, b"BM"),
)
_FOREIGN: Final = (  # what people's folders hold under an image's name, for the message
    ("PostScript", 0, b"%!PS"),
    ("PostScript", 0, b"\xc5\xd0\xd3\xc6"),
    ("PDF", 0, b"%PDF"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftypmif"),
    ("AVIF", 4, b"ftypavi"),
    ("Photoshop", 0, b"8BPS"),
    ("HTML", 0, b"<!DOCTYPE"),
    ("HTML", 0, b"<html"),
    ("SVG", 0, b"<svg"),
    ("XML or SVG", 0, b"<?xml"),
    ("zip", 0, b"PK\x03\x04"),
    ("a Git LFS pointer, see git lfs pull", 0, b"version https://git-lfs"),
)
# Formats whose first bytes are proof enough for a file without an image's suffix. Not TIFF: the
# raw formats of cameras begin like it.
UNMISTAKABLE: Final = frozenset({"JPEG", "PNG", "GIF", "WEBP"})
HEAD_BYTES: Final = 32
# What Pillow's decoders and metadata readers raise on damaged files, seen in its code and by
# fuzzing. Each means the same to the user.
_DECODER_ERRORS: Final = (
    OSError,  # truncated, unidentified
    SyntaxError,  # "broken PNG file"
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,  # NotImplementedError too
    MemoryError,
    struct.error,
    zlib.error,
)
_ORIENTATION: Final = 0x0112  # EXIF and TIFF tag
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _SAMPLE_FORMAT = 258, 262, 277, 338, 339  # TIFF tags
_COLOR_BANDS: Final = {2: 3, 5: 4, 6: 3, 8: 3}  # TIFF photometric -> samples; any other has 1
_ALPHA_BANDS: Final = ((1,), (2,))  # ExtraSamples: associated and unassociated alpha
_FLOAT: Final = 3  # SampleFormat


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An image upright, in the contract's colour, not yet resized."""

    image: Image  # mode RGB or L
    mode: str  # of the file, by Pillow
    rotated: bool
    animated: bool


def sniff(head: bytes) -> str | None:
    """Pillow's name of the allowed format that begins like `head`, or None."""
    for name, offset, magic in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\r", b"\n"):
        return "PPM"
    return None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow's (bomb, EXIF): what matters is refused by our own rules.

    Entered once around many images, because Python's warning filters are not safe to change in
    several threads at a time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_max_pixels(max_pixels: int) -> None:
    """Raises ConfigError for a limit above Pillow's own."""
    if not 1 <= max_pixels <= PILLOW_MAX_PIXELS:
        raise ConfigError(
            f"{max_pixels:,} is not between 1 and {PILLOW_MAX_PIXELS:,} pixels",
            where="--max-pixels",
            remedy="scale larger images down first",
            code="option.max-pixels",
        )


def check_size(width: int, height: int, *, max_pixels: int, where: str) -> None:
    """Refuse sizes before anything is decoded.

    Raises:
        DataError: no pixels, too many, or longer than 32 times its width.
    """
    if width < 1 or height < 1:
        raise _refused(f"the image is {width}x{height} pixels", where, "data.image-size")
    if width * height > max_pixels:
        raise data_error(
            f"the image is {width}x{height} pixels, more than {max_pixels:,}",
            where=where,
            remedy="scale it down, or allow it: --max-pixels",
            code="data.image-size",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _refused(
            f"the image is {width}x{height} pixels, longer than 1:{MAX_ASPECT}",
            where,
            "data.aspect",
        )


def decode_image(
    content: bytes, *, where: str, color: Color, alpha: Alpha, max_pixels: int
) -> Decoded:
    """Decode the bytes of one file; call it under `quiet_pillow`.

    Args:
        where: the file's name as the user wrote it.
        max_pixels: bound on width times height, at most `PILLOW_MAX_PIXELS`.

    Raises:
        DataError: not an allowed format, damaged, too large, or of a depth or mode that would
            lose information silently.
    """
    pil = require("PIL.Image")
    kind = sniff(content[:HEAD_BYTES])
    if kind is None:
        raise _refused(
            f"not an image that ndtool reads{_guess(content)}", where, "data.image-format"
        )
    try:
        image: Image = pil.open(io.BytesIO(content), formats=(kind,))
        check_size(*image.size, max_pixels=max_pixels, where=where)
        mode = image.mode
        _require_8_bit(image, kind, where)
        animated = kind != "JPEG" and bool(getattr(image, "is_animated", False))
        # Read before load(): Pillow's TIFF reader turns the image and forgets the tag.
        rotated = image.getexif().get(_ORIENTATION) in range(2, 9)
        image.load()
        if image.getexif().get(_ORIENTATION) in range(2, 9):
            image = require("PIL.ImageOps").exif_transpose(image)
        image = _to_color(image, color, alpha, where)
    except pil.DecompressionBombError as error:
        raise data_error(
            f"the image declares more than {max_pixels:,} pixels",
            where=where,
            remedy="scale it down",
            code="data.image-size",
        ) from error
    except _DECODER_ERRORS as error:
        raise _refused(
            f"cannot decode image: {_reason(error, kind)}", where, "data.corrupt-image"
        ) from error
    return Decoded(image=image, mode=mode, rotated=rotated, animated=animated)


def _refused(what: str, where: str, code: str) -> DataError:
    return data_error(what, where=where, remedy=_FIX, code=code)


def _guess(content: bytes) -> str:
    if not content:
        return ": the file is empty"
    head = content[:HEAD_BYTES]
    for name, offset, magic in _FOREIGN:
        if head[offset : offset + len(magic)].lower() == magic.lower():
            return f": {name}"
    return ""


def _reason(error: BaseException, kind: str) -> str:
    if isinstance(error, require("PIL").UnidentifiedImageError):
        return f"damaged {kind}"  # Pillow's text names an object's address
    if "truncated" in str(error).lower():
        return f"truncated {kind}"
    return f"damaged {kind} ({visible(str(error)) or type(error).__name__})"


def _require_8_bit(image: Image, kind: str, where: str) -> None:
    """Refuse deep, float and multi-band images: Pillow saturates 16-bit grey, cuts 16-bit colour
    to its high byte, and drops the bands of a TIFF that it does not know.

    Raises:
        DataError: with the conversion as remedy.
    """
    tags = getattr(image, "tag_v2", {}) if kind == "TIFF" else {}
    if image.mode == "F" or _FLOAT in tags.get(_SAMPLE_FORMAT, ()):
        raise data_error(
            "float images are not read: their range is unknown",
            where=where,
            remedy="scale it to 0..255 and save it with 8 bits a channel",
            code="data.image-mode",
        )
    if image.mode.startswith("I") or _channel_max(image, kind, tags) > 255:
        raise data_error(
            "the image has more than 8 bits a channel",
            where=where,
            remedy="save it with 8 bits a channel, e.g. magick IN -depth 8 OUT.png",
            code="data.image-depth",
        )
    if kind == "TIFF":
        extra = tags.get(_SAMPLES, 1) - _COLOR_BANDS.get(tags.get(_PHOTOMETRIC, 1), 1)
        if extra and not (extra == 1 and tags.get(_EXTRA) in _ALPHA_BANDS):
            raise data_error(
                f"the TIFF has {tags[_SAMPLES]} bands: which of them are colours is unknown",
                where=where,
                remedy="save it as RGB or grey",
                code="data.image-mode",
            )


def _channel_max(image: Image, kind: str, tags: Mapping[int, Any]) -> int:
    """Largest value that a channel of the file can hold."""
    if kind == "TIFF":
        return int(2 ** max(tags.get(_BITS, (1,)))) - 1
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    if kind == "PNG":
        return 65_535 if any(";16" in str(raw) for raw in arguments) else 255
    if kind == "PPM":  # ("RGB", maxval), or the raw mode alone where maxval is 255
        pairs = [pair for pair in arguments if isinstance(pair, tuple)]
        return max((int(pair[1]) for pair in pairs), default=255)
    return 255


def _to_color(image: Image, color: Color, alpha: Alpha, where: str) -> Image:
    """Alpha composited, then RGB, or grey by ITU-R 601 luma (Pillow's `convert("L")`).

    Raises:
        DataError: an image that is not opaque, where the contract says `alpha: error`.
    """
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if alpha == "error":
            lowest = require("PIL.ImageStat").Stat(rgba.getchannel("A")).extrema[0][0]
            if lowest < 255:
                raise data_error(
                    "the image is transparent",
                    where=where,
                    remedy="flatten it, or use --alpha black or white",
                    code="data.alpha",
                )
        pil = require("PIL.Image")
        ground = pil.new("RGBA", rgba.size, alpha if alpha == "white" else "black")
        image = pil.alpha_composite(ground, rgba)
    if color == "GRAY":
        return image if image.mode == "L" else _as_mode(_as_mode(image, "RGB"), "L")
    return _as_mode(image, "RGB")


def _as_mode(image: Image, mode: str) -> Image:
    return image if image.mode == mode else image.convert(mode)


def fit(image: Image, contract: Contract) -> U8:
    """The contract's pixels of an upright image in the contract's colour, (H, W, C).

    `crop` scales so that the image just covers the target (over `crop_fraction`) and cuts the
    centre; `pad` scales so that it just fits and adds black around; `squash` scales each side.
    An image of the target's size keeps its pixels.
    """
    bilinear = require("PIL.Image").Resampling.BILINEAR  # antialiased when it makes smaller
    size = (contract.input.width, contract.input.height)
    match contract.resize.fit:
        case "squash":
            image = image.resize(size, bilinear)
        case "crop":
            scaled = _covering(image.size, size, contract.resize)
            image = _cut_centre(image.resize(scaled, bilinear), size)
        case "pad":
            image = _cut_centre(image.resize(_fitting(image.size, size), bilinear), size)
    pixels: U8 = np.asarray(image, dtype=np.uint8)
    return pixels.reshape(size[1], size[0], contract.input.channels)


def _covering(size: tuple[int, int], target: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """The smallest size of the same aspect that covers the target over the crop fraction."""
    w, h = size
    # Below 2**-20 the size is refused anyway, and the quotient could overflow.
    fraction = max(resize.crop_fraction, 2.0**-20)
    want_w, want_h = (int(side / fraction + 0.5) for side in target)
    if want_w * h >= want_h * w:
        scaled = (want_w, _rounded(h * want_w, w))
    else:
        scaled = (_rounded(w * want_h, h), want_h)
    if scaled[0] * scaled[1] > _MAX_SCALED_PIXELS:
        raise ContractError(
            f"crop_fraction {resize.crop_fraction:g} scales a {w}x{h} image to "
            f"{scaled[0]}x{scaled[1]} pixels",
            where="contract.json: resize.crop_fraction",
            remedy="use a value near 1",
            code="contract.crop-fraction",
        )
    return scaled


def _fitting(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same aspect that fits into the target."""
    w, h = size
    if target[0] * h <= target[1] * w:
        return (target[0], _rounded(h * target[0], w))
    return (_rounded(w * target[1], h), target[1])


def _rounded(numerator: int, denominator: int) -> int:
    """The quotient rounded half up in integers, at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _cut_centre(image: Image, size: tuple[int, int]) -> Image:
    """`size` pixels around the centre; black where the image does not reach."""
    left, top = ((have - want) // 2 for have, want in zip(image.size, size, strict=True))
    if image.size == size:
        return image
    return image.crop((left, top, left + size[0], top + size[1]))


def resize(images: U8, contract: Contract) -> U8:
    """Arrays through the contract: (N, H, W, C) uint8, C = 1 or 3 -> (N, h, w, c).

    The same colour and resize rules as for files; the input itself where nothing changes.
    """
    spec = contract.input
    shape = (len(images), spec.height, spec.width, spec.channels)
    if images.shape == shape:
        return images
    pil = require("PIL.Image")
    out = np.empty(shape, np.uint8)
    for index, pixels in enumerate(images):
        image = pil.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        out[index] = fit(_to_color(image, spec.color, contract.alpha, ""), contract)
    return out
