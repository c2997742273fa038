"""All passes together: the same bytes in every tensor that is left, and proved constants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from dead_networks import Net, dead_network, differences, telling_images
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_network import network
from shared_models import shared_model

from ndtool.errors import UnsupportedError
from ndtool.export.codegen.passes import dead_channels, intervals, padding, removable, run_passes
from ndtool.export.codegen.passes.intervals import Interval, Taps
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.passes.removable import Link
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    Pad,
    Pads,
    TensorId,
    Unary,
    UnaryKind,
    op_inputs,
)
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite.reader import read_tflite


@given(st.integers(0, 2**32))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_every_tensor_keeps_its_bytes(seed: int) -> None:
    graph = dead_network(seed)
    images = telling_images(graph, seed)
    passed = run_passes(graph)
    assert differences(graph, passed, images) == []
    for before, after in zip(
        run_graph(graph, images), run_graph(passed.graph, images), strict=True
    ):
        assert np.array_equal(before, after)


@given(st.integers(0, 2**32))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_tensors_keep_their_numbers(seed: int) -> None:
    graph = dead_network(seed)
    passed = run_passes(graph)
    assert (passed.graph.inputs, passed.graph.outputs) == (graph.inputs, graph.outputs)
    assert not passed.removed.keys() & {*graph.inputs, *graph.outputs, *passed.fused}
    for number, before in enumerate(graph.tensors):
        after = passed.graph.tensors[number]
        removed = passed.removed.get(TensorId(number))
        shape = before.shape if removed is None else (*before.shape[:-1], len(removed.live))
        assert after == replace(before, shape=shape)
    assert all(t.data is not None for t in passed.graph.tensors[len(graph.tensors) :])


@given(st.integers(0, 2**32))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_a_second_time_changes_nothing(seed: int) -> None:
    once = run_passes(dead_network(seed)).graph
    assert run_passes(once) == Passed(graph=once)


def test_a_network_without_dead_channels_stays() -> None:
    graph = network()
    assert run_passes(graph) == Passed(graph=graph)


def test_an_illegal_graph_is_refused() -> None:
    graph = network()
    with pytest.raises(UnsupportedError, match=r"\(int8 model\)"):
        run_passes(replace(graph, outputs=()))


def test_a_pass_that_breaks_a_rule_is_named() -> None:
    def careless(passed: Passed) -> Passed:
        return replace(passed, graph=replace(passed.graph, outputs=()))

    with pytest.raises(UnsupportedError, match="int8 model after careless"):
        run_passes(network(), (padding.fold_pad, careless))


# ---------------------------------------------------------------------------- published networks


def conv_macs(graph: Graph) -> int:
    layers = [op for op in graph.ops if isinstance(op, Conv2D | DepthwiseConv2D)]
    sizes = [(graph.tensor(op.out), graph.tensor(op.weight).elements) for op in layers]
    return sum(out.elements * weights // out.shape[3] for out, weights in sizes)


def constant_bytes(graph: Graph) -> int:
    used = {t for op in graph.ops for t in op_inputs(op)}
    return sum(len(graph.tensor(t).data or b"") for t in used)


# MACs of convolutions and bytes of constants, before and after
PUBLISHED = {
    "kws": ((2_656_000, 24_376), (2_656_000, 24_376)),
    "person_detect": ((7_157_888, 218_928), (7_157_888, 218_928)),
    "resnet8": ((12_500_992, 78_752), (12_500_992, 78_752)),
    "vww_96": ((7_489_152, 219_072), (3_880_485, 38_609)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    graph = read_tflite(shared_model(name))
    passed = run_passes(graph)
    found = tuple((conv_macs(g), constant_bytes(g)) for g in (graph, passed.graph))
    assert found == PUBLISHED[name]
    images = telling_images(graph, count=2)
    assert differences(graph, passed, images) == []
    assert np.array_equal(run_graph(graph, images)[0], run_graph(passed.graph, images)[0])


EYE = np.eye(2, dtype=np.int8)[:, None, None, :]  # 1x1 kernels that take one channel each


# -------------------------------------------------------------- faults that these tests must see


def dip() -> Graph:
    """HARD_SWISH is 0 at both ends of the interval -3.0..0.0, and not between them."""
    n = Net(0)
    x = n.activation((1, 2, 2, 2), (3 / 255, 127))
    swish = n.activation((1, 2, 2, 2), (0.01, 0))
    n.push(Unary(kind=UnaryKind.HARD_SWISH, x=x, out=swish))
    return n.graph(n.layer(swapped(n, swish), EYE, [0, 0], scales=(1.0,)))


def difference() -> Graph:
    """Two tensors of one interval: at equal ends their difference is 0."""
    n = Net(0)
    x = n.activation((1, 1, 3, 2), (0.1, 0))
    out = n.activation((1, 1, 3, 2), (0.1, 0))
    pair = Binary(kind=BinaryKind.SUB, a=swapped(n, x), b=x, out=out, act=Activation.NONE)
    return n.graph(n.layer(swapped(n, n.push(pair)), EYE, [0, 0], scales=(1.0,)))


def shown_pad() -> Graph:
    """The padded image is one of the outputs."""
    n = Net(0)
    wide = n.pad(n.activation((1, 2, 2, 2), (0.1, 0)))
    return n.graph(n.layer(wide, EYE, [0, 0]), wide)


def swapped(n: Net, x: TensorId) -> TensorId:
    """The same two channels in the other order, by a convolution: one that is dead can go."""
    return n.layer(x, EYE[::-1], [0, 0], scales=(1.0,), out=n.like(x), act=Activation.NONE)


@functools.cache
def networks() -> list[tuple[Graph, np.ndarray]]:
    graphs = [dip(), difference(), shown_pad(), *(dead_network(seed) for seed in range(400))]
    return [(graph, telling_images(graph, seed)) for seed, graph in enumerate(graphs)]


def first_fault() -> str | None:
    """What goes wrong first: other bytes, or a graph that the spec or the pass itself refuses."""
    for seed, (graph, images) in enumerate(networks()):
        try:
            found = differences(graph, run_passes(graph), images)
        except (UnsupportedError, AssertionError) as error:
            found = [str(error)]
        if found:
            return f"network {seed}: {found[0]}"
    return None


Fault = Callable[..., object]  # gets the original function, then its arguments


def mutant(module: ModuleType, name: str, fault: Fault) -> object:
    return pytest.param(module, name, fault, id=f"{name}: {fault.__name__}")


def padding_is_ignored(original: Fault, *args: object) -> object:
    taps = original(*args)
    return Taps(taps.image, np.zeros_like(taps.border))


def last_position_is_forgotten(original: Fault, window, size: int) -> object:
    taps = original(window, size)
    before, _ = window.padding(size)
    return Taps(taps.image, np.arange(window.kernel) * window.dilation < before)


def padding_has_no_interval(original: Fault, x: Interval, zero: int, taps: Taps) -> object:
    return original(x, zero, Taps(taps.image, np.zeros_like(taps.border)))


def zero_point_is_forgotten(original: Fault, x: Interval, zero: int, taps: Taps) -> object:
    return original(x, 0, taps)


def upper_end_is_too_low(original: Fault, *args: object) -> object:
    made = original(*args)
    return Interval(made.low, np.maximum(made.low, made.high - 1))


def lower_end_is_too_high(original: Fault, *args: object) -> object:
    made = original(*args)
    return Interval(np.minimum(made.low + 1, made.high), made.high)


def accumulator_ends_short(original: Fault, *args: object) -> object:
    """By half a percent of its width: one step of the output or less."""
    low, high = original(*args)
    return Interval(low, high - (high - low) // 200)


def signs_of_weights_are_ignored(original: Fault, graph, op, x: Interval) -> object:
    low = original(graph, op, Interval(x.low, x.low)).low
    high = original(graph, op, Interval(x.high, x.high)).high
    return Interval(np.minimum(low, high), np.maximum(low, high))


def bias_is_forgotten(original: Fault, graph, op, x: Interval) -> object:
    return original(graph, replace(op, bias=None), x)


def only_the_ends_are_looked_up(original: Fault, table, x: Interval) -> object:
    ends = [table[end + 128].astype(np.int64) for end in x]
    return Interval(np.minimum(*ends), np.maximum(*ends))


def only_equal_ends_meet(original: Fault, graph, op, known) -> object:
    a, b = (intervals._operand_interval(graph, t, known) for t in (op.a, op.b))
    run = intervals.reference.binary_bytes
    ends = [run(graph, op, p.astype(np.int8), q.astype(np.int8)) for p, q in zip(a, b, strict=True)]
    return Interval(*(f.reduce(ends).astype(np.int64) for f in (np.minimum, np.maximum)))


def channels_lie_side_by_side(original: Fault, x: Interval, channels: int) -> object:
    if channels % len(x.low) == 0:
        return Interval(*(np.repeat(end, channels // len(x.low)) for end in x))
    return original(x, channels)


def fill_is_forgotten(original: Fault, graph, op: Pad, x: Interval) -> object:
    return original(graph, replace(op, paddings=((0, 0),) * 3 + op.paddings[3:]), x)


def first_input_speaks_for_all(original: Fault, graph, op, known) -> object:
    made = original(graph, op, known)
    if op.axis == len(graph.tensor(op.out).shape) - 1:
        return made
    return known[op.xs[0]]


def inputs_are_pixels(original: Fault, tensor) -> object:
    made = original(tensor)
    return Interval(np.maximum(made.low, 0), made.high)


def nothing_is_needed(original: Fault, *args: object) -> object:
    return np.zeros_like(original(*args))


def padding_does_not_matter(original: Fault, graph, op) -> object:
    return np.zeros_like(original(graph, op)) if op.bias is not None else original(graph, op)


def sign_is_wrong(original: Fault, *args: object) -> object:
    return -original(*args)


def nothing_is_folded(original: Fault, *args: object) -> object:
    return 0 * original(*args)


def zero_point_is_folded(original: Fault, cut, op) -> object:
    zeros = [replace(t, zero_points=(0,) * len(t.zero_points)) for t in cut.graph.tensors]
    return original(replace(cut, graph=replace(cut.graph, tensors=tuple(zeros))), op)


def nothing_is_linked(original: Fault, *args: object) -> object:
    return iter(())


def outputs_lie_apart(original: Fault, graph, op) -> Iterator[Link]:
    for link in original(graph, op):
        if isinstance(op, DepthwiseConv2D):
            yield link._replace(
                a_channels=link.b_channels % (len(link.b_channels) // op.multiplier)
            )
        else:
            yield link


def inputs_lie_on_each_other(original: Fault, graph, op) -> Iterator[Link]:
    for link in original(graph, op):
        yield link._replace(b_channels=link.a_channels)


def one_operand_is_enough(original: Fault, graph, op) -> Iterator[Link]:
    found = list(original(graph, op))
    yield from found[:1]


def outputs_are_not_held(original: Fault, graph, known) -> Iterator[object]:
    yield from original(replace(graph, outputs=()), known)


def nobody_holds(original: Fault, *args: object) -> object:
    return ()


def neighbours_go(original: Fault, *args: object) -> object:
    return {t: np.roll(which, 1) for t, which in original(*args).items()}


def constants_are_neighbours(original: Fault, interval: Interval, gone) -> object:
    return original(Interval(np.roll(interval.low, 1), interval.high), gone)


def sides_are_swapped(original: Fault, *args: object) -> object:
    pads = original(*args)
    return Pads(top=pads.left, left=pads.top, bottom=pads.right, right=pads.bottom)


def ends_are_swapped(original: Fault, *args: object) -> object:
    pads = original(*args)
    return Pads(top=pads.bottom, left=pads.left, bottom=pads.top, right=pads.right)


def own_padding_is_lost(original: Fault, graph, pad: Pad, reader) -> object:
    return original(graph, pad, replace(reader, padding=derive.PaddingKind.VALID))


def own_padding_is_of_the_small_image(original: Fault, graph, pad: Pad, reader) -> object:
    return original(graph, replace(pad, out=pad.x), reader)


def any_reader_will_do(original: Fault, ops, readers) -> object:
    for index in sorted(readers - {padding.CALLER}):
        if isinstance(ops.get(index), Conv2D | DepthwiseConv2D):
            return index, ops[index]
    return None


def outputs_have_no_reader(original: Fault, ops, readers) -> object:
    return original(ops, readers - {padding.CALLER})


def channels_are_an_image(original: Fault, pad: Pad) -> object:
    return True


MUTANTS = [
    mutant(intervals, "kernel_taps", padding_is_ignored),
    mutant(intervals, "axis_taps", last_position_is_forgotten),
    mutant(intervals, "tap_offsets", padding_has_no_interval),
    mutant(intervals, "tap_offsets", zero_point_is_forgotten),
    mutant(intervals, "layer_interval", upper_end_is_too_low),
    mutant(intervals, "layer_interval", lower_end_is_too_high),
    mutant(intervals, "accumulator", accumulator_ends_short),
    mutant(intervals, "accumulator", signs_of_weights_are_ignored),
    mutant(intervals, "accumulator", bias_is_forgotten),
    mutant(intervals, "_table_interval", only_the_ends_are_looked_up),
    mutant(intervals, "_binary_interval", only_equal_ends_meet),
    mutant(intervals, "regrouped", channels_lie_side_by_side),
    mutant(intervals, "_pad_interval", fill_is_forgotten),
    mutant(intervals, "_concat_interval", first_input_speaks_for_all),
    mutant(intervals, "anything", inputs_are_pixels),
    mutant(removable, "needed_channels", nothing_is_needed),
    mutant(removable, "needed_channels", padding_does_not_matter),
    mutant(removable, "links", nothing_is_linked),
    mutant(removable, "links", outputs_lie_apart),
    mutant(removable, "links", one_operand_is_enough),
    mutant(removable, "_joined", inputs_lie_on_each_other),
    mutant(removable, "held_back", outputs_are_not_held),
    mutant(removable, "held_by", nobody_holds),
    mutant(dead_channels, "removable_channels", neighbours_go),
    mutant(dead_channels, "constant_sums", sign_is_wrong),
    mutant(dead_channels, "constant_sums", nothing_is_folded),
    mutant(dead_channels, "constant_sums", zero_point_is_folded),
    mutant(dead_channels, "_removed", constants_are_neighbours),
    mutant(padding, "merged_pads", sides_are_swapped),
    mutant(padding, "merged_pads", ends_are_swapped),
    mutant(padding, "merged_pads", own_padding_is_lost),
    mutant(padding, "merged_pads", own_padding_is_of_the_small_image),
    mutant(padding, "_only_convolution", any_reader_will_do),
    mutant(padding, "_only_convolution", outputs_have_no_reader),
    mutant(padding, "_pads_image", channels_are_an_image),
]


@pytest.mark.slow
def test_without_a_fault_none_is_found() -> None:
    assert first_fault() is None


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "fault"), MUTANTS)
def test_faults_are_found(
    module: ModuleType, name: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, functools.partial(fault, getattr(module, name)))
    assert first_fault() is not None
