"""Is the C what TensorFlow Lite Micro computes? Same inputs into both, every byte compared.

The reference is tflite_micro on the project's own .tflite. With `layers`, every tensor that the C
forms is compared too, in the order in which it is formed: the final output alone proves little, a
saturated classifier hides most faults. A removed channel is held against the constant
it was proved to be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ndtool import console
from ndtool.console import visible
from ndtool.errors import ConfigError, MismatchError
from ndtool.export.c_project import CProject, Layer
from ndtool.export.int8.ir import Graph, TensorId, op_name, op_outputs
from ndtool.export.runners import run_tensors

I8 = NDArray[np.int8]

MAX_BYTES: Final = 4 * 1024 * 1024 * 1024  # of all compared tensors, on disk
MAX_INPUT_BYTES: Final = 256 * 1024 * 1024  # of all inputs, in memory
WAVES: Final = 4  # of a smooth input
LOWEST_WAVE: Final = 3.0  # at most so many periods across an axis


# -- inputs ----------------------------------------------------------------------------------------


def make_samples(graph: Graph, count: int, seed: int) -> I8:
    """int8 (count, bytes): of each sample all inputs; the first half smooth, the others noise.

    Noise alone excites few of a convolution's sums: neighbours that agree, as in images, drive
    them to their ends. A smooth input is a sum of a few waves over all its axes, stretched to the
    full range.
    """
    rng = np.random.default_rng(seed)
    shapes = [graph.tensor(index).shape for index in graph.inputs]
    columns = [
        np.concatenate([_waves(rng, shape, count // 2), _noise(rng, shape, count - count // 2)])
        for shape in shapes
    ]
    return np.concatenate(columns, axis=1)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> I8:
    return rng.integers(-128, 128, (count, int(np.prod(shape))), np.int8)


def _waves(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> I8:
    rows = np.empty((count, int(np.prod(shape))), np.int8)
    for row in rows:
        total = np.zeros(shape)
        for _ in range(WAVES):
            phase = np.full(shape, rng.uniform(0, 2 * np.pi))
            for axis, size in enumerate(shape):
                periods = rng.uniform(-LOWEST_WAVE, LOWEST_WAVE)
                along = 2 * np.pi * periods * np.arange(size) / size
                phase += along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            total += rng.uniform(0.2, 1.0) * np.cos(phase)
        low, high = total.min(), total.max()
        unit = (total - low) / (high - low) if high > low else np.zeros(shape)
        row[:] = np.round(unit.reshape(-1) * 255 - 128)
    return rows


# -- engines ---------------------------------------------------------------------------------------


class Engine(Protocol):
    """Built C that takes samples; `layers`: it was built with the layer hook."""

    @property
    def layers(self) -> bool:
        """Whether `run` gives the layers too."""
        ...

    @property
    def chunk(self) -> int:
        """Samples of one call of `run`, at most."""
        ...

    def run(self, samples: I8) -> tuple[I8, I8 | None]:
        """Outputs and, with the layer hook, the layers' bytes; each (N, bytes)."""
        ...


# -- comparing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where C and reference part: in tensor `layer` (None: an output) of sample `sample`.

    `element` counts in the tensor of the file, flat; `differing` elements of it differ in this
    sample, `samples` samples have a difference in this tensor.
    """

    tensor: TensorId
    layer: int | None
    sample: int
    element: int
    expected: int
    got: int
    differing: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One compared tensor: its columns in the reference's rows and in the C's rows.

    `layer` is its number in the project's layers, None for an output.
    """

    tensor: TensorId
    layer: int | None
    wanted: slice
    given: slice


def require_bounded(project: CProject, count: int, *, layers: bool) -> None:
    """Refuse a number of samples that memory or disk should not bear.

    Raises:
        ConfigError: too many for this model.
    """
    tensors = [layer.tensor for layer in project.layers if layers] + list(project.graph.outputs)
    row_bytes = sum(project.graph.tensor(index).elements for index in tensors)
    allowed = min(MAX_BYTES // row_bytes, MAX_INPUT_BYTES // project.input_bytes)
    if count > allowed:
        raise ConfigError(
            f"{count:,} samples of this model are too many to compare",
            where="--random",
            remedy=f"use at most {allowed:,}",
            code="verify.too-many",
        )


def compare_samples(
    project: CProject, engines: Sequence[Engine], samples: I8, *, workers: int
) -> str:
    """Run all on `samples` and compare with the reference, whose name comes back.

    Silent when every byte of every engine's outputs, and layers if it gives them, is the same.

    Raises:
        MismatchError: names the first tensor that differs, in execution order.
        ToolMissingError, UnsupportedError: no reference, or it refuses the model.
    """
    layers = project.layers if any(engine.layers for engine in engines) else ()
    tensors = [layer.tensor for layer in layers] + list(project.graph.outputs)
    row_bytes = sum(project.graph.tensor(index).elements for index in tensors)
    with tempfile.TemporaryDirectory(prefix="ndtool-") as name:
        file = Path(name) / "reference"
        with console.progress("reference", len(samples)) as bar:
            reference = run_tensors(
                project.tflite,
                project.graph,
                samples,
                tensors,
                out=file,
                workers=workers,
                progress=bar.update,
            )
        wanted = np.memmap(file, np.int8, "r", shape=(len(samples), row_bytes))
        places = _places(project, layers)
        for engine in engines:
            formed = places if engine.layers else places[len(layers) :]
            _compare(project, engine, samples, wanted, formed)
        del wanted  # Windows removes no mapped file
    return reference


def compare_outputs(project: CProject, engine: Engine, samples: I8, wanted: I8) -> None:
    """Hold the outputs of `engine` for `samples` against `wanted`; both (N, bytes).

    Raises:
        MismatchError: names the first output that differs.
    """
    _compare(project, engine, samples, wanted, _places(project, ()))


def _compare(
    project: CProject, engine: Engine, samples: I8, wanted: I8, places: Sequence[Place]
) -> None:
    found = _first_difference(project, engine, samples, wanted, places)
    if found is not None:
        raise _mismatch(project, found, layers=engine.layers)


def _places(project: CProject, layers: Sequence[Layer]) -> list[Place]:
    """What is compared, in order of execution: the layers, then the outputs."""
    places = []
    at = given = 0
    for number, layer in enumerate(layers):
        size = project.graph.tensor(layer.tensor).elements
        places.append(
            Place(
                tensor=layer.tensor,
                layer=number,
                wanted=slice(at, at + size),
                given=slice(given, given + layer.bytes),
            )
        )
        at, given = at + size, given + layer.bytes
    given = 0
    for index in project.graph.outputs:
        size = project.graph.tensor(index).elements
        places.append(
            Place(
                tensor=index,
                layer=None,
                wanted=slice(at, at + size),
                given=slice(given, given + size),
            )
        )
        at, given = at + size, given + size
    return places


def _first_difference(
    project: CProject, engine: Engine, samples: I8, wanted: I8, places: Sequence[Place]
) -> Difference | None:
    """The first differing tensor in the order of `places`, over all samples."""
    first: dict[int, Difference] = {}
    with console.progress("C", len(samples)) as bar:
        for start in range(0, len(samples), engine.chunk):
            stop = min(start + engine.chunk, len(samples))
            outputs, formed = engine.run(samples[start:stop])
            for order, place in enumerate(places):
                reference = np.asarray(wanted[start:stop, place.wanted])
                if place.layer is None:
                    mine = outputs[:, place.given]
                else:
                    assert formed is not None
                    layer = project.layers[place.layer]
                    mine = _whole_tensor(project.graph, layer, formed[:, place.given])
                found = _difference(place, start, reference, mine)
                if found is not None:
                    before = first.get(order)
                    first[order] = (
                        found
                        if before is None
                        else replace(before, samples=before.samples + found.samples)
                    )
            bar.update(stop)
    return first[min(first)] if first else None


def _whole_tensor(graph: Graph, layer: Layer, formed: I8) -> I8:
    """(N, bytes of the tensor in the file): removed channels are their constants."""
    if layer.live is None:
        return formed
    channels = graph.tensor(layer.tensor).shape[-1]
    positions = graph.tensor(layer.tensor).elements // channels
    whole = np.empty((len(formed), positions, channels), np.int8)
    for channel, value in layer.constants.items():
        whole[:, :, channel] = value
    whole[:, :, list(layer.live)] = formed.reshape(len(formed), positions, layer.channels)
    return whole.reshape(len(formed), -1)


def _difference(place: Place, start: int, wanted: I8, given: I8) -> Difference | None:
    wrong = wanted != given
    samples = np.flatnonzero(wrong.any(axis=1))
    if not len(samples):
        return None
    row = int(samples[0])
    element = int(np.flatnonzero(wrong[row])[0])
    return Difference(
        tensor=place.tensor,
        layer=place.layer,
        sample=start + row,
        element=element,
        expected=int(wanted[row, element]),
        got=int(given[row, element]),
        differing=int(np.count_nonzero(wrong[row])),
        samples=len(samples),
    )


def _mismatch(project: CProject, found: Difference, *, layers: bool) -> MismatchError:
    tensor = project.graph.tensor(found.tensor)
    index = np.unravel_index(found.element, tensor.shape)
    place = ", ".join(str(int(i)) for i in index)
    kind = "output" if found.layer is None else f"layer {found.layer}"
    what = (
        f"C differs from tflite_micro in {kind}: tensor #{found.tensor} '{visible(tensor.name)}'"
        f" of {maker(project.graph, found.tensor)}, sample {found.sample}, element [{place}]:"
        f" expected {found.expected}, got {found.got}; {found.differing} of {tensor.elements}"
        f" elements differ there, {found.samples} samples have a difference"
    )
    if layers:
        remedy = "generate the project again: ndtool codegen; if it still does, please report it"
    else:
        remedy = "find the first layer that differs: ndtool verify ... --layers"
    return MismatchError(what, where=project.place, remedy=remedy, code="verify.mismatch")


def maker(graph: Graph, tensor: TensorId) -> str:
    """`CONV_2D (#3)`, the operation that forms a tensor; `the input` where none does."""
    for number, op in enumerate(graph.ops):
        if tensor in op_outputs(op):
            return f"{op_name(op)} (#{number})"
    return "the input"
