"""Random int8 graphs that are no chains: several inputs and outputs, tensors read often or never.

The operations are `dead_networks`': what a planner and the passes can get wrong lies in who else
reads a tensor, and when.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dead_networks import STEPS, Net
from single_op import pick

from ndtool.export.int8.ir import Graph, TensorId, op_inputs, op_outputs

MAX_ELEMENTS = 2500  # of an image that further operations may read


class Web(Net):
    """A net whose steps may take any tensor that is there: `images` has them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.images: list[TensorId] = []

    def image(self) -> TensorId:
        """One of the last images, or any."""
        recent = self.images[-3:] if self.chance(0.5) else self.images
        return recent[self.size(0, len(recent) - 1)]

    def partner(self, good: Callable[[TensorId], bool]) -> TensorId:
        """Some image for which `good` holds, as it does for one at least."""
        found = [t for t in self.images if good(t)]
        return found[self.size(0, len(found) - 1)]

    def meeting(self, x: TensorId) -> TensorId:
        """ADD, SUB or MUL of two tensors of one shape, or of x and itself."""
        return self.binary(x, self.partner(lambda t: self.shape(t) == self.shape(x)), self.shape(x))

    def sum_of_convolution(self, x: TensorId) -> TensorId:
        """What lies between the convolution and the sum is another step."""
        made = self.convolution(x, plain=True, c_out=self.shape(x)[3])
        self.images += [made, self.step()]
        return self.meeting(made)

    def collected(self, x: TensorId) -> TensorId:
        """CONCATENATION of tensors that are read elsewhere too, or are one."""
        axis = pick(self.rng, [1, 2, 3])

        def fits(t: TensorId) -> bool:
            pairs = enumerate(zip(self.shape(t), self.shape(x), strict=True))
            return self.like(t) == self.like(x) and all(i == axis or a == b for i, (a, b) in pairs)

        return self.joined([x, *(self.partner(fits) for _ in range(self.size(0, 3)))], axis)

    def there_and_back(self, x: TensorId) -> TensorId:
        """RESHAPE of a RESHAPE: three names of the same bytes."""
        shape = self.shape(x)
        return self.reshaped(self.reshaped(x, (1, int(np.prod(shape)))), shape)

    def step(self) -> TensorId:
        x = self.image()
        ways = (Web.meeting, *[Web.sum_of_convolution] * 3, Web.collected, Web.there_and_back)
        if self.chance(0.4):
            return ways[self.size(0, len(ways) - 1)](self, x)
        return STEPS[self.size(0, len(STEPS) - 1)](self, x)


def random_graph(seed: int) -> Graph:
    """A graph of 3 to about 20 operations with 1 to 3 inputs; nearly all are legal."""
    web = Web(10_000 + seed)
    shape = (1, web.size(1, 6), web.size(1, 6), web.size(1, 4))
    if web.chance(0.2):  # so wide that a depthwise convolution works on bands of rows
        shape = (1, web.size(8, 12), web.size(70, 120), 1)
    inputs = [web.activation(shape, web.some())]
    for _ in range(web.size(0, 2)):
        params = web.like(inputs[0]) if web.chance(0.5) else web.some()
        inputs.append(web.activation(shape, params))
    web.images += inputs
    least = web.size(3, 12)
    while len(web.ops) < least:
        made = web.step()
        if np.prod(web.shape(made)) <= MAX_ELEMENTS:
            web.images.append(made)
    made = [t for op in web.ops for t in op_outputs(op)]
    read = {t for op in web.ops for t in op_inputs(op)}
    ends = [t for t in made if t not in read and web.chance(0.8)]
    ends += [t for t in made if t in read and web.chance(0.1)]
    if web.chance(0.1):
        ends.append(inputs[0])
    ends = ends or made[-1:]
    return Graph(
        tensors=tuple(web.tensors),
        ops=tuple(web.ops),
        inputs=tuple(inputs),
        outputs=tuple(ends[i] for i in web.rng.permutation(len(ends))),
    )
