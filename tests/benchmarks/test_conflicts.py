"""benchmarks/conflicts.py on a run of seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_data
import torch

from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import CHECKPOINT
from ndtool.training import checkpoint
from ndtool.types import Part, Recipe, StudentLoss

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import conflicts

OPTIONS = TrainOptions(
    epochs=4, batch_size=16, threads=1, student_loss=StudentLoss.KL, stem_stride=1
)


def prepared_run(folder: Path, options: TrainOptions = OPTIONS) -> Prepared:
    path = tiny_data.write_npz(folder / "tiny.npz")
    return prepare(replace(options, data=f"npz:{path}"), name="run", out=folder)


@pytest.mark.slow
def test_measured_at_the_asked_epochs_and_gone_on_with(tmp_path: Path) -> None:
    prepared = prepared_run(tmp_path)
    stopped = conflicts.Curve(prepared, every=3, deadline=1e-9)
    assert not stopped.complete()
    assert list(stopped.values) == ["1"]
    after_one = (prepared.run / CHECKPOINT).read_bytes()

    found = conflicts.Curve(prepared, every=3, deadline=None)
    assert found.complete()
    assert list(found.values) == ["1", "3", "4"]
    assert all(0 <= share <= 1 for share in found.values.values())
    assert json.loads((prepared.run / conflicts.CURVE).read_text()) == found.values
    assert (prepared.run / CHECKPOINT).read_bytes() != after_one
    assert conflicts.Curve(prepared, every=3, deadline=None).complete()  # nothing to do

    # Neither the measurements nor the stop changed the training.
    (tmp_path / "other").mkdir()
    other = prepared_run(tmp_path / "other")
    assert conflicts.Curve(other, every=100, deadline=None).complete()
    ends = [checkpoint.load(one.run / CHECKPOINT).theta for one in (prepared, other)]
    assert torch.equal(*ends)


@pytest.mark.slow
def test_the_share_is_that_of_gradients_by_autograd(tmp_path: Path) -> None:
    prepared = prepared_run(tmp_path)
    assert conflicts.Curve(prepared, every=100, deadline=None).complete()
    net = checkpoint.load(prepared.run / CHECKPOINT).supernet()
    data = prepared.source.load(Part.VAL, prepared.contract)
    shares = []
    assert net.teacher is not None
    layers = sorted({name.rpartition(".")[0] for name in net.layout.shared})
    for start in range(0, len(data) - 15, 16):
        x = torch.from_numpy(data.images[start : start + 16]).permute(0, 3, 1, 2) / 255
        y = torch.from_numpy(data.labels[start : start + 16])
        wide = net.teacher(x, training=True)
        hard = torch.nn.functional.cross_entropy(wide, y, label_smoothing=0.1)
        soft = torch.nn.functional.kl_div(
            net.student(x, training=True).log_softmax(1),
            wide.detach().softmax(1),
            reduction="batchmean",
        )
        negative = 0
        for layer in layers:
            names = [n for n in net.layout.shared if n.rpartition(".")[0] == layer]
            dot = 0.0
            for name in names:
                mine = net.student.tensors[name]
                (g_s,) = torch.autograd.grad(soft, [mine], retain_graph=True)
                (g_t,) = torch.autograd.grad(hard, [net.teacher.tensors[name]], retain_graph=True)
                dot += float((g_t[tuple(slice(0, n) for n in mine.shape)] * g_s).sum())
            negative += dot < 0
        shares.append(negative / len(layers))
    measured = conflicts.Probe(prepared).measure(prepared.run)
    assert measured == pytest.approx(float(np.mean(shares)), abs=1e-4)


def test_a_recipe_without_conflicts_is_refused(tmp_path: Path) -> None:
    options = TrainOptions(epochs=1, recipe=Recipe.PLAIN)
    with pytest.raises(SystemExit, match="wider network"):
        conflicts.Probe(prepared_run(tmp_path, options))


def test_a_picture_of_rows_and_seeds() -> None:
    curves = {"full": {0: {"1": 0.5, "4": 0.25}, 1: {"1": 0.75, "4": 0.5, "6": 0.5}}}
    picture = conflicts.draw(curves, "DATA")
    assert picture.startswith(b"\x89PNG") and picture == conflicts.draw(curves, "DATA")
