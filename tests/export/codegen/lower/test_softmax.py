"""The table of SOFTMAX's exponentials; its bytes: test_kernels_other."""

import numpy as np
import pytest
from single_op import Builder

from ndtool.export.codegen.lower.softmax import lower_softmax
from ndtool.export.codegen.program import Call, Sharing, Struct
from ndtool.export.int8.ir import Softmax


def softmax_call(shape: tuple[int, ...], scale: float, beta: float = 1.0) -> Call:
    b = Builder()
    x, out = b.activation(shape, (scale, 0)), b.activation(shape, (1 / 256, -128))
    op = Softmax(x=x, out=out, beta=beta)
    (call,) = lower_softmax(b.graph(op, x), op, 0)
    return call


@pytest.mark.parametrize(("scale", "beta"), [(0.1, 1.0), (0.02, 2.0), (1.0, 1.0), (1e-4, 0.5)])
def test_table_is_the_exponential_without_its_zeros(scale: float, beta: float) -> None:
    call = softmax_call((1, 3, 7), scale, beta)
    (table,) = call.tables
    exp = np.frombuffer(table.data, "<i4")
    real = np.exp(-scale * beta * np.arange(256)) * 2.0**31
    assert exp[0] == 2**31 - 1
    assert exp[-1] > 0
    assert np.abs(exp - real[: len(exp)]).max() < 2**31 * 1e-6
    # TFLM counts no difference of 31 or more in the fixed point it takes, which is 16 to 32 wide
    assert len(exp) == 256 or scale * beta * len(exp) > 15
    (struct,) = (arg for arg in call.args if isinstance(arg, Struct))
    assert dict(struct.fields) == {"rows": 3, "n": 7, "size": len(exp)}


def test_in_place() -> None:
    call = softmax_call((1, 10), 0.1)
    (x,) = call.reads
    assert call.sharing == (Sharing(x=x, out=call.out, low=0, high=0),)
