"""Decoding and resizing against Pillow; every refusal of users.md, 3."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import contract_of, encoded, noise
from PIL import Image, ImageCms, ImageOps

from ndtool.contract import Alpha, Color, Fit
from ndtool.data.image import (
    MAX_ASPECT,
    Decoded,
    check_max_pixels,
    decode_image,
    fit,
    quiet_pillow,
    resize,
)
from ndtool.errors import ConfigError, ContractError, DataError

LIMIT = 64 * 1024 * 1024


def decode(
    content: bytes, *, color: Color = "RGB", alpha: Alpha = "black", max_pixels: int = LIMIT
) -> Decoded:
    with quiet_pillow():
        return decode_image(
            content, where="d/x.png", color=color, alpha=alpha, max_pixels=max_pixels
        )


def pixels(content: bytes, **options: object) -> np.ndarray:
    return np.asarray(decode(content, **options).image)  # type: ignore[arg-type]


def refusal(content: bytes, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        decode(content, **options)  # type: ignore[arg-type]
    assert caught.value.where == "d/x.png"
    return caught.value


RGB = Image.fromarray(noise(1, 11, 7))
TO_LAB = ImageCms.buildTransform(
    ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_every_format_is_what_pillow_decodes(kind: str, color: Color) -> None:
    content = encoded(RGB, kind)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    if color == "GRAY":
        expected = expected.convert("L")
    assert np.array_equal(pixels(content, color=color), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_modes_are_converted_as_pillow_does(mode: str, color: Color) -> None:
    made = RGB.convert(mode) if mode != "LAB" else ImageCms.applyTransform(RGB, TO_LAB)
    assert made is not None
    content = encoded(made, "TIFF")
    opened = Image.open(io.BytesIO(content))
    expected = opened.convert("RGB").convert("RGB" if color == "RGB" else "L")
    assert np.array_equal(pixels(content, color=color), np.asarray(expected))


def test_cmyk_jpeg() -> None:
    content = encoded(RGB.convert("CMYK"), "JPEG")
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    assert decode(content).mode == "CMYK"
    assert np.array_equal(pixels(content), np.asarray(expected))


def test_gray_is_itu_r_601_luma() -> None:
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    content = encoded(Image.fromarray(primaries), "PNG")
    assert pixels(content, color="GRAY").tolist() == [[76, 150, 29]]  # users.md, 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(RGB, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)).convert("RGB"))
    decoded = decode(content)
    assert decoded.rotated == (orientation != 1)
    assert decoded.image.size == ((7, 11) if orientation >= 5 else (11, 7))
    if kind != "TIFF":  # Pillow's TIFF reader turns while loading, before convert
        assert np.array_equal(np.asarray(decoded.image), np.asarray(expected))


def test_tiff_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(RGB, "TIFF", exif=exif)
    assert np.array_equal(pixels(content), np.rot90(np.asarray(RGB), -1))


@pytest.mark.parametrize(("alpha", "ground"), [("black", 0), ("white", 255)])
def test_alpha_is_composited_not_dropped(alpha: Alpha, ground: int) -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    image.putpixel((1, 0), (200, 100, 50, 255))
    shown = pixels(encoded(image, "PNG"), alpha=alpha)
    assert shown.tolist() == [[[ground] * 3, [200, 100, 50]]]


@pytest.mark.parametrize("color", ["RGB", "GRAY"])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L"])
def test_every_kind_of_transparency(mode: str, color: Color) -> None:
    """An alpha channel, and PNG's tRNS on palette and grey: all become black where clear."""
    image = Image.new("RGBA", (2, 2), (255, 255, 255, 0))
    options: dict[str, object] = {}
    made = image.convert(mode)
    if mode in ("P", "L"):
        made = Image.new(mode, (2, 2), 255 if mode == "L" else 0)
        options["transparency"] = made.getpixel((0, 0))
    assert not pixels(encoded(made, "PNG", **options), color=color).any()


def test_alpha_error_refuses_transparent_and_takes_opaque() -> None:
    clear = encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 254)), "PNG")
    opaque = encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 255)), "PNG")
    assert refusal(clear, alpha="error").code == "data.alpha"
    assert pixels(opaque, alpha="error").tolist() == [[[9] * 3] * 2] * 2


def test_animation_gives_its_first_frame() -> None:
    second = Image.new("RGB", (4, 4), "red")
    content = encoded(
        Image.new("RGB", (4, 4), "blue"), "GIF", save_all=True, append_images=[second]
    )
    decoded = decode(content)
    assert decoded.animated
    assert decoded.image.getpixel((0, 0)) == (0, 0, 255)
    assert not decode(encoded(second, "GIF")).animated


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(np.full((4, 4), 256, np.uint16)), "PNG"),
        encoded(Image.fromarray(np.full((4, 4), 256, np.uint16)), "TIFF"),
        encoded(Image.fromarray(np.full((4, 4), 256, np.int32)), "TIFF"),
        b"P5 2 1 65535\n\x01\x02\x03\x04",
        b"P6 1 1 65535\n" + bytes(6),
        b"P3 1 1 1023\n1 2 3\n",
    ],
    ids=["png", "tiff-16", "tiff-32", "pgm", "ppm", "ppm-plain"],
)
def test_more_than_8_bits_is_refused(content: bytes) -> None:
    problem = refusal(content)
    assert problem.code == "data.image-depth"
    assert "8 bits" in problem.remedy


def png(width: int, height: int, depth: int, color: int, raw: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_16_bit_png_of_every_colour_type_is_refused(color: int) -> None:
    """Pillow opens 16-bit RGB as mode RGB and keeps the high byte, without a word."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    content = png(2, 2, 16, color, (b"\0" + bytes(2 * 2 * channels)) * 2)
    assert refusal(content).code == "data.image-depth"


def test_float_and_multi_band_tiff_are_refused() -> None:
    floats = encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    assert refusal(floats).code == "data.image-mode"
    cmyka = bytearray(encoded(Image.new("RGBA", (4, 4)), "TIFF"))
    # ExtraSamples (338): from unassociated alpha (2) to unspecified (0): a fourth band
    at = cmyka.index(struct.pack("<HHI", 338, 3, 1))
    cmyka[at + 8 : at + 10] = b"\0\0"
    problem = refusal(bytes(cmyka))
    assert problem.code == "data.image-mode"
    assert "4 bands" in problem.what


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
        (b"%PDF-1.4\n", "PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"<!doctype html><title>404", "HTML"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "empty"),
        (b"\0" * 64, "not an image"),
    ],
)
def test_other_formats_are_named_and_never_opened(content: bytes, word: str) -> None:
    problem = refusal(content)
    assert problem.code == "data.image-format"
    assert word in problem.what


def test_postscript_inside_an_allowed_name_starts_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import subprocess

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    eps = encoded(RGB, "EPS")
    assert refusal(eps).code == "data.image-format"
    assert refusal(b"\xff\xd8\xff" + eps).code == "data.corrupt-image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    content = encoded(Image.fromarray(noise(2, 64, 64)), kind)
    problem = refusal(content[: len(content) // 2])
    assert problem.code == "data.corrupt-image"
    assert kind in problem.what
    assert "0x" not in problem.what


def test_a_truncated_jpeg_says_so() -> None:
    content = encoded(Image.fromarray(noise(2, 64, 64)), "JPEG")
    problem = refusal(content[:1500])
    assert str(problem) == (
        "cannot decode image: truncated JPEG (d/x.png); "
        "delete or replace it, or list it in .ndignore [data.corrupt-image]"
    )


def test_size_is_judged_from_the_header() -> None:
    """A 20000x20000 PNG of a few bytes: above Pillow's own bound too."""
    problem = refusal(png(20_000, 20_000, 8, 2, b""))
    assert problem.code == "data.image-size"
    between = refusal(png(9_000, 9_000, 8, 2, b""))  # 81 MPixel: only above ours
    assert between.code == "data.image-size"
    assert "9000x9000" in between.what
    assert "--max-pixels" in between.remedy


def test_max_pixels_is_an_inclusive_bound() -> None:
    content = encoded(RGB, "PNG")
    assert decode(content, max_pixels=77).image.size == (11, 7)
    assert refusal(content, max_pixels=76).code == "data.image-size"


@pytest.mark.parametrize("max_pixels", [0, -1, 200_000_000])
def test_max_pixels_within_pillows_own_bound(max_pixels: int) -> None:
    with pytest.raises(ConfigError):
        check_max_pixels(max_pixels)


def test_aspect_ratio() -> None:
    assert decode(encoded(Image.new("RGB", (MAX_ASPECT, 1)), "PNG")).image.size == (MAX_ASPECT, 1)
    assert refusal(encoded(Image.new("RGB", (MAX_ASPECT + 1, 1)), "PNG")).code == "data.aspect"
    assert refusal(encoded(Image.new("RGB", (2, 65)), "PNG")).code == "data.aspect"


def test_pillows_warnings_do_not_leak() -> None:
    """92 MPixel raises Pillow's bomb warning, a bad EXIF block its own; the limit is global."""
    before = Image.MAX_IMAGE_PIXELS
    bomb = png(9_600, 9_600, 8, 0, b"")
    damaged_exif = encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refusal(bomb, max_pixels=100_000_000)
        decode(damaged_exif)
    assert before == Image.MAX_IMAGE_PIXELS


SAMPLES = {
    kind: encoded(Image.fromarray(noise(3, 24, 16)), kind)
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
} | {
    "TIFF-LZW": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "EXIF": encoded(
        RGB, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06"
    ),
    "P": encoded(RGB.convert("P"), "PNG", transparency=3),
}


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_files_are_decoded_or_refused_never_a_traceback(
    kind: str, data: st.DataObject
) -> None:
    content = bytearray(SAMPLES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        # The header is where the trouble is.
        at = data.draw(
            st.integers(0, min(len(content) - 1, data.draw(st.sampled_from([64, 9999]))))
        )
        content[at] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with contextlib.suppress(DataError):
        assert decode(bytes(content[:keep]), max_pixels=1_000_000).image.mode == "RGB"


def oracle_crop(image: Image.Image, side: int) -> np.ndarray:
    """Scale the short side, cut the centre; as torchvision's Resize and CenterCrop do."""
    w, h = image.size
    if w <= h:
        image = image.resize((side, round(h * side / w + 1e-9)), Image.Resampling.BILINEAR)
    else:
        image = image.resize((round(w * side / h + 1e-9), side), Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image)[top : top + side, left : left + side]


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (7, 5), (8, 8), (9, 33), (160, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_scales_the_short_side_and_cuts_the_centre(
    size: tuple[int, int], channels: int
) -> None:
    array = noise(4, *size, channels)
    image = Image.fromarray(array[..., 0] if channels == 1 else array)
    expected = oracle_crop(image, 8).reshape(8, 8, channels)
    contract = contract_of(side=8, channels=channels)
    assert np.array_equal(fit(image, contract), expected)
    assert np.array_equal(resize(array[None], contract)[0], expected)


def test_squash_is_pillows_resize() -> None:
    image = Image.fromarray(noise(5, 30, 20))
    expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(fit(image, contract_of(side=8, fit="squash")), expected)


def test_pad_keeps_everything_and_fills_with_black() -> None:
    image = Image.new("RGB", (40, 20), "white")
    padded = fit(image, contract_of(side=8, fit="pad"))
    assert padded[:, :, 0].tolist() == [[0] * 8] * 2 + [[255] * 8] * 4 + [[0] * 8] * 2


def test_crop_fraction_cuts_the_centre_of_a_larger_image() -> None:
    image = Image.fromarray(noise(6, 16, 16))
    cut = np.asarray(image)[4:12, 4:12]
    assert np.array_equal(fit(image, contract_of(side=8, crop_fraction=0.5)), cut)


@pytest.mark.parametrize("fraction", [1e-5, 5e-324])
def test_a_tiny_crop_fraction_cannot_ask_for_unbounded_memory(fraction: float) -> None:
    with pytest.raises(ContractError):
        fit(RGB, contract_of(crop_fraction=fraction))


def test_equal_sizes_keep_their_pixels() -> None:
    array = noise(7)[None]
    for how in ("crop", "squash", "pad"):
        made = resize(array, contract_of(side=8, fit=how))
        assert np.array_equal(made, array)
        assert np.array_equal(
            fit(Image.fromarray(array[0]), contract_of(side=8, fit=how)),
            array[0],
        )


def test_arrays_change_colour_by_the_same_rules() -> None:
    array = noise(8)[None]
    gray = resize(array, contract_of(channels=1))
    assert np.array_equal(gray[0, :, :, 0], np.asarray(Image.fromarray(array[0]).convert("L")))
    again = resize(gray, contract_of(channels=3))
    assert np.array_equal(again, gray.repeat(3, axis=3))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["crop", "squash", "pad"]),
    st.floats(0.25, 1.0),
    st.sampled_from([1, 3]),
)
def test_output_has_the_contracts_shape_and_no_new_extremes(
    size: tuple[int, int], target: tuple[int, int], how: Fit, fraction: float, channels: int
) -> None:
    value = 200
    array = np.full((1, size[1], size[0], channels), value, np.uint8)
    contract = contract_of(
        side=target[0], height=target[1], channels=channels, fit=how, crop_fraction=fraction
    )
    made = resize(array, contract)
    assert made.shape == (1, target[1], target[0], channels)
    assert made.dtype == np.uint8
    allowed = {value, 0} if how == "pad" else {value}
    assert set(made.ravel().tolist()) <= allowed
