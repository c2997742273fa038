"""A good file has no finding; each rule is broken once, by one change of the file."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import single_op
from ai_edge_litert import schema_py_generated as fb
from float_ends import add_float_inputs, packed, unpacked
from int8_network import network

from ndtool.contract import Contract, InputSpec, Resize, mean_std_normalize, unit_normalize
from ndtool.errors import InputError
from ndtool.export.int8.ir import Graph, Softmax
from ndtool.export.tflite import lint as lint_module
from ndtool.export.tflite.lint import ALLOWED, Severity, lint
from ndtool.export.tflite.writer import write_tflite
from ndtool.types import Converter

LABELS = ("a", "b", "c", "d", "e")
Change = Callable[[fb.ModelT], object]
OP = fb.BuiltinOperator


def contract(side: int = 8, labels: tuple[str, ...] = LABELS, *, unit: bool = True) -> Contract:
    normalize = unit_normalize(3) if unit else mean_std_normalize((0.5,) * 3, (0.2,) * 3)
    spec = InputSpec(height=side, width=side, channels=3, color="RGB")
    return Contract(input=spec, resize=Resize(), normalize=normalize, labels=labels)


def rules(
    data: bytes, terms: Contract | None = None, converter: Converter = Converter.NATIVE
) -> set[str]:
    return {finding.rule for finding in lint(data, terms, converter=converter)}


@pytest.mark.parametrize("fc_scales", [1, 5])
@pytest.mark.parametrize("converter", Converter)
def test_a_good_file_has_no_finding(fc_scales: int, converter: Converter) -> None:
    data = write_tflite(network(fc_scales), description="good")
    assert lint(data, contract(), converter=converter) == []
    assert lint(data, None, converter=converter) == []


def changed(change: Change, graph: Graph | None = None) -> bytes:
    """The file, aligned by luck only: the object API does not align constants."""
    model = unpacked(graph or network())
    change(model)
    return packed(model)


def tensors(model: fb.ModelT) -> list[fb.TensorT]:
    return model.subgraphs[0].tensors


def operand(model: fb.ModelT, builtin: int, position: int) -> fb.TensorT:
    """The tensor at that position of the first operator of that kind."""
    return tensors(model)[operator(model, builtin).inputs[position]]


def operator(model: fb.ModelT, builtin: int) -> fb.OperatorT:
    codes = [code.builtinCode for code in model.operatorCodes]
    found = (o for o in model.subgraphs[0].operators if codes[o.opcodeIndex] == builtin)
    return next(found)


def quantize(tensor: fb.TensorT, scales: list[float], zeros: list[int], dim: int = 0) -> None:
    tensor.quantization = fb.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = scales, zeros
    tensor.quantization.quantizedDimension = dim


def put(holder: object, field: str, position: int, value: float) -> None:
    """One element of a vector, which the object API gives read-only."""
    values = list(getattr(holder, field))
    values[position] = value
    setattr(holder, field, values)


def becomes(builtin: int, custom: str | None = None) -> Change:
    def change(model: fb.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
        code.customCode = custom

    return change


def version(by: int) -> Change:
    def change(model: fb.ModelT) -> None:
        model.operatorCodes[0].version += by

    return change


def extra_buffer(data: bytes) -> Change:
    def change(model: fb.ModelT) -> None:
        model.buffers.append(fb.BufferT())
        model.buffers[-1].data = list(data)

    return change


def first_buffer(model: fb.ModelT) -> None:
    model.buffers[0].data = [1]


def own_empty_buffer(model: fb.ModelT) -> None:
    extra_buffer(b"")(model)
    tensors(model)[0].buffer = len(model.buffers) - 1


def outside(model: fb.ModelT) -> None:
    model.buffers[1].offset, model.buffers[1].size = 64, 16


def other_files(model: fb.ModelT) -> None:
    model.externalBuffers = []
    model.externalBufferGroups = []


def lonely_tensor(model: fb.ModelT) -> None:
    tensors(model).append(tensors(model)[0])


def lonely_code(model: fb.ModelT) -> None:
    model.operatorCodes.append(fb.OperatorCodeT())


def metadata(model: fb.ModelT) -> None:
    model.metadata = [fb.MetadataT()]
    model.metadata[0].name, model.metadata[0].buffer = "CONVERSION_METADATA", 0


def signature(model: fb.ModelT) -> None:
    model.signatureDefs = [fb.SignatureDefT()]


def first_tensor(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(tensors(model)[0], name, value)

    return change


def one_zero_point(model: fb.ModelT) -> None:
    operand(model, OP.CONV_2D, 1).quantization.zeroPoint = [0]


def subgraphs(model: fb.ModelT) -> None:
    model.subgraphs.append(model.subgraphs[0])


def two_outputs(model: fb.ModelT) -> None:
    last = model.subgraphs[0].operators[-2].outputs[0]
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, last]


def no_bias(model: fb.ModelT) -> None:
    put(operator(model, OP.CONV_2D), "inputs", 2, -1)


def unread_scale(model: fb.ModelT) -> None:
    x, weight = (operand(model, OP.CONV_2D, i).quantization.scale for i in (0, 1))
    products = [float(np.float32(x[0]) * np.float32(s)) for s in weight]
    quantize(operand(model, OP.CONV_2D, 2), products, [0] * len(products))


def wrong_bias_scale(model: fb.ModelT) -> None:
    unread_scale(model)
    parameters = operand(model, OP.CONV_2D, 2).quantization
    put(parameters, "scale", 0, parameters.scale[0] * 1.00001)


def unscaled_fc_bias(model: fb.ModelT) -> None:
    operand(model, OP.FULLY_CONNECTED, 2).quantization = None


def tiny_weight_scale(model: fb.ModelT) -> None:
    put(operand(model, OP.CONV_2D, 1).quantization, "scale", 0, 1e-12)


def least_weight(model: fb.ModelT) -> None:
    put(model.buffers[operand(model, OP.CONV_2D, 1).buffer], "data", 0, 128)


def weight(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(operand(model, OP.CONV_2D, 1).quantization, name, value)

    return change


def zero_weight_scale(model: fb.ModelT) -> None:
    put(operand(model, OP.CONV_2D, 1).quantization, "scale", 0, 0.0)


def bias_type(model: fb.ModelT) -> None:
    bias = operand(model, OP.CONV_2D, 2)
    extra_buffer(bytes(bias.shape[0]))(model)
    bias.type, bias.buffer = fb.TensorType.INT8, len(model.buffers) - 1


def bias_zero_point(model: fb.ModelT) -> None:
    unread_scale(model)
    put(operand(model, OP.CONV_2D, 2).quantization, "zeroPoint", 0, 1)


def short_scales(model: fb.ModelT) -> None:
    quantize(operand(model, OP.CONV_2D, 1), [0.5] * 4, [0] * 4)


def scale_of(builtin: int, value: float, *, out: bool = False) -> Change:
    def change(model: fb.ModelT) -> None:
        op = operator(model, builtin)
        tensor = tensors(model)[op.outputs[0] if out else op.inputs[0]]
        tensor.quantization.scale = [value]

    return change


def batch(model: fb.ModelT) -> None:
    put(tensors(model)[0], "shape", 0, 2)


MUTANTS: list[tuple[str, Change]] = [
    ("file.metadata", metadata),
    ("file.signature", signature),
    ("file.subgraphs", subgraphs),
    *(
        ("file.operator", becomes(getattr(OP, name)))
        for name in ("TRANSPOSE", "DEQUANTIZE", "CAST", "SHAPE", "PACK", "STRIDED_SLICE")
    ),
    ("file.operator", becomes(OP.CUSTOM, "my_op")),
    ("file.operator", becomes(OP.CUSTOM, "FlexErf")),
    *(
        ("file.tensor", first_tensor(type=getattr(fb.TensorType, name)))
        for name in ("FLOAT32", "INT64", "UINT8", "INT16")
    ),
    ("buffer.first", first_buffer),
    ("buffer.align", lambda model: None),
    ("buffer.outside", outside),
    ("buffer.outside", other_files),
    ("buffer.unused", extra_buffer(b"123")),
    ("buffer.empty", own_empty_buffer),
    ("opcode.unused", lonely_code),
    ("tensor.unused", lonely_tensor),
    ("tensor.dynamic", first_tensor(shapeSignature=[-1, 8, 8, 3])),
    ("tensor.zero-points", one_zero_point),
    ("tensor.name", first_tensor(name="x" * 65)),
    ("model.ends", two_outputs),
    ("model.float-ends", add_float_inputs),
    ("op.version-new", version(1)),
    ("op.version-old", version(-1)),
    ("bias.missing", no_bias),
    ("bias.scale-unread", unread_scale),
    ("op.multiplier-range", tiny_weight_scale),
    ("weight.minimum", least_weight),
    # rules of the spec that the lint list names, broken in the file
    ("op.weight-zero-point", weight(zeroPoint=[1] * 6)),
    ("tensor.scale", zero_weight_scale),
    ("tensor.scale", weight(scale=[float("nan")] * 6)),
    ("tensor.quantized-dim", short_scales),
    ("tensor.quantized-dim", weight(quantizedDimension=1)),
    ("op.operand", bias_type),
    ("tensor.zero-point", bias_zero_point),
    ("op.bias-scale", wrong_bias_scale),
    ("op.equal-params", scale_of(OP.MAX_POOL_2D, 0.5)),
    ("op.equal-params", scale_of(OP.CONCATENATION, 0.5, out=True)),
    ("op.fixed-output", scale_of(OP.LOGISTIC, 0.5, out=True)),
    ("op.add-ratio", scale_of(OP.ADD, 1e-12, out=True)),
    ("op.hard-swish", scale_of(OP.HARD_SWISH, 1e-12, out=True)),
    ("op.overflow", scale_of(OP.FULLY_CONNECTED, 1e-12, out=True)),
    ("tensor.batch", batch),
]


@pytest.mark.parametrize(("rule", "change"), MUTANTS)
def test_each_broken_rule_is_found_in_the_file(rule: str, change: Change) -> None:
    assert rules(changed(lambda model: None)) == {"buffer.align"}
    assert rule in rules(changed(change), contract())


def test_a_per_tensor_layer_needs_its_bias_scale() -> None:
    assert "bias.scale-missing" in rules(changed(unscaled_fc_bias, network(1)))


def softmax_over(classes: int) -> Graph:
    b = single_op.Builder()
    x = b.activation((1, classes), (0.1, 0))
    return b.graph(Softmax(x=x, out=b.activation((1, classes), (1 / 256, -128)), beta=1.0), x)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (single_op.CASES["PAD"](np.random.default_rng(0)), {"op.pad"}),
        (single_op.CASES["QUANTIZE"](np.random.default_rng(0)), {"op.quantize"}),
        (softmax_over(511), set()),
        (softmax_over(512), {"op.softmax-classes"}),
    ],
)
def test_costly_operations_are_warnings(graph: Graph, expected: set[str]) -> None:
    findings = lint(write_tflite(graph, description=""), None, converter=Converter.NATIVE)
    assert {f.rule for f in findings} == expected
    assert {f.severity for f in findings} <= {Severity.WARNING}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (contract(side=9), {"contract.shape"}),
        (contract(unit=False), {"contract.scale"}),
        (contract(labels=LABELS[:4]), {"contract.classes"}),
    ],
)
def test_the_file_must_keep_the_contract(terms: Contract, expected: set[str]) -> None:
    assert rules(write_tflite(network(), description=""), terms) == expected


def test_every_rule_of_the_module_is_tested() -> None:
    source = Path(lint_module.__file__).read_text()
    named = set(
        re.findall(r'"((?:file|buffer|tensor|op|opcode|bias|weight|model)\.[a-z-]+)"', source)
    )
    tested = {rule for rule, _ in MUTANTS}
    tested |= {"bias.scale-missing", "op.pad", "op.quantize", "op.softmax-classes"}
    assert named <= tested
    assert ALLOWED[Converter.TENSORFLOW] <= named


def test_what_a_converter_is_allowed_is_not_found() -> None:
    for rule, change in MUTANTS:
        if rule in ALLOWED[Converter.TENSORFLOW]:
            data = changed(change)
            assert rule in rules(data)
            assert rule not in rules(data, converter=Converter.TENSORFLOW)


def test_errors_come_first_and_name_their_place() -> None:
    def several(model: fb.ModelT) -> None:
        metadata(model)
        lonely_tensor(model)

    findings = lint(changed(several), None, converter=Converter.NATIVE)
    severities = [f.severity for f in findings]
    assert severities == sorted(severities, key=lambda s: s is Severity.WARNING)
    (unused,) = (f for f in findings if f.rule == "tensor.unused")
    assert unused.tensor == len(network().tensors)
    assert "'t0'" in unused.text


def test_bytes_that_are_no_model_are_an_error_not_a_finding() -> None:
    with pytest.raises(InputError):
        lint(b"hello", None, converter=Converter.NATIVE)
