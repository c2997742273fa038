"""SOFTMAX as a kernel call."""

from __future__ import annotations

import numpy as np

from ndtool.export.codegen.program import Call, Read, Sharing, Struct, Table, Write
from ndtool.export.int8.ir import Graph, Softmax
from ndtool.quant import fixed_point as fp
from ndtool.quant.kernels import softmax_exponentials


def lower_softmax(graph: Graph, op: Softmax, index: int) -> tuple[Call, ...]:
    """A table of exponentials as far as they are not 0; in place over the input."""
    x = graph.tensor(op.x)
    classes = x.shape[-1]
    exp = softmax_exponentials(fp.requant_of(fp.softmax_real(x.scale, op.beta)))
    exp = np.trim_zeros(exp, "b")
    shape = Struct(
        type="nd_softmax_shape",
        fields=(("rows", x.elements // classes), ("n", classes), ("size", len(exp))),
    )
    return (
        Call(
            kernel="nd_softmax_s8",
            op=index,
            title=f"SOFTMAX of {classes}",
            args=(
                shape,
                Read(tensor=op.x),
                Table(name="exp", ctype="int32_t", data=exp.astype("<i4").tobytes()),
                Write(tensor=op.out),
            ),
            sharing=(Sharing(x=op.x, out=op.out, low=0, high=0),),
        ),
    )
