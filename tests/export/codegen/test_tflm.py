"""Operators, arena and oldest version of TensorFlow Lite Micro."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from array_models import tiny_contract, tiny_model
from host_tools import CPP11, compile_ok, run_program

from ndtool.contract import unit_normalize
from ndtool.export.codegen import tflm
from ndtool.export.codegen.array import emit_array
from ndtool.export.int8 import ir
from ndtool.export.int8.ir import Activation, DType, PaddingKind, Tensor, TensorId

# Declared so in tensorflow/lite/micro/micro_mutable_op_resolver.h, commit 90b983c2 (2026-08-20)
_METHODS = """
    AddAbs AddAdd AddAveragePool2D AddConcatenation AddConv2D AddDepthwiseConv2D AddDequantize
    AddFullyConnected AddHardSwish AddLeakyRelu AddLogistic AddMaxPool2D AddMean AddMul AddPad
    AddPadV2 AddQuantize AddRelu AddRelu6 AddReshape AddResizeNearestNeighbor AddSoftmax AddSplit
    AddSplitV AddSqueeze AddStridedSlice AddSub AddTanh
"""
RESOLVER_METHODS = _METHODS.split()

STUB = """
#ifndef STUB_H
#define STUB_H
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
template <unsigned int count>
class MicroMutableOpResolver {
 public:
  unsigned int used = 0;
METHODS
 private:
  TfLiteStatus add() { return used++ < count ? kTfLiteOk : kTfLiteError; }
};
}
#endif
""".replace(
    "METHODS",
    "\n".join(f"  TfLiteStatus {name}() {{ return add(); }}" for name in RESOLVER_METHODS),
)


def all_op_names() -> set[str]:
    """Every name that ir.op_name can give."""
    binary = {kind.value for kind in ir.BinaryKind}
    unary = {kind.value for kind in ir.UnaryKind}
    names = binary | unary | {"MAX_POOL_2D", "AVERAGE_POOL_2D"}
    for kind in typing.get_args(ir.Op):
        if kind not in (ir.Binary, ir.Unary, ir.Pool2D):
            names.add(ir.op_name(object.__new__(kind)))
    return names


def test_every_operator_has_its_method() -> None:
    assert set(tflm.ADD_METHODS) == all_op_names()
    assert set(tflm.ADD_METHODS.values()) <= set(RESOLVER_METHODS)
    assert len(set(tflm.ADD_METHODS.values())) == len(tflm.ADD_METHODS)


# -- graphs ----------------------------------------------------------------------------------------


def tensor(*shape: int, scales: int = 1) -> Tensor:
    return Tensor(
        name="t", shape=shape, dtype=DType.INT8, scales=(0.5,) * scales, zero_points=(0,) * scales
    )


def graph(x: Tensor, weight: Tensor, out: Tensor, op: ir.Op) -> ir.Graph:
    """One op over tensors 0 (input), 1 (weight) and 2 (output)."""
    return ir.Graph(
        tensors=(x, weight, out), ops=(op,), inputs=(TensorId(0),), outputs=(TensorId(2),)
    )


def conv(kh: int, kw: int, c_in: int, *, dilation: int = 1) -> ir.Graph:
    op = ir.Conv2D(
        x=TensorId(0),
        weight=TensorId(1),
        bias=None,
        out=TensorId(2),
        stride=(1, 1),
        dilation=(dilation, dilation),
        padding=PaddingKind.SAME,
        act=Activation.NONE,
    )
    return graph(tensor(1, 9, 9, c_in), tensor(8, kh, kw, c_in), tensor(1, 9, 9, 8), op)


def depthwise(kh: int, kw: int, c_in: int, multiplier: int, *, dilation: int = 1) -> ir.Graph:
    op = ir.DepthwiseConv2D(
        x=TensorId(0),
        weight=TensorId(1),
        bias=None,
        out=TensorId(2),
        stride=(1, 1),
        dilation=(dilation, dilation),
        padding=PaddingKind.SAME,
        act=Activation.NONE,
        multiplier=multiplier,
    )
    c_out = c_in * multiplier
    return graph(tensor(1, 9, 9, c_in), tensor(1, kh, kw, c_out), tensor(1, 9, 9, c_out), op)


def fully_connected(c_in: int, out: Tensor, *, scales: int = 1) -> ir.Graph:
    op = ir.FullyConnected(
        x=TensorId(0),
        weight=TensorId(1),
        bias=None,
        out=TensorId(2),
        act=Activation.NONE,
        keep_num_dims=False,
    )
    weight = tensor(out.shape[-1], c_in, scales=scales)
    return graph(tensor(1, c_in), weight, out, op)


def pool(channels: int, *, is_max: bool) -> ir.Graph:
    op = ir.Pool2D(
        is_max=is_max,
        x=TensorId(0),
        out=TensorId(2),
        kernel=(2, 2),
        stride=(2, 2),
        padding=PaddingKind.VALID,
        act=Activation.NONE,
    )
    return graph(tensor(1, 8, 8, channels), tensor(1), tensor(1, 4, 4, channels), op)


# What CMSIS-NN's own *_get_buffer_size functions return at commit 4ab83cc3 (mcu.md, 3.2), by hand:
# the largest of the portable, the DSP and the MVE build.
@pytest.mark.parametrize(
    ("model", "extra"),
    [
        pytest.param(conv(3, 3, 3), 4 * 32, id="conv-3x3x3-mve-27-to-32"),
        pytest.param(conv(3, 3, 64), 4 * 576, id="conv-3x3x64"),
        pytest.param(conv(1, 1, 64), 4 * 64, id="conv-1x1-arm-compiler"),
        pytest.param(conv(1, 1, 64, dilation=2), 4 * 64, id="conv-1x1-dilated"),
        pytest.param(depthwise(3, 3, 64, 1), 4464, id="depthwise-3x3-mve"),
        pytest.param(depthwise(7, 7, 480, 1), 47040, id="depthwise-7x7x480-dsp"),
        pytest.param(depthwise(3, 3, 64, 2), 0, id="depthwise-multiplier"),
        pytest.param(depthwise(3, 3, 64, 1, dilation=2), 0, id="depthwise-dilated"),
        pytest.param(depthwise(3, 3, 1, 8), 4 * 16 + 72, id="depthwise-one-channel-as-conv"),
        pytest.param(pool(33, is_max=False), 4 * 33, id="average-pool-dsp"),
        pytest.param(pool(33, is_max=True), 0, id="max-pool"),
        pytest.param(fully_connected(64, tensor(1, 10)), 4 * 10, id="fc-sums"),
        pytest.param(fully_connected(64, tensor(1, 5, 10)), 8 * 10 + 4 * 64, id="fc-as-conv"),
        pytest.param(fully_connected(63, tensor(1, 5, 10)), 4 * 10, id="fc-odd-depth"),
    ],
)
def test_arena_holds_cmsis_nn_s_scratch(model: ir.Graph, extra: int) -> None:
    arena = tflm.arena_bytes(model, 10_000)
    assert arena % 16 == 0
    assert 10_000 + extra + 16 <= arena < 10_000 + extra + 32


def test_arena_takes_the_largest_scratch_and_all_sums() -> None:
    small, large = conv(3, 3, 3), conv(3, 3, 64)
    both = dataclasses.replace(
        large, tensors=small.tensors + large.tensors, ops=small.ops + shifted(large.ops, 3)
    )
    assert tflm.arena_bytes(both, 0) == tflm.arena_bytes(large, 0)
    layer = fully_connected(64, tensor(1, 10))
    twice = dataclasses.replace(layer, ops=layer.ops * 2)
    assert tflm.arena_bytes(twice, 0) == 96  # 40 + 40 + 16


def shifted(ops: tuple[ir.Op, ...], by: int) -> tuple[ir.Op, ...]:
    """Convolutions whose tensors are `by` further on."""
    return tuple(
        dataclasses.replace(
            op, x=TensorId(op.x + by), weight=TensorId(op.weight + by), out=TensorId(op.out + by)
        )
        for op in ops
        if isinstance(op, ir.Conv2D)
    )


def test_oldest_version() -> None:
    per_tensor = fully_connected(8, tensor(1, 10))
    per_channel = fully_connected(8, tensor(1, 10), scales=10)
    assert tflm.oldest_tflm(per_tensor) == tflm.FIRST
    assert tflm.oldest_tflm(conv(3, 3, 3)) == tflm.FIRST
    assert tflm.oldest_tflm(per_channel) == tflm.PER_CHANNEL_FC


# -- the header ------------------------------------------------------------------------------------


def test_header_registers_each_operator_once(tmp_path: Path) -> None:
    base = tiny_model(tiny_contract(unit_normalize(1)))
    ops: tuple[ir.Op, ...] = (
        *depthwise(3, 3, 4, 1).ops,
        *conv(1, 1, 4).ops,
        *conv(3, 3, 4).ops,
        *fully_connected(4, tensor(1, 2), scales=2).ops,
        *base.graph.ops,
    )
    tensors = (*base.graph.tensors, tensor(1, 2))
    weights = dataclasses.replace(tensors[1], scales=(0.5, 0.5), zero_points=(0, 0))
    layer = dataclasses.replace(
        base.graph, tensors=(tensors[0], tensors[1], tensors[2], weights), ops=ops
    )
    files = emit_array(dataclasses.replace(base, graph=layer, arena_bytes=12_352))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    stub = tmp_path / "tensorflow" / "lite" / "micro" / "micro_mutable_op_resolver.h"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB)
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "nd_model_tflm.h"\n#include "nd_model_tflm.h"\n'
        "int main()\n{\n"
        "    nd_model_op_resolver resolver;\n"
        "    const bool good = nd_model_add_ops(resolver) == kTfLiteOk && resolver.used == 4 &&\n"
        "                      ND_MODEL_TFLM_ARENA_BYTES == 12352;\n"
        "    const bool full = resolver.AddAbs() == kTfLiteError;\n"
        "    return good && full ? 0 : 1;\n}\n"
    )
    program = tmp_path / "main"
    compile_ok(CPP11, [main], f"-I{tmp_path}", "-o", str(program), cwd=tmp_path)
    assert run_program(program) == 0
    text = files["nd_model_tflm.h"].decode()
    assert "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED SOFTMAX" in text


def test_header_names_the_oldest_version_and_the_remedy() -> None:
    base = tiny_model(None)
    plain = emit_array(base)["nd_model_tflm.h"].decode()
    assert "a37043f (2021-04-09)" in plain
    assert "--fc per-tensor" not in plain
    layer = fully_connected(7, tensor(1, 3), scales=3)
    tensors = (base.graph.tensors[0], layer.tensors[1], base.graph.tensors[1])
    changed = dataclasses.replace(layer, tensors=tensors)
    text = emit_array(dataclasses.replace(base, graph=changed))["nd_model_tflm.h"].decode()
    assert "47b5450 (2024-09-27)" in text
    assert "--fc per-tensor" in text
