"""layers.csv: one row an operation."""

import numpy as np
import single_op

from ndtool.export.layers import HEAD, layers_csv


def test_a_split_has_one_row_with_all_its_outputs() -> None:
    b = single_op.Builder()
    x = b.activation((1, 6, 4), (1, 0))
    outs = tuple(b.activation((1, 2, 4), (1, 0)) for _ in range(3))
    graph = b.graph(single_op.Split(x=x, axis_id=b.int32(1), outs=outs, axis=1), x)
    assert layers_csv(graph).splitlines() == [HEAD, "0,SPLIT,t1;t2;t3,1x6x4,1x2x4,0,4,24"]


def test_the_input_is_an_activation_wherever_it_stands() -> None:
    b = single_op.Builder()
    constant = b.int8(np.ones((1, 1, 1, 3)), (1.0,))
    x = b.activation((1, 5, 5, 3), (1, 0))
    op = single_op.Binary(
        kind=single_op.BinaryKind.SUB,
        a=constant,
        b=x,
        out=b.activation((1, 5, 5, 3), (1, 0)),
        act=single_op.Activation.NONE,
    )
    (_, row) = layers_csv(b.graph(op, x)).splitlines()
    assert row == "0,SUB,t2,1x5x5x3,1x5x5x3,0,3,75"
