"""ndtool models."""

import dataclasses

from ndtool import console
from ndtool.arch import count_macs, count_parameters
from ndtool.cli.params import Width, verb
from ndtool.models import MODELS, make_spec

CLASSES = 1000  # the papers' tables


@verb()
def models(width: Width = 1.0) -> None:
    """List the models: parameters and MACs at their usual resolution, 1000 classes, RGB."""
    rows, document = [], []
    for model in MODELS.values():
        spec = make_spec(
            model.name, width=width, size_px=model.resolution, in_channels=3, classes=CLASSES
        )
        parameters, macs = count_parameters(spec), count_macs(spec)
        rows.append(
            (model.name, f"{model.resolution}", f"{parameters:,}", f"{macs:,}", model.summary)
        )
        row = {k: v for k, v in dataclasses.asdict(model).items() if k != "build"}
        document.append(row | {"params": parameters, "macs": macs})
    console.out(console.table(("model", "px", "parameters", "MACs", "what"), rows))
    console.out(
        f"\nwidth {width:g}, {CLASSES} classes, 3 channels; next: ndtool train --model NAME"
    )
    console.out_json({"schema": "ndtool.models/1", "width": width, "models": document})
