"""Layers with weights as calls: kernels, tables, refusals; their bytes: test_kernels_layers."""

from dataclasses import replace

import numpy as np
import pytest
from single_op import Builder

from ndtool.errors import UnsupportedError
from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.lower.layers import BAND_SCRATCH
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Call, Struct
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import (
    Activation,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Padding,
    PaddingKind,
    Pads,
)
from ndtool.quant.kernels import Window


def window_graph(
    kernel: tuple[int, int],
    *,
    size: tuple[int, int] = (6, 6),
    channels: tuple[int, int] = (4, 4),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    depthwise: bool = False,
    padding: Padding = PaddingKind.SAME,
) -> Graph:
    b = Builder()
    (c_in, c_out), rng = channels, np.random.default_rng(1)
    same, pads = padding is PaddingKind.SAME, ((0, 0), (0, 0))
    if isinstance(padding, Pads):
        pads = ((padding.top, padding.bottom), (padding.left, padding.right))
    out = [Window(kernel[i], stride[i], dilation[i], same, pads[i]).output(size[i]) for i in (0, 1)]
    shape = (1, *kernel, c_out) if depthwise else (c_out, *kernel, c_in)
    fields = {
        "x": b.activation((1, *size, c_in), (0.5, 11)),
        "weight": b.int8(rng.integers(-127, 128, shape), (0.25,) * c_out, 3 if depthwise else 0),
        "bias": b.int32(rng.integers(-999, 999, c_out), (0.125,) * c_out),
        "out": b.activation((1, *out, c_out), (8.0, -3)),
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "act": Activation.NONE,
    }
    if depthwise:
        return b.graph(DepthwiseConv2D(**fields, multiplier=c_out // c_in), fields["x"])
    return b.graph(Conv2D(**fields), fields["x"])


def only_call(graph: Graph) -> Call:
    (call,) = lower(Passed(graph=graph)).calls
    return call


def fields(call: Call) -> dict[str, int]:
    shape = call.args[0]
    assert isinstance(shape, Struct)
    return dict(shape.fields)


def table(call: Call, name: str) -> np.ndarray:
    (found,) = (t for t in call.tables if t.name == name)
    return np.frombuffer(found.data, {"int8_t": np.int8, "int32_t": "<i4"}[found.ctype])


@pytest.mark.parametrize(
    ("graph", "kernel", "title", "macs"),
    [
        (window_graph((1, 1)), "nd_pointwise_s8", "CONV_2D 1x1", 36 * 16),
        (window_graph((1, 1), size=(1, 1)), "nd_fully_connected_s8", "CONV_2D 1x1", 16),
        (window_graph((1, 1), stride=(2, 2)), "nd_conv_s8", "CONV_2D 1x1 s2", 9 * 16),
        (window_graph((3, 2), stride=(2, 1)), "nd_conv_s8", "CONV_2D 3x2 s2x1", 18 * 6 * 16),
        (window_graph((3, 3), dilation=(2, 2)), "nd_conv_s8", "CONV_2D 3x3 d2", 36 * 9 * 16),
        (
            window_graph((3, 3), channels=(4, 8), depthwise=True),
            "nd_depthwise_s8",
            "DEPTHWISE_CONV_2D 3x3",
            36 * 9 * 8,
        ),
    ],
)
def test_kernel_title_and_macs(graph: Graph, kernel: str, title: str, macs: int) -> None:
    call = only_call(graph)
    assert (call.kernel, call.title, call.macs) == (kernel, title, macs)


@pytest.mark.parametrize(("rows", "kernel"), [(1, "nd_fully_connected_s8"), (3, "nd_pointwise_s8")])
def test_fully_connected(rows: int, kernel: str) -> None:
    b = Builder()
    op = FullyConnected(
        x=b.activation((1, rows, 5), (0.5, 2)),
        weight=b.int8(np.ones((2, 5)), (0.25,)),
        bias=None,
        out=b.activation((1, rows, 2), (1.0, 0)),
        act=Activation.RELU,
        keep_num_dims=True,
    )
    call = only_call(b.graph(op, op.x))
    assert (call.kernel, call.title, call.macs) == (kernel, "FULLY_CONNECTED", rows * 10)
    # one weight scale in the file, tables of one number a channel in C
    assert table(call, "bias").tolist() == [-10, -10]
    assert table(call, "mult").tolist() == [2**30] * 2
    assert table(call, "shift").tolist() == [-2] * 2
    assert (fields(call)["act_min"], fields(call)["act_max"]) == (0, 127)


def test_zero_point_is_folded() -> None:
    graph = window_graph((3, 3))
    op = graph.ops[0]
    assert isinstance(op, Conv2D)
    weight = np.frombuffer(graph.tensor(op.weight).data or b"", np.int8).reshape(4, -1)
    bias = np.frombuffer(graph.tensor(op.bias or 0).data or b"", "<i4")
    call = only_call(graph)
    assert (table(call, "bias") == bias - 11 * weight.sum(axis=1, dtype=int)).all()
    assert (table(call, "w") == weight.ravel()).all()


def test_depthwise_weights_have_the_channel_in_front() -> None:
    graph = window_graph((3, 2), channels=(2, 4), depthwise=True)
    op = graph.ops[0]
    assert isinstance(op, DepthwiseConv2D)
    weight = np.frombuffer(graph.tensor(op.weight).data or b"", np.int8).reshape(3, 2, 4)
    got = table(only_call(graph), "w").reshape(4, 3, 2)
    assert all((got[c] == weight[:, :, c]).all() for c in range(4))


def test_depthwise_band_keeps_to_its_scratch() -> None:
    wide = only_call(window_graph((3, 3), size=(40, 48), depthwise=True))
    assert (fields(wide)["band"], wide.scratch) == (8, 500)
    assert wide.scratch <= BAND_SCRATCH
    assert fields(only_call(window_graph((3, 3), depthwise=True)))["band"] == 6  # the whole image
    # two rows do not fit, one must
    widest = only_call(window_graph((3, 3), size=(4, 400), depthwise=True))
    assert (fields(widest)["band"], widest.scratch) == (1, 3 * 402)


def test_depthwise_is_in_place_where_no_row_is_lost() -> None:
    wide = only_call(window_graph((3, 3), size=(40, 48), depthwise=True))
    assert [(rule.low, rule.high) for rule in wide.sharing] == [(0, 0)]
    # a larger output than input overtakes the rows that the next band reads
    grown = window_graph(
        (3, 3), size=(40, 48), depthwise=True, padding=Pads(top=2, left=2, bottom=2, right=2)
    )
    assert only_call(grown).sharing == ()
    doubled = window_graph((3, 3), channels=(4, 8), depthwise=True)
    assert only_call(doubled).sharing == ()


def test_numbers_without_effect_are_one() -> None:
    """A file may have any dilation where there is one tap, which no kernel shall multiply by."""
    graph = window_graph((1, 2), size=(1, 6), stride=(2**16, 3), dilation=(2**31 - 1, 1))
    assert spec.find_problems(graph) == []
    found = fields(only_call(graph))
    assert (found["stride_h"], found["dilation_h"], found["stride_w"]) == (1, 1, 3)


def large_depthwise() -> Graph:
    return window_graph((2, 2), dilation=(2**15, 2**15), depthwise=True)


def test_scratch_too_large_is_refused_by_name() -> None:
    graph = large_depthwise()
    assert spec.find_problems(graph) == []
    with pytest.raises(UnsupportedError, match="bytes of scratch") as caught:
        lower(Passed(graph=graph))
    assert caught.value.code == "codegen.scratch"
    assert caught.value.where == "op 0 DEPTHWISE_CONV_2D, tensor 3 't3'"


def test_every_offender_is_named() -> None:
    first = large_depthwise()
    b = Builder(list(first.tensors))
    op = first.ops[0]
    assert isinstance(op, DepthwiseConv2D)
    again = replace(op, x=op.out, out=b.activation((1, 6, 6, 4), (8.0, -3)))
    ops = (op, again)
    graph = replace(first, tensors=tuple(b.tensors), ops=ops, outputs=(again.out,))
    with pytest.raises(UnsupportedError) as caught:
        lower(Passed(graph=graph))
    assert [problem.where[:5] for problem in (caught.value, *caught.value.more)] == [
        "op 0 ",
        "op 1 ",
    ]
