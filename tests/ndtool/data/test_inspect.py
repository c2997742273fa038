"""`data inspect`: figures against numpy, all problems at once, the contact sheet."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pictures import contract_of, encoded, make_folder, make_given, noise
from PIL import Image

from ndtool.contract import Contract
from ndtool.data.folder import open_folder
from ndtool.data.inspect import Inspection, contact_sheet, inspect_source, report_lines
from ndtool.data.types import DataOptions, Source
from ndtool.errors import DataError
from ndtool.options import TRAIN
from ndtool.prepare import resolve
from ndtool.types import Part

LABELS = ("a", "b")


def inspected(source: Source, contract: Contract) -> Inspection:
    return inspect_source(source, contract, resolve(TRAIN, source.info, contract))


def test_figures_of_a_folder(tmp_path: Path) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = encoded(Image.fromarray(noise(901, 20, 10)), "JPEG", exif=exif)
    (root / "train" / "a" / "tall.jpg").write_bytes(tall)
    gray = Image.fromarray(noise(902, 9, 9, 1)[..., 0])
    (root / "val" / "b" / "moving.gif").write_bytes(
        encoded(gray, "GIF", save_all=True, append_images=[gray.rotate(90)])
    )
    shutil.copy(sorted(root.glob("test/a/*"))[0], root / "train" / "a" / "leak.png")
    shutil.copy(sorted(root.glob("val/a/*"))[0], root / "val" / "a" / "again.png")
    source = open_folder(str(root), DataOptions())
    contract = contract_of(LABELS, side=16, fit="squash")
    found = inspected(source, contract)
    assert found.counts == {"train": (11, 9), "val": (10, 10), "test": (9, 9)}
    assert found.imbalance == 30 / 28
    assert (found.width_px, found.height_px) == ((8, 10), (8, 20))  # upright
    assert found.modes["RGB"] == 57
    assert sum(found.modes.values()) == 58
    assert (found.rotated, found.animated) == (1, 1)
    assert (found.duplicates, found.leaks) == (1, 1)
    assert found.memory_bytes == 58 * 16 * 16 * 3
    images = source.load(Part.TRAIN, contract).images / 255
    assert np.allclose(found.mean, images.mean(axis=(0, 1, 2)), atol=1e-12)
    assert np.allclose(found.std, images.std(axis=(0, 1, 2)), atol=1e-9)
    assert any("leak: 1 of 18" in note for note in found.notes)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["labels"] == ["a", "b"]
    text = "\n".join(report_lines(found))
    assert "turned      1" in text
    assert "leaks into test 1" in text


def test_gray_images_are_pointed_out(tmp_path: Path) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    for path in root.glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    source = open_folder(str(root), DataOptions())
    assert any("--gray" in note for note in inspected(source, contract_of()).notes)
    assert not inspected(source, contract_of(channels=1)).notes


def test_bad_files_of_all_parts_at_once(tmp_path: Path) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    for part in ("train", "val", "test"):
        for n in range(2):
            (root / part / "a" / f"bad{n}.png").write_bytes(b"%%!PS %d" % n + part.encode())
    with pytest.raises(DataError) as caught:
        inspected(open_folder(str(root), DataOptions()), contract_of())
    assert len([caught.value, *caught.value.more]) == 6
    skipping = open_folder(str(root), DataOptions(skip_bad_files=True))
    found = inspected(skipping, contract_of())
    assert len(found.skipped) == 6
    assert found.counts["test"] == (9, 9)
    assert "train/a/bad0.png" in "\n".join(report_lines(found))


def test_what_concerns_every_part_is_told_once(tmp_path: Path) -> None:
    source = open_folder(str(make_folder(tmp_path / "d")), DataOptions())
    with pytest.raises(DataError) as caught:
        inspected(source, contract_of(("x", "y")))
    assert caught.value.more == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_shows_the_networks_pixels(tmp_path: Path, channels: int) -> None:
    source = open_folder(str(make_folder(tmp_path / "d")), DataOptions())
    contract = contract_of(LABELS, side=32, channels=channels)
    sheet = Image.open(io.BytesIO(contact_sheet(source, contract)))
    assert sheet.format == "PNG"
    train = source.load(Part.TRAIN, contract)
    first_of_b = train.images[train.labels.tolist().index(1)]
    cell = np.asarray(sheet)[100:196, 140:236][1::3, 1::3]  # 32 px enlarged three times
    assert np.array_equal(cell, first_of_b.repeat(3 // channels, axis=2))


def test_contact_sheet_of_hostile_labels(tmp_path: Path) -> None:
    labels = ("\U0001f33c\u202e\x1b[31m", "a" * 200)
    source = open_folder(str(make_folder(tmp_path / "d", labels)), DataOptions())
    assert contact_sheet(source, contract_of(labels)) == contact_sheet(source, contract_of(labels))
    assert "\x1b" not in "\n".join(report_lines(inspected(source, contract_of(labels))))
