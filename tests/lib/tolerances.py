"""Every tolerance of the tests, with its reason. Where the arithmetic is the same: equality."""

from typing import Final

# ONNX against torch, and the float graph against ONNX: the same products summed in another order,
# about sqrt(K) * 2^-24 * the sum's size. A wrong layout, padding or BN fold gives more than 1e-2.
LOGITS_ABS: Final = 1e-4
