"""The operators that the C engine has: what `ndtool codegen --list-ops` and the docs say of each.

Everything is int8, with a batch of 1 and at most five dimensions, and what TFLM refuses or leaves
undefined is refused by name. A row says what more can be said of its operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of TFLite, by its builtin name.

    `kernels`: C functions of the portable tier that a model with this operator may call, none
    where bytes stay where they are. `supported` and `refused`: a phrase each. `in_place`: where the
    output may lie over an input that nothing reads later; empty where it never may.
    """

    name: str
    kernels: tuple[str, ...]
    supported: str
    refused: str
    in_place: str = ""


_TABLE: Final = ("nd_table_s8",)
_SAME_PARAMS: Final = "an output with another scale or zero point"
_OVER_INPUT: Final = "over the input"
_OVER_OPERAND: Final = "over an operand of the output's shape"
_OVERFLOW: Final = "scales with which a sum or product leaves 32 bits"
_BY_TABLE: Final = "any shape; a table of 256 bytes"

OPERATORS: Final = (
    Operator(
        name="ADD",
        kernels=("nd_add_s8", "nd_conv_add_s8", "nd_pointwise_add_s8"),
        supported="broadcasting, a constant operand, fused activation; "
        "part of the CONV_2D before it where that has no other reader",
        refused="an output scale under 2^-19 of an input's",
        in_place=_OVER_OPERAND,
    ),
    Operator(
        name="AVERAGE_POOL_2D",
        kernels=("nd_average_pool_s8",),
        supported="a window below twice the image, any stride and padding, fused activation",
        refused=f"{_SAME_PARAMS}; windows over 2^23 pixels",
        in_place="over the input, as far as later windows allow",
    ),
    Operator(
        name="CONCATENATION",
        kernels=("nd_copy_s8",),
        supported="1 to 10 inputs, any axis but the batch",
        refused=f"{_SAME_PARAMS}; a fused activation; a constant input",
    ),
    Operator(
        name="CONV_2D",
        kernels=(
            "nd_conv_s8",
            "nd_conv_add_s8",
            "nd_pointwise_s8",
            "nd_pointwise_add_s8",
            "nd_fully_connected_s8",
        ),
        supported="any kernel, stride, dilation and padding, weight scales per channel or tensor, "
        "no bias, fused activation",
        refused=f"groups; weight zero points; weights that are no constants; {_OVERFLOW}",
        in_place="over the input, or beside it by rows, as the sizes allow",
    ),
    Operator(
        name="DEPTHWISE_CONV_2D",
        kernels=("nd_depthwise_s8",),
        supported="any kernel, stride, dilation, padding and multiplier, weight scales per channel "
        "or tensor, no bias, fused activation",
        refused=f"weight zero points; weights that are no constants; {_OVERFLOW}",
        in_place="over the input, with a multiplier of 1, where no row is needed later",
    ),
    Operator(
        name="DEQUANTIZE",
        kernels=(),
        supported="int8 to float at the model's output, left out: C gives the int8 tensor",
        refused="anywhere else",
    ),
    Operator(
        name="FULLY_CONNECTED",
        kernels=("nd_fully_connected_s8", "nd_pointwise_s8"),
        supported="any rank, weight scales per channel or tensor, no bias, fused activation",
        refused=f"shuffled weights; weight zero points; weights that are no constants; {_OVERFLOW}",
        in_place="over the input, where it is a row for each of several pixels",
    ),
    Operator(
        name="HARD_SWISH",
        kernels=_TABLE,
        supported=_BY_TABLE,
        refused="an output scale under 1/128 of the input's, or scales out of 16-bit reach",
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="LEAKY_RELU",
        kernels=_TABLE,
        supported=f"{_BY_TABLE}; any slope",
        refused=_OVERFLOW,
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="LOGISTIC",
        kernels=_TABLE,
        supported=_BY_TABLE,
        refused="an output that has not scale 1/256 and zero point -128",
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="MAX_POOL_2D",
        kernels=("nd_max_pool_s8",),
        supported="a window below twice the image, any stride and padding, fused activation",
        refused=f"{_SAME_PARAMS}; windows over 2^23 pixels",
        in_place="over the input, as far as later windows allow",
    ),
    Operator(
        name="MEAN",
        kernels=("nd_mean_s8",),
        supported="any axes but the batch, kept or not",
        refused=_OVERFLOW,
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="MUL",
        kernels=("nd_mul_s8",),
        supported="broadcasting, a constant operand, fused activation",
        refused=_OVERFLOW,
        in_place=_OVER_OPERAND,
    ),
    Operator(
        name="PAD",
        kernels=("nd_pad_s8",),
        supported="any sides but the batch's; part of the convolution that reads it alone",
        refused=f"{_SAME_PARAMS}; paddings that are no constant or negative",
    ),
    Operator(
        name="QUANTIZE",
        kernels=_TABLE,
        supported="int8 to int8, a table of 256 bytes; from float at the model's input, left out",
        refused="any other type",
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="RELU",
        kernels=_TABLE,
        supported=_BY_TABLE,
        refused=_OVERFLOW,
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="RELU6",
        kernels=_TABLE,
        supported=_BY_TABLE,
        refused=f"{_SAME_PARAMS}; a scale on which 6 is beyond 127",
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="RESHAPE",
        kernels=(),
        supported="any shapes of as many elements; costs nothing",
        refused=f"{_SAME_PARAMS}; a shape that is no constant",
        in_place="always",
    ),
    Operator(
        name="RESIZE_NEAREST_NEIGHBOR",
        kernels=("nd_resize_nearest_s8",),
        supported="any size, align_corners, half_pixel_centers",
        refused=f"{_SAME_PARAMS}; sides over 65,536 pixels; a size that is no constant",
    ),
    Operator(
        name="SOFTMAX",
        kernels=("nd_softmax_s8",),
        supported="any shape, up to 4,095 classes, any beta; where a row's exponentials sum to 512 "
        "or more TFLM's result is undefined, and C gives shares of 0",
        refused="an output that has not scale 1/256 and zero point -128; "
        "beta times the input scale under 2^-26",
        in_place=_OVER_INPUT,
    ),
    Operator(
        name="SPLIT",
        kernels=("nd_copy_s8",),
        supported="equal parts, any axis but the batch",
        refused=f"{_SAME_PARAMS}; an axis that is no constant",
    ),
    Operator(
        name="SQUEEZE",
        kernels=(),
        supported="any dimensions of 1; costs nothing",
        refused=_SAME_PARAMS,
        in_place="always",
    ),
    Operator(
        name="STRIDED_SLICE",
        kernels=("nd_slice_s8",),
        supported="up to four dimensions, negative strides, begin, end and shrink masks",
        refused=f"{_SAME_PARAMS}; ellipsis and new-axis masks; bounds that are no constants",
    ),
    Operator(
        name="SUB",
        kernels=("nd_add_s8",),
        supported="broadcasting, a constant operand, fused activation",
        refused="an output scale under 2^-19 of an input's",
        in_place=_OVER_OPERAND,
    ),
    Operator(
        name="TANH",
        kernels=_TABLE,
        supported=_BY_TABLE,
        refused="an output that has not scale 1/128 and zero point 0",
        in_place=_OVER_INPUT,
    ),
)
