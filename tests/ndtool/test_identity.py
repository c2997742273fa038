"""What makes two trainings the same one, and a folder that of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_npz

from ndtool.errors import InputError
from ndtool.identity import require_run_folder, settings, train_key
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import RunDir
from ndtool.types import Recipe


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    return TrainOptions(data=f"npz:{write_npz(tmp_path / 'tiny.npz')}", width=0.5)


def prepared(options: TrainOptions) -> Prepared:
    return prepare(options, name="", out=Path("runs"))


def test_where_pictures_are_decoded_is_not_compared(options: TrainOptions) -> None:
    assert settings(options) == settings(replace(options, loaders=4))


def test_plain_does_not_compare_what_only_the_distiller_reads(options: TrainOptions) -> None:
    plain = replace(options, recipe=Recipe.PLAIN)
    assert settings(plain) == settings(replace(plain, expand=(5,), surgery=False))
    assert settings(options) != settings(replace(options, expand=(5,)))
    assert settings(options) == settings(replace(options, threads=3, device="cpu"))


def test_changed_data_changes_the_key(options: TrainOptions, tmp_path: Path) -> None:
    before = train_key(prepared(options))
    arrays = dict(np.load(tmp_path / "tiny.npz"))
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(tmp_path / "tiny.npz", **arrays)
    assert train_key(prepared(options)).sources["data"] != before.sources["data"]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    require_run_folder(RunDir(tmp_path))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError) as caught:
        require_run_folder(RunDir(tmp_path))
    assert caught.value.code == "run.not-ours"


def test_settings_are_plain_values(options: TrainOptions) -> None:
    """A checkpoint holds no class, not even that of an enum."""
    made = settings(prepared(replace(options, expand=(3, 2))).options)
    assert {type(value) for value in made.values()} <= {str, int, float, bool}
    assert (made["recipe"], made["expand"]) == ("netdistiller", "3,2")
