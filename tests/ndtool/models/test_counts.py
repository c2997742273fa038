"""Parameters and MACs equal the published counts (training-methods, section 3)."""

import pytest

from ndtool.arch import Act, LayerOp, count_macs, count_parameters, expand, lower, parse_spec
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
]


@pytest.mark.parametrize(("model", "width", "side", "parameters", "macs"), PUBLISHED)
def test_published_counts(model: str, width: float, side: int, parameters: int, macs: int) -> None:
    spec = make_spec(model, width=width, size_px=side, in_channels=3, classes=1000)
    assert (count_parameters(spec), count_macs(spec)) == (parameters, macs)


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
