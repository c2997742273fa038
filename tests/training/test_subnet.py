"""Networks of NetAug: legal, within the widest one, drawn uniformly, the same on every process."""

from collections import Counter
from dataclasses import replace

import nets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Stem, check_spec, lower, tensor_shapes
from ndtool.models import MODELS, make_spec
from ndtool.training.seeds import Use, generator
from ndtool.training.subnet import EXPANDS, WIDTHS, WIDTHS_OF, draw, maximal, widen, width_count

EVERY = [*MODELS, "se", "projection"]


def basic(stride: int, c_out: int) -> Block:
    return Block(
        kind=BlockKind.BASIC,
        kernel=3,
        stride=stride,
        mid=10,
        c_out=c_out,
        act=Act.RELU,
        act_out=Act.RELU,
        shortcut=True,
    )


def spec_of(name: str) -> ArchSpec:
    if name == "se":
        return nets.se_spec()
    if name == "projection":  # 10 channels widened by 1.8 are as many as 18 by 1
        stem = Stem(c_out=10, kernel=3, stride=1, act=Act.RELU)
        return replace(nets.se_spec(), stem=stem, blocks=(basic(1, 18), basic(1, 18)))
    model = MODELS[name]
    return make_spec(name, width=0.35, size_px=model.resolution, in_channels=3, classes=10)


SPECS = {name: spec_of(name) for name in EVERY}


def drawn(name: str, seed: int, *, vary_widths: bool = True) -> ArchSpec:
    gen = torch.Generator().manual_seed(seed)
    return draw(SPECS[name], gen, vary_widths=vary_widths)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(name=st.sampled_from(EVERY), seed=st.integers(0, 2**31), vary_widths=st.booleans())
def test_a_draw_is_legal_and_lies_between_student_and_widest(
    name: str, seed: int, *, vary_widths: bool
) -> None:
    spec, made = SPECS[name], drawn(name, seed, vary_widths=vary_widths)
    check_spec(made, where="drawn")
    widest = lower(maximal(spec))
    assert [(x.name, x.op, x.inputs) for x in lower(made)] == [
        (x.name, x.op, x.inputs) for x in widest
    ]
    inner, mine, outer = (tensor_shapes(x) for x in (lower(spec), lower(made), widest))
    for tensor, shape in mine.items():
        bounds = zip(inner[tensor], shape, outer[tensor], strict=True)
        assert all(low <= size <= high for low, size, high in bounds), tensor


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.sampled_from(EVERY), st.integers(0, 2**31))
def test_without_widths_only_what_lies_inside_a_block_differs(name: str, seed: int) -> None:
    spec, made = SPECS[name], drawn(name, seed, vary_widths=False)
    assert (made.stem, made.head) == (spec.stem, spec.head)
    for old, new in zip(spec.blocks, made.blocks, strict=True):
        assert replace(new, mid=old.mid, se=old.se) == old
        assert new.mid in {round(old.mid * factor) for factor in EXPANDS}


@pytest.mark.parametrize("name", EVERY)
def test_factors_of_one_give_the_student_itself(name: str) -> None:
    spec = SPECS[name]
    assert widen(spec, [1.0] * width_count(spec), [1.0] * len(spec.blocks)) == spec
    assert maximal(spec) != spec
    assert (maximal(spec).in_channels, maximal(spec).classes) == (3, spec.classes)


def test_widest_mobilenet_by_hand() -> None:
    widest = maximal(SPECS["mbv2"])
    assert widest.stem.c_out == 42  # 16 x 2.6 = 41.6
    first, second, third = widest.blocks[:3]
    assert (first.mid, first.c_out) == (0, 21)  # 8 x 2.6 = 20.8
    assert (second.mid, second.c_out) == (353, 21)  # ratio 6 x 2.8 x 21 inputs = 352.8
    assert third.c_out == 21
    assert widest.head.conv == 3328
    assert maximal(SPECS["mbv3"]).stem.c_out == 24  # factor 3
    assert maximal(SPECS["mcunet-320kb"]).stem.c_out == round(2.2 * 8)


def test_squeeze_keeps_its_ratio_to_the_channels_it_gates() -> None:
    spec = nets.se_spec()
    made = widen(spec, [2.0, 2.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.6, 1.0])
    assert (made.blocks[1].mid, made.blocks[1].se) == (26, 13)  # 8 x 1.6 x 2 = 25.6; se is half
    separable = replace(spec.blocks[0], se=2)
    made = widen(replace(spec, blocks=(separable,)), [2.0, 1.0, 1.0, 1.0], [2.8])
    assert (made.blocks[0].mid, made.blocks[0].se) == (0, 4)  # expands have no say


def test_shortcuts_keep_the_widths_that_they_need() -> None:
    spec = SPECS["projection"]
    made = widen(spec, [1.8, 1.0, 2.6, 1.0, 1.0], [1.0, 1.0])
    # The 1x1 convolution of the first shortcut must not vanish, so 18 by 1 becomes 18 by 1.8;
    # the second block's shortcut is its input, so it has that one's factor and not 2.6.
    assert [block.c_out for block in made.blocks] == [32, 32]
    made = widen(spec, [1.0, 1.8, 2.6, 1.0, 1.0], [1.0, 1.0])
    assert [block.c_out for block in made.blocks] == [32, 32]


@pytest.mark.parametrize("name", ["mbv2", "mcunet-256kb", "mbv3"])
def test_draws_are_uniform_and_independent(name: str) -> None:
    spec, count = SPECS[name], 1200
    widths = WIDTHS_OF.get(name, WIDTHS)
    pairs: Counter[tuple[int, int]] = Counter()
    mids: Counter[int] = Counter()
    # The first block that no shortcut ties to its input
    free = next(index for index, block in enumerate(spec.blocks) if not block.shortcut)
    inner = next(index for index, block in enumerate(spec.blocks) if block.mid)
    for step in range(count):
        made = draw(spec, generator(0, Use.WIDTHS, step), vary_widths=True)
        pairs[made.stem.c_out, made.blocks[free].c_out] += 1
        made = draw(spec, generator(0, Use.WIDTHS, step), vary_widths=False)
        mids[made.blocks[inner].mid] += 1
    stems = [round(spec.stem.c_out * factor) for factor in widths]
    ends = [round(spec.blocks[free].c_out * factor) for factor in widths]
    assert set(pairs) == {(a, b) for a in stems for b in ends}
    assert set(mids) == {round(spec.blocks[inner].mid * factor) for factor in EXPANDS}
    for seen in (pairs, mids):
        share = count / len(seen)
        chi_square = sum((n - share) ** 2 / share for n in seen.values())
        assert chi_square < 26.1  # 99.9 % of 8 degrees of freedom


def test_a_draw_follows_from_seed_and_step_alone() -> None:
    spec = SPECS["mbv2"]

    def at(seed: int, step: int) -> ArchSpec:
        return draw(spec, generator(seed, Use.WIDTHS, step), vary_widths=True)

    assert at(0, 7) == at(0, 7)
    assert at(0, 7) != at(0, 8)
    assert at(0, 7) != at(1, 7)
