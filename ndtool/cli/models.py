"""ndtool models."""

import dataclasses

from ndtool import console
from ndtool.arch import ArchSpec, count_macs, count_parameters, peak_activation
from ndtool.cli.params import Width
from ndtool.cli.verbs import verb
from ndtool.errors import InputError, ToolMissingError, UnsupportedError
from ndtool.models import MODELS, Model, make_spec

HEAD = ("model", "px", "classes", "parameters", "MACs", "peak activation B", "arena B", "what")


@verb()
def models(width: Width = 1.0) -> None:
    """List the models: parameters, MACs and memory at the papers' resolutions, RGB.

    Peak activation: the int8 tensors that must be kept at one time. Arena: what the C has, exact,
    with its image; - without the extra export, or where the network is far too large for a board.
    """
    rows, document = [], []
    for model in MODELS.values():
        figures = _figures(model, width)
        numbers = ["-" if value is None else f"{value:,}" for value in figures.values()]
        rows.append(
            (model.name, f"{model.resolution}", f"{model.classes}", *numbers, model.summary)
        )
        facts = {k: v for k, v in dataclasses.asdict(model).items() if k != "build"}
        document.append(facts | {k: v for k, v in figures.items() if v is not None})
    console.out(console.table(HEAD, rows))
    console.out(f"\nwidth {width:g}, 3 channels; your own model is MODULE:FUNCTION")
    console.out("next: ndtool train --model NAME, or ndtool analyze NAME --all-targets")
    console.out_json({"schema": "ndtool.models/1", "width": width, "models": document})


def _figures(model: Model, width: float) -> dict[str, int | None]:
    """By their keys in the document, in the order of the table."""
    spec = make_spec(
        model.name,
        width=width,
        size_px=model.resolution,
        in_channels=3,
        classes=model.classes,
    )
    return {
        "params": count_parameters(spec),
        "macs": count_macs(spec),
        "peak_activation_bytes": peak_activation(spec),
        "arena_bytes": _arena_bytes(spec),
    }


def _arena_bytes(spec: ArchSpec) -> int | None:
    """None without the packages that plan it, or for a network that is not planned."""
    from ndtool.export.analyze import compile_spec

    try:
        return compile_spec(spec).plan.total
    except (InputError, ToolMissingError, UnsupportedError):
        return None
