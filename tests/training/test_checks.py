"""What a training refuses before it writes anything."""

from pathlib import Path

import nets
import pytest
from small_runs import SPEC, go

from ndtool.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 1}, "--batch-size"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": 0.0}, "--lr"),
        ({"warmup": 1.0}, "--warmup"),
        ({"momentum": 1.0}, "--momentum"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
        ({"clip_norm": float("inf")}, "--clip-norm"),
        ({"expand": (1,)}, "--expand"),
        ({"expand": (9,)}, "--expand"),
        ({"expand": (3, 3)}, "--expand"),
        ({"expand": (2, 3, 4, 5)}, "--expand"),
        ({"expand": ()}, "--expand"),
        ({"teacher_start": 0.6, "teacher_stop": 0.5}, "--teacher-stop"),
        ({"accumulate": 3}, "--batch-size"),
        ({"accumulate": 8}, "--batch-size"),
        ({"crop_px": -1}, "--crop"),
        ({"seed": -1}, "--seed"),
        ({"uncertainty": -0.1}, "--uncertainty"),
        ({"threads": -1}, "--threads"),
        ({"device": "cuda:99"}, "--device"),
        ({"device": "gpu\x1b[2J"}, "--device"),
    ],
)
def test_options_out_of_bounds(tmp_path: Path, changes: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        go(tmp_path, nets.options(**changes))
    assert caught.value.where == where
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_splits_must_fit_the_contract(tmp_path: Path) -> None:
    options = nets.options()
    with pytest.raises(DataError, match="1 training images, at least 2"):
        go(tmp_path, options, train_split=nets.split_of(SPEC, 1))
    with pytest.raises(DataError, match="0 validation images"):
        go(tmp_path, options, val_split=nets.split_of(SPEC, 0))
    bad = nets.split_of(SPEC, 8)
    bad.labels[3] = SPEC.classes
    with pytest.raises(DataError, match="training images do not fit"):
        go(tmp_path, options, train_split=bad)
    wide = nets.split_of(nets.ds_spec(size_px=16), 8)
    with pytest.raises(DataError, match="validation images do not fit"):
        go(tmp_path, options, val_split=wide)
