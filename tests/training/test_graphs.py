"""A replayed step is the step itself; recording leaves no trace. The recorder here is a stand-in
that runs the function again: a real graph needs a GPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import teachers
import torch
from small_runs import SPEC, assert_same_weights, go
from torch import Tensor

from ndtool.errors import ConfigError
from ndtool.training import loop
from ndtool.training.graphs import WARM_UP, GraphedSteps, SingleSteps, make_steps
from ndtool.training.images.augment import Normalizer
from ndtool.training.recipes.method import Figures
from ndtool.types import Precision, Recipe

Results = tuple[Figures, Tensor]


def record_again(work: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
    """As a CUDA graph: some runs first, then every replay writes into the first results."""
    for _ in range(WARM_UP):
        results = work()

    def replay() -> None:
        figures, applied = work()
        for name, value in figures.items():
            results[0][name].copy_(value)
        results[1].copy_(applied)

    return replay, results


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recipe": Recipe.PLAIN, "ema": 0.9},
        {"teacher_every": 2},
        {"accumulate": 2, "precision": Precision.BF16},
        {"recipe": Recipe.KD},
    ],
    ids=str,
)
def test_replayed_steps_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    options = nets.options(**changes)
    if options.recipe is Recipe.KD:
        outer = teachers.save_checkpoint(
            tmp_path / "outer.pt", teachers.network(SPEC), nets.contract_of(SPEC)
        )
        options = replace(options, teacher=f"checkpoint:{outer}")
    go(tmp_path / "single", options)
    made: list[GraphedSteps] = []

    def graphed(options: object, normalize: Normalizer) -> GraphedSteps:
        made.append(GraphedSteps(options, normalize, record_again))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(loop, "make_steps", graphed)
    go(tmp_path / "graphed", options)
    assert_same_weights(tmp_path / "single", tmp_path / "graphed")
    assert len(made) == 1
    assert len(made[0]._recorded) == (2 if "teacher_every" in changes else 1)


def test_the_option_chooses() -> None:
    normalize = Normalizer(nets.contract_of(SPEC))
    assert isinstance(make_steps(nets.options(), normalize), SingleSteps)
    assert isinstance(make_steps(nets.options(cuda_graphs=True), normalize), GraphedSteps)


def test_graphs_are_refused_where_they_cannot_be(tmp_path: Path) -> None:
    options = nets.options(cuda_graphs=True)
    with pytest.raises(ConfigError, match="not on a GPU") as caught:
        go(tmp_path, options)
    assert caught.value.where == "--cuda-graphs"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETDISTILLER])
def test_a_cuda_graph_gives_the_same_weights(tmp_path: Path, recipe: Recipe) -> None:
    options = nets.options(recipe=recipe, device="cuda")
    go(tmp_path / "single", options, spec=SPEC)
    go(tmp_path / "graphed", replace(options, cuda_graphs=True), spec=SPEC)
    assert_same_weights(tmp_path / "single", tmp_path / "graphed")
