"""Parameters and MACs equal the published counts (training-methods, section 3)."""

import json

import pytest

from ndtool.arch import (
    INPUT,
    Act,
    ArchSpec,
    Block,
    BlockKind,
    Head,
    LayerOp,
    Stem,
    check_spec,
    count_macs,
    count_parameters,
    expand,
    lower,
    parse_spec,
    peak_activation,
)
from ndtool.errors import ConfigError, InputError
from ndtool.models import MODELS, make_spec

# model, width, side, parameters, MACs: 1000 classes, 3 channels
PUBLISHED = [
    ("mbv2-tiny", 1.0, 144, 750_280, 23_499_152),
    ("mbv2", 0.35, 160, 1_677_128, 30_874_800),
    ("mbv2", 1.0, 160, 3_504_872, 154_083_200),
    ("mbv2", 0.35, 96, 1_677_128, 11_934_128),
    ("mbv2", 0.35, 144, 1_677_128, 26_660_752),
    ("mbv3", 0.35, 160, 2_109_840, 19_495_688),
    ("mbv3", 0.35, 96, 2_109_840, 8_232_584),
    ("mbv3", 1.0, 224, 5_483_032, 216_589_760),
    ("mcunet-256kb", 1.0, 160, 729_392, 67_287_200),
    ("mcunet-320kb", 1.0, 176, 737_408, 81_785_520),
    ("mcunet-512kb", 1.0, 160, 1_732_640, 125_874_400),
    ("mcunet-5fps", 1.0, 96, 636_232, 12_790_096),
    ("mcunet-10fps", 1.0, 48, 749_840, 6_364_224),
    ("proxyless", 0.35, 160, 1_781_344, 35_716_800),
    ("proxyless", 1.0, 160, 4_080_512, 164_110_400),
]
# model, width, side, parameters, millions of MACs as printed, to one digit
ROUNDED = [
    ("mbv2", 0.5, 96, 1_968_680, 18.9),
    ("mbv2", 0.5, 160, 1_968_680, 50.2),
    ("mbv2", 0.75, 224, 2_636_424, 209.1),
    ("mbv2", 1.0, 96, 3_504_872, 56.3),
    ("mbv3", 0.5, 160, 2_682_416, 34.7),
    ("mbv3", 0.75, 160, 3_928_296, 73.2),
    ("proxyless", 0.5, 96, 2_169_696, 20.1),
    ("proxyless", 0.5, 224, 2_169_696, 103.6),
    ("proxyless", 0.75, 96, 3_013_536, 39.2),
    ("proxyless", 0.75, 160, 3_013_536, 106.6),
]
# expanded channels, channels, kernel, stride of each block, a star for its shortcut, copied once
# more from the same table, as the rows of the code were typed by hand
MCUNET = {
    "mcunet-320kb": (16, 8, "24,16,7,2; 80,16,3,1*; 80,16,7,1*; 64,16,5,1*; 80,24,5,2; 120,24,5,1*;"
    " 120,24,5,1*; 120,40,3,2; 240,40,7,1*; 160,40,5,1*; 200,48,5,1; 240,48,7,1*; 240,48,3,1*;"
    " 288,96,3,2; 480,96,7,1*; 384,96,3,1*; 480,160,7,1"),
    "mcunet-256kb": (16, 8, "24,16,5,2; 96,16,7,1*; 80,16,3,1*; 80,16,5,1*; 80,24,3,2; 144,24,7,1*;"
    " 144,24,5,1*; 96,40,7,2; 200,40,5,1*; 200,48,3,1; 240,48,5,1*; 192,48,3,1*; 288,96,5,2;"
    " 384,96,5,1*; 288,96,5,1*; 384,96,3,1*; 480,160,5,1"),
    "mcunet-512kb": (32, 16, "48,24,7,2; 120,24,3,1*; 96,24,5,1*; 120,40,7,2; 160,40,3,1*;"
    " 160,40,7,1*; 120,80,7,2; 240,80,3,1*; 240,80,7,1*; 320,96,3,1; 288,96,5,1*; 288,96,5,1*;"
    " 384,192,7,2; 576,192,7,1*; 576,192,5,1*; 768,320,5,1"),
    "mcunet-5fps": (16, 8, "32,16,3,2; 48,16,3,1*; 48,24,7,2; 120,24,3,1*; 120,40,3,2; 160,40,7,1*;"
    " 160,48,5,1; 144,48,3,1*; 192,48,3,1*; 240,96,7,2; 384,96,5,1*; 384,96,5,1*; 576,160,3,1"),
    "mcunet-10fps": (24, 16, "64,16,5,2; 48,16,3,1*; 64,16,3,1*; 80,24,7,2; 96,24,5,1*;"
    " 120,24,5,1*; 120,48,7,2; 192,48,5,1*; 240,56,3,1; 224,56,5,1*; 280,56,3,1*; 336,112,3,2;"
    " 448,112,5,1*; 672,192,3,1"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "width", "side", "parameters", "macs"), PUBLISHED)
def test_published_counts(model: str, width: float, side: int, parameters: int, macs: int) -> None:
    spec = make_spec(model, width=width, size_px=side, in_channels=3, classes=1000)
    assert (count_parameters(spec), count_macs(spec)) == (parameters, macs)


@pytest.mark.parametrize(("model", "width", "side", "parameters", "mega_macs"), ROUNDED)
def test_published_counts_of_other_widths(
    model: str, width: float, side: int, parameters: int, mega_macs: float
) -> None:
    spec = make_spec(model, width=width, size_px=side, in_channels=3, classes=1000)
    assert count_parameters(spec) == parameters
    assert count_macs(spec) / 1e6 == pytest.approx(mega_macs, abs=0.05)


@pytest.mark.parametrize("model", MCUNET)
def test_mcunet_blocks(model: str) -> None:
    stem, first, table = MCUNET[model]
    side = MODELS[model].resolution
    spec = make_spec(model, width=1.0, size_px=side, in_channels=3, classes=1000)
    separable, *blocks = spec.blocks
    assert (spec.stem.c_out, spec.stem.stride, separable.c_out) == (stem, 2, first)
    assert not separable.shortcut and spec.head == Head()
    rows = [f"{b.mid},{b.c_out},{b.kernel},{b.stride}{'*' * b.shortcut}" for b in blocks]
    assert "; ".join(rows) == table


def test_mcunet_keeps_its_ratios_at_other_widths() -> None:
    spec = make_spec("mcunet-256kb", width=0.5, size_px=160, in_channels=3, classes=10)
    assert (spec.stem.c_out, spec.blocks[0].c_out) == (8, 8)
    # 24/8, 96/16 and 80/16 times the rounded input; 16 and 24 become 8 and 16
    assert [(b.mid, b.c_out) for b in spec.blocks[1:6]] == [
        *[(24, 8), (48, 8), (40, 8), (40, 8), (40, 16)]
    ]


def test_proxyless_of_the_paper() -> None:
    spec = make_spec("proxyless", width=0.35, size_px=160, in_channels=3, classes=1000)
    separable, *blocks = spec.blocks
    assert (spec.stem.c_out, separable.c_out, spec.head.conv) == (16, 8, 1280)
    assert [b.mid for b in blocks] == [
        *(24, 48, 48, 48, 48, 48, 96, 96, 96, 96, 192, 96, 96, 96, 192, 384, 192, 192, 384)
    ]
    assert [b.kernel for b in blocks] == [5, 3, 7, 3, 5, 5, 7, 5, 5, 5, 5, 5, 5, 5, 7, 7, 7, 7, 7]
    fourth = blocks[10]  # 32 -> 32 at stride 1, and still the first of its stage
    assert (fourth.stride, fourth.c_out, blocks[9].c_out) == (1, 32, 32)
    assert not fourth.shortcut and [b.shortcut for b in blocks].count(True) == 13


@pytest.mark.parametrize(
    ("width", "parameters", "macs"), [(1.0, 78_186, 12_501_632), (1.625, 204_526, 32_562_192)]
)
def test_resnet8_of_mlperf_tiny(width: float, parameters: int, macs: int) -> None:
    spec = make_spec("resnet8", width=width, size_px=32, in_channels=3, classes=10)
    assert (count_parameters(spec), count_macs(spec)) == (parameters, macs)
    layers = {layer.name: layer for layer in lower(spec)}
    convolutions = [layer for layer in layers.values() if layer.op is LayerOp.CONV]
    assert all(layer.bias for layer in convolutions)
    plain = [layer.name for layer in convolutions if not layer.bn]
    assert plain == ["blocks.1.shortcut", "blocks.2.shortcut"]
    shortcut, total = layers["blocks.1.shortcut"], layers["blocks.1.add"]
    assert (shortcut.kernel, shortcut.stride, shortcut.act) == (1, 2, Act.NONE)
    assert shortcut.inputs == ("blocks.0.add",)
    assert total.inputs == ("blocks.1.conv2", "blocks.1.shortcut") and total.act is Act.RELU
    assert layers["blocks.0.add"].inputs == ("stem", "blocks.0.conv2")


@pytest.mark.parametrize("name", MODELS)
def test_fewer_classes_are_fewer_outputs_of_the_classifier(name: str) -> None:
    many, few = (
        make_spec(name, width=0.5, size_px=64, in_channels=3, classes=k) for k in (1000, 10)
    )
    inputs = lower(many)[-1].c_in
    assert count_parameters(many) - count_parameters(few) == 990 * (inputs + 1)
    assert count_macs(many) - count_macs(few) == 990 * inputs


def test_ds_cnn_s_and_its_teacher() -> None:
    spec = make_spec("ds-cnn", width=1.0, size_px=32, in_channels=1, classes=10)
    assert (count_parameters(spec), count_macs(spec)) == (10_474, 737_920)
    assert count_parameters(expand(spec, 3)) == 77_482


@pytest.mark.parametrize(
    ("rate", "millions", "ratio"),
    [(2, 4.07, 3.5), (3, 7.18, 7.4), (4, 11.0, 12.7), (5, 15.5, 19.5)],
)
def test_teachers_of_mbv2(rate: int, millions: float, ratio: float) -> None:
    spec = make_spec("mbv2", width=0.35, size_px=160, in_channels=3, classes=1000)
    wide = expand(spec, rate)
    assert count_parameters(wide) / 1e6 == pytest.approx(millions, abs=0.05)
    assert count_macs(wide) / count_macs(spec) == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize(
    ("strides", "stem", "mega_macs"),
    [
        ((1, 1, 2, 2, 1, 2), 1, 15.7),
        ((1, 2, 2, 2, 1, 1), 1, 8.4),
        ((1, 1, 2, 2, 1, 1), 2, 7.6),
        ((1, 2, 2, 2, 1, 2), 1, 4.9),
    ],
)
def test_strides_for_small_images(strides: tuple[int, ...], stem: int, mega_macs: float) -> None:
    spec = make_spec(
        "mbv2",
        width=0.35,
        size_px=32,
        in_channels=3,
        classes=100,
        stem_stride=stem,
        strides=strides,
    )
    assert count_parameters(spec) == 524_228
    assert count_macs(spec) / 1e6 == pytest.approx(mega_macs, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_small_images_keep_a_map_of_several_pixels(name: str) -> None:
    spec = make_spec(name, width=1.0, size_px=32, in_channels=3, classes=10)
    pool = next(layer for layer in lower(spec) if layer.name == "pool")
    assert pool.hw_in in ((4, 4), (8, 8))  # a total stride of 8 or 4 (section 7)


def test_a_models_own_resolution_has_its_own_strides() -> None:
    """mcunet-10fps is a network for 48 pixels, others are made smaller for them."""
    stems = [
        make_spec("mcunet-10fps", width=1.0, size_px=px, in_channels=3, classes=10).stem.stride
        for px in (47, 48, 49)
    ]
    assert stems == [1, 2, 2]
    assert make_spec("mbv2", width=1.0, size_px=48, in_channels=3, classes=2).stem.stride == 1


@pytest.mark.parametrize("name", MODELS)
def test_student_and_teacher_lower_alike_and_survive_json(name: str) -> None:
    spec = make_spec(name, width=0.5, size_px=32, in_channels=3, classes=7)
    assert parse_spec(spec.to_json(), where="x") == spec
    narrow, wide = lower(spec), lower(expand(spec, 3))
    assert [(n.name, n.op, n.inputs) for n in narrow] == [(w.name, w.op, w.inputs) for w in wide]
    for n, w in zip(narrow, wide, strict=True):
        assert all(a <= b for a, b in zip(n.weight_shape, w.weight_shape, strict=True))
        assert n.hw_out == w.hw_out
    assert narrow[-1].c_out == wide[-1].c_out == 7
    assert narrow[0].c_in == wide[0].c_in == 3


def test_mbv3_has_squeeze_excite_after_the_depthwise_activation() -> None:
    layers = lower(make_spec("mbv3", width=0.35, size_px=96, in_channels=3, classes=10))
    scale = next(layer for layer in layers if layer.op is LayerOp.MUL)
    assert scale.inputs[0].endswith(".depthwise") and scale.inputs[1].endswith(".se.gate")
    gate = next(layer for layer in layers if layer.name == scale.inputs[1])
    assert gate.act is Act.HARD_SIGMOID and gate.bias and not gate.bn


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "mbv22"}, "model.unknown"),
        ({"width": 0.0}, "model.width"),
        ({"width": float("nan")}, "model.width"),
        ({"strides": (1, 2)}, "model.strides"),
        ({"strides": (3, 1, 1, 1)}, "model.strides"),
        ({"size_px": 2}, "model.resolution"),
    ],
)
def test_refusals(change: dict[str, object], code: str) -> None:
    good = {"name": "ds-cnn", "width": 1.0, "size_px": 32, "in_channels": 1, "classes": 10}
    values = good | change
    name = values.pop("name")
    with pytest.raises(ConfigError) as caught:
        make_spec(name, **values)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_nearest_model_is_suggested() -> None:
    with pytest.raises(ConfigError, match="did you mean mbv2"):
        make_spec("mbv22", width=1.0, size_px=32, in_channels=3, classes=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"stride":2', '"stride":0'),
        ('"kernel":3', '"kernel":1000001'),
        ('"c_out":16', '"c_out":-16'),
        ('"classes":10', '"classes":0'),
        ('"model"', '"modle"'),
        ('"bn_eps":1e-05', '"bn_eps":"x"'),
    ],
)
def test_hostile_spec_files(old: str, new: str) -> None:
    text = make_spec("ds-cnn", width=1.0, size_px=32, in_channels=1, classes=10).to_json()
    assert old in text
    with pytest.raises(InputError) as caught:
        parse_spec(text.replace(old, new), where="student.json")
    assert caught.value.code == "arch.invalid"


# ---- specs by hand -------------------------------------------------------------------------------


def basic(**changes: object) -> ArchSpec:
    """Two basic blocks: the first keeps its shape, the second halves it and doubles its width."""
    first = Block(
        kind=BlockKind.BASIC,
        kernel=3,
        stride=1,
        mid=6,
        c_out=4,
        act=Act.RELU,
        act_out=Act.RELU6,
        shortcut=True,
    )
    fields = {
        "model": "basic",
        "width": 1.0,
        "height_px": 8,
        "width_px": 6,
        "in_channels": 1,
        "classes": 3,
        "stem": Stem(c_out=4, kernel=3, stride=1, act=Act.RELU),
        "blocks": (first,),
        "head": Head(),
    }
    return ArchSpec(**(fields | changes))  # type: ignore[arg-type]


def with_block(**changes: object) -> ArchSpec:
    document = json.loads(basic().to_json())
    document["blocks"][0] |= changes
    return parse_spec(json.dumps(document), where="test")


def test_a_basic_block_of_equal_ends_adds_its_input() -> None:
    conv1, conv2, total = lower(basic())[1:4]
    assert (conv1.c_out, conv2.c_out, conv2.stride) == (6, 4, 1)
    assert (conv1.act, conv2.act, total.act) == (Act.RELU, Act.NONE, Act.RELU6)
    assert total.inputs == ("stem", "blocks.0.conv2")
    assert not conv1.bias and lower(basic(conv_bias=True))[1].bias


@pytest.mark.parametrize("change", [{"stride": 2}, {"c_out": 5}])
def test_a_basic_block_of_other_ends_adds_a_convolution(change: dict[str, int]) -> None:
    layers = {layer.name: layer for layer in lower(with_block(**change))}
    shortcut = layers["blocks.0.shortcut"]
    assert shortcut.bias and not shortcut.bn
    assert shortcut.hw_out == layers["blocks.0.conv2"].hw_out
    assert layers["blocks.0.add"].inputs == ("blocks.0.conv2", "blocks.0.shortcut")


def test_a_basic_block_without_shortcut_is_two_convolutions() -> None:
    layers = lower(with_block(shortcut=False))
    assert [layer.name for layer in layers[1:4]] == ["blocks.0.conv1", "blocks.0.conv2", "pool"]
    assert layers[2].act is Act.RELU6


@pytest.mark.parametrize(("change", "field"), [({"mid": 0}, "mid"), ({"se": 8}, "se")])
def test_basic_blocks_that_cannot_be_built(change: dict[str, int], field: str) -> None:
    with pytest.raises(InputError, match=f"blocks.{field} is out of bounds"):
        with_block(**change)


def test_a_spec_of_an_earlier_version_has_no_biases() -> None:
    document = json.loads(basic().to_json())
    del document["conv_bias"]
    assert (
        parse_spec(json.dumps(document), where="test")
        == basic()
        == check_spec(basic(), where="test")
    )


@pytest.mark.parametrize("name", MODELS)
def test_peak_activation_is_the_largest_of_all_moments(name: str) -> None:
    """Counted backwards: at each layer, what is given before its end and read from it on."""
    spec = make_spec(name, width=0.5, size_px=40, in_channels=3, classes=7)
    layers = lower(spec)
    sizes = {layer.name: layer.hw_out[0] * layer.hw_out[1] * layer.c_out for layer in layers}
    sizes[INPUT] = 40 * 40 * 3
    made = {INPUT: 0} | {layer.name: i for i, layer in enumerate(layers)}
    moments = []
    for i, layer in enumerate(layers):
        needed = {layer.name} | {read for later in layers[i:] for read in later.inputs}
        moments.append(sum(sizes[n] for n in needed if made[n] <= i))
    assert peak_activation(spec) == max(moments)


def test_peak_activation_by_hand() -> None:
    """48 pixels: the stem's 4 channels are kept for the sum while 6 become 4."""
    assert peak_activation(basic()) == 48 * (4 + 6 + 4)
