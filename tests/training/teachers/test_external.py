"""Teachers from outside: each kind gives its network's own logits, and bad files one clear line."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import teachers
import tiny_data
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from small_runs import Silent
from torch import Tensor

from ndtool import console
from ndtool.contract import mean_std_normalize
from ndtool.errors import ConfigError, InputError, NdError
from ndtool.identity import settings, train_key
from ndtool.options import TrainOptions
from ndtool.prepare import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Prepared,
    prepare,
)
from ndtool.rundir import BEST, CHECKPOINT, RunDir
from ndtool.training.images.augment import Normalizer
from ndtool.training.stage import train_stage
from ndtool.training.supernet import Supernet
from ndtool.training.teachers import onnx_teacher
from ndtool.training.teachers.external import open_teacher
from ndtool.training.teachers.views import View
from ndtool.training.train import train
from ndtool.training.vision import import_torchvision
from ndtool.types import Recipe

CPU = torch.device("cpu")
GRAY = nets.ds_spec()
RGB = nets.ds_spec(channels=3)
CONTRACT = nets.contract_of(RGB)


def crops(count: int = 4, *, side: int = 8, channels: int = 3, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, channels), generator=draws, dtype=torch.uint8)


def own_logits(net: Supernet, images: Tensor, contract: object = CONTRACT) -> Tensor:
    with torch.no_grad():
        return net.student(Normalizer(contract)(images), training=False)  # type: ignore[arg-type]


# Checkpoints


def test_a_checkpoint_gives_its_students_own_logits_to_the_bit(tmp_path: Path) -> None:
    net = teachers.network(RGB, rates=(2,))
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, CONTRACT)
    teacher = open_teacher(f"checkpoint:{path}", CONTRACT, CPU, threads=1)
    made = teacher(crops())
    assert torch.equal(made, own_logits(net, crops()))
    assert not made.requires_grad and made.dtype is torch.float32
    assert made.std(0).min() > 1e-3  # not all images alike


def test_an_averaged_student_teaches_where_there_is_one(tmp_path: Path) -> None:
    net, average = (teachers.network(RGB, seed=seed) for seed in (1, 2))
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, CONTRACT, ema=average)
    made = open_teacher(f"checkpoint:{path}", CONTRACT, CPU, threads=1)(crops())
    assert torch.equal(made, own_logits(average, crops()))


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    nets_ = {name: teachers.network(RGB, seed=k) for k, name in enumerate((BEST, CHECKPOINT))}
    for name, net in nets_.items():
        teachers.save_checkpoint(tmp_path / name, net, CONTRACT)
    teacher = open_teacher(f"checkpoint:{tmp_path}", CONTRACT, CPU, threads=1)
    assert torch.equal(teacher(crops()), own_logits(nets_[BEST], crops()))


def test_labels_in_another_order_are_joined_by_name(tmp_path: Path) -> None:
    net = teachers.network(RGB)
    turned = replace(CONTRACT, labels=tuple(reversed(CONTRACT.labels)))
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, turned)
    teacher = open_teacher(f"checkpoint:{path}", CONTRACT, CPU, threads=1)
    assert torch.equal(teacher(crops()), own_logits(net, crops()).flip(1))


def test_labels_of_another_set_are_refused(tmp_path: Path) -> None:
    other = replace(CONTRACT, labels=("class 0", "class 1", "cl\x1b[2Ja"))
    path = teachers.save_checkpoint(tmp_path / "t.pt", teachers.network(RGB), other)
    with pytest.raises(ConfigError) as caught:
        open_teacher(f"checkpoint:{path}", CONTRACT, CPU, threads=1)
    assert "does not know class 2 and knows cl" in caught.value.what
    assert "\x1b" not in str(caught.value)


def test_a_checkpoint_sees_its_own_normalisation_and_size(tmp_path: Path) -> None:
    spec = nets.ds_spec(size_px=16, channels=3)
    theirs = replace(
        nets.contract_of(spec), normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD)
    )
    net = teachers.network(spec)
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, theirs)
    teacher = open_teacher(f"checkpoint:{path}", CONTRACT, CPU, threads=1)
    # Of one colour throughout, a crop is the same at any size.
    flat = torch.tensor([10, 200, 90], dtype=torch.uint8).expand(2, 1, 1, 3)
    small, large = flat.expand(-1, 8, 8, -1), flat.expand(-1, 16, 16, -1)
    torch.testing.assert_close(teacher(small), own_logits(net, large, theirs), rtol=0, atol=1e-5)


# Views


@pytest.mark.parametrize(("side", "to"), [(8, 16), (16, 8), (9, 21)])
def test_resizing_is_bilinear_as_pillow_does_it(side: int, to: int) -> None:
    images = crops(3, side=side)
    view = View(nets.contract_of(nets.ds_spec(size_px=to, channels=3)), CPU)
    made = view.pixels(images)
    for image, expected in zip(made, images, strict=True):
        pillow = Image.fromarray(expected.numpy()).resize((to, to), Image.Resampling.BILINEAR)
        difference = np.abs(image.numpy() - np.asarray(pillow, np.float32))
        assert difference.max() <= 1.0  # Pillow rounds twice, after each direction
    assert made.shape == (3, to, to, 3)


def test_grey_is_pillows_luma_and_colour_is_three_times_grey() -> None:
    colours = crops(64, side=16)
    to_gray = View(nets.contract_of(nets.ds_spec(size_px=16)), CPU)
    for made, image in zip(to_gray.pixels(colours), colours, strict=True):
        assert np.array_equal(made[..., 0], np.asarray(Image.fromarray(image.numpy()).convert("L")))
    gray = crops(channels=1)
    made = View(CONTRACT, CPU)(gray)
    assert torch.equal(made, Normalizer(CONTRACT)(gray.repeat(1, 1, 1, 3)))


@pytest.mark.parametrize(("teacher_spec", "student"), [(GRAY, RGB), (RGB, GRAY)])
def test_grey_and_colour_teach_each_other(
    tmp_path: Path, teacher_spec: object, student: object
) -> None:
    contract = nets.contract_of(student)  # type: ignore[arg-type]
    theirs = nets.contract_of(teacher_spec)  # type: ignore[arg-type]
    net = teachers.network(teacher_spec)  # type: ignore[arg-type]
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, theirs)
    teacher = open_teacher(f"checkpoint:{path}", contract, CPU, threads=1)
    made = teacher(crops(channels=contract.input.channels))
    assert made.shape == (4, nets.CLASSES)


# ONNX


def test_an_exported_run_teaches_as_its_checkpoint_does(tmp_path: Path) -> None:
    net = teachers.network(RGB)
    path = teachers.save_onnx(tmp_path / "t.onnx", net)
    teacher = open_teacher(f"onnx:{path}", CONTRACT, CPU, threads=2)
    torch.testing.assert_close(teacher(crops()), own_logits(net, crops()), rtol=0, atol=1e-5)
    assert teacher(crops(1)).shape == (1, nets.CLASSES)


def saved(tmp_path: Path, model: onnx.ModelProto) -> str:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize("last", [False, True])
def test_every_form_of_input(tmp_path: Path, batch: int | str, kind: int, last: bool) -> None:  # noqa: FBT001
    shape = (batch, 8, 8, 3) if last else (batch, 3, 8, 8)
    model, weight = teachers.linear_onnx(shape, kind=kind)
    teacher = open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)
    pixels = crops().float() if last else crops().float().permute(0, 3, 1, 2)
    real = pixels / 255 if kind == TensorProto.FLOAT else pixels
    expected = real.reshape(4, -1) @ weight
    torch.testing.assert_close(teacher(crops()), expected, rtol=1e-5, atol=1e-4)


def test_a_float_input_gets_the_students_normalisation(tmp_path: Path) -> None:
    contract = replace(CONTRACT, normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD))
    model, weight = teachers.linear_onnx(("n", 3, 8, 8))
    teacher = open_teacher(saved(tmp_path, model), contract, CPU, threads=1)
    expected = Normalizer(contract)(crops()).reshape(4, -1) @ weight
    torch.testing.assert_close(teacher(crops()), expected, rtol=0, atol=1e-4)


def test_its_own_size_and_colour(tmp_path: Path) -> None:
    model, weight = teachers.linear_onnx(("n", 1, 12, 12))
    teacher = open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)
    flat = torch.full((2, 8, 8, 3), 77, dtype=torch.uint8)
    expected = torch.full((2, 144), 77 / 255) @ weight
    torch.testing.assert_close(teacher(flat), expected, rtol=0, atol=1e-5)


def test_a_softmax_is_undone(tmp_path: Path) -> None:
    plain, _ = teachers.linear_onnx(("n", 3, 8, 8))
    logits = open_teacher(saved(tmp_path, plain), CONTRACT, CPU, threads=1)(crops())
    ended, _ = teachers.linear_onnx(("n", 3, 8, 8), softmax=True)
    made = open_teacher(saved(tmp_path, ended), CONTRACT, CPU, threads=1)(crops())
    torch.testing.assert_close(made, logits.log_softmax(1), rtol=0, atol=1e-5)
    warmer = [(z / 3).softmax(1) for z in (made, logits)]  # at any temperature
    torch.testing.assert_close(*warmer, rtol=0, atol=1e-5)


def test_it_runs_on_as_many_threads_as_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = teachers.linear_onnx(("n", 3, 8, 8))
    used: list[int] = []
    begin = onnx_teacher._open_session

    def noted(data: bytes, threads: int) -> object:
        session = begin(data, threads)
        used.append(session.get_session_options().intra_op_num_threads)
        return session

    monkeypatch.setattr(onnx_teacher, "_open_session", noted)
    open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=3)
    assert used == [3]


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 192]))


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "", "flat"], ["endless"], body=body))


def strange_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Fl\x1battish"


def integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def not_finite(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\xff" * len(model.graph.initializer[0].raw_data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (second_input, "2 inputs"),
        (second_output, "2 outputs"),
        (integer_input, r"its input is tensor\(int64\)"),
        (outside, "weights in another file"),
        (loop, "Loop has a graph of its own"),
        (strange_operator, "onnxruntime says"),
        (not_finite, "not finite"),
    ],
)
def test_onnx_files_that_cannot_teach(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model, _ = teachers.linear_onnx(("n", 3, 8, 8))
    change(model)
    with pytest.raises(InputError, match=words) as caught:
        open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)
    assert "\x1b" not in str(caught.value)
    assert "teacher.onnx" in caught.value.where


@pytest.mark.parametrize("shape", [("n", 3, 8), ("n", 4, 8, 8), (7, 3, 8, 8), ("n", 3, 5000, 2)])
def test_inputs_that_are_no_image_batch(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    model, _ = teachers.linear_onnx(shape)
    with pytest.raises(ConfigError) as caught:
        open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)
    assert f"its input is ({', '.join(map(str, shape))})" in caught.value.what
    assert "(N, C, H, W)" in caught.value.remedy


def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    model, _ = teachers.linear_onnx(("n", 3, 8, 8), classes=10)
    with pytest.raises(ConfigError, match=r"its output is \(n, 10\), not \(N, 3\)"):
        open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")  # seen when it runs
    with pytest.raises(ConfigError, match=r"its output is \(1, 10\), not \(N, 3\)|\(n, 10\)"):
        open_teacher(saved(tmp_path, model), CONTRACT, CPU, threads=1)


def test_a_normalisation_of_three_channels_is_not_put_on_one(tmp_path: Path) -> None:
    contract = replace(CONTRACT, normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD))
    model, _ = teachers.linear_onnx(("n", 1, 8, 8))
    with pytest.raises(ConfigError, match="input has 1 channels"):
        open_teacher(saved(tmp_path, model), contract, CPU, threads=1)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not protobuf", b"\x08\x08"])
def test_files_that_are_no_onnx(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not an ONNX file"):
        open_teacher(f"onnx:{path}", CONTRACT, CPU, threads=1)


def test_names_that_are_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = teachers.linear_onnx(("n", 3, 8, 8))
    path = tmp_path / "t.onnx"
    for name in (b"logits", b"MatMul"):
        path.write_bytes(model.SerializeToString().replace(name, name[:3] + b"\xff" + name[4:]))
        with pytest.raises(InputError, match="onnxruntime says"):
            open_teacher(f"onnx:{path}", CONTRACT, CPU, threads=1)
    assert capsys.readouterr().out == ""


@settings_of_hypothesis(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_damaged_onnx_files_are_refused_or_run(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model, _ = teachers.linear_onnx(("n", 3, 8, 8), softmax=True)
    found = bytearray(model.SerializeToString())
    names = [*range(150), *range(len(found) - 90, len(found))]  # the weights lie between
    for _ in range(data.draw(st.integers(1, 3))):
        found[data.draw(st.sampled_from(names))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(found)
    with contextlib.suppress(InputError):
        teacher = open_teacher(f"onnx:{path}", CONTRACT, CPU, threads=1)
        assert teacher(crops()).shape == (4, nets.CLASSES)


def test_an_onnx_file_over_the_bound_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_teacher, "MAX_ONNX_BYTES", 1000)
    path = tmp_path / "t.onnx"
    path.write_bytes(b"\0" * 1001)
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        open_teacher(f"onnx:{path}", CONTRACT, CPU, threads=1)


# torchvision


def torchvision_network(name: str, classes: int = nets.CLASSES) -> torch.nn.Module:
    torch.manual_seed(0)
    network: torch.nn.Module = import_torchvision().models.get_model(
        name, weights=None, num_classes=classes
    )
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_a_torchvision_network_gives_its_own_logits(tmp_path: Path, name: str) -> None:
    network = torchvision_network(name)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    teacher = open_teacher(f"torchvision:{name}:{tmp_path / 'w.pt'}", CONTRACT, CPU, threads=1)
    images = crops(2, side=224)  # as large as it wants them, so that nothing is resized
    made = teacher(images)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = network((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert teacher(crops(2)).shape == (2, nets.CLASSES)
    assert not teacher(crops(1)).requires_grad


@pytest.mark.slow
def test_weights_that_are_not_the_networks(tmp_path: Path) -> None:
    good = torchvision_network("squeezenet1_1").state_dict()
    path = tmp_path / "w.pt"
    text = f"torchvision:squeezenet1_1:{path}"

    def refuse(weights: object, words: str) -> None:
        torch.save(weights, path)
        with pytest.raises(InputError, match=words):
            open_teacher(text, CONTRACT, CPU, threads=1)

    refuse(
        torchvision_network("squeezenet1_1", 10).state_dict(),
        "classifier.1.bias is 10, for 3 classes it would be 3",
    )
    refuse({k: v for k, v in good.items() if k != "features.0.bias"}, "it lacks features.0.bias")
    refuse(good | {"extra\x1b": torch.zeros(1)}, "it also has extra")
    refuse({"model": good}, "more than tensors by name")
    refuse([1, 2], "not a table")
    refuse({}, "not a table")
    refuse(torchvision_network("squeezenet1_1"), "more than numbers and tensors")
    refuse(good | {"features.0.bias": torch.full((64,), torch.nan)}, "not finite")
    path.write_bytes(b"not a zip file")
    with pytest.raises(InputError, match="not a file of weights: cut off, damaged"):
        open_teacher(text, CONTRACT, CPU, threads=1)
    with pytest.raises(ConfigError, match="no classification network 'fasterrcnn_resnet50_fpn'"):
        open_teacher(f"torchvision:fasterrcnn_resnet50_fpn:{path}", CONTRACT, CPU, threads=1)


# The option


@pytest.mark.parametrize("kind", ["checkpoint", "onnx", "torchvision:squeezenet1_1"])
def test_a_missing_teacher_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        open_teacher(f"{kind}:{tmp_path / 'none'}", CONTRACT, CPU, threads=1)
    assert caught.value.where == str(tmp_path / "none")


# The stage


def prepared(tmp_path: Path, **changes: object) -> Prepared:
    if not (tmp_path / "tiny.npz").exists():
        tiny_data.write_npz(tmp_path / "tiny.npz")
    options = TrainOptions(
        data=f"npz:{tmp_path / 'tiny.npz'}", epochs=1, width=0.25, threads=1, device="cpu"
    )
    options = replace(options, **{"recipe": Recipe.KD, **changes})  # type: ignore[arg-type]
    return prepare(options, name="kd", out=tmp_path / "runs")


def tiny_teacher(tmp_path: Path, *, seed: int = 0) -> str:
    made = prepared(tmp_path, recipe=Recipe.PLAIN)
    net = teachers.network(made.spec, seed=seed)
    path = teachers.save_checkpoint(tmp_path / "t.pt", net, made.contract)
    return f"checkpoint:{path}"


def test_the_teachers_bytes_belong_to_the_training(tmp_path: Path) -> None:
    text = tiny_teacher(tmp_path)
    before = train_key(prepared(tmp_path, teacher=text))
    assert before.options["teacher"] == text
    assert train_key(prepared(tmp_path, teacher=text)) == before
    tiny_teacher(tmp_path, seed=1)
    after = train_key(prepared(tmp_path, teacher=text))
    assert after.sources["teacher"] != before.sources["teacher"]
    assert {**after.sources, "teacher": ""} == {**before.sources, "teacher": ""}
    assert "kd_weight" in settings(prepared(tmp_path, teacher=text).options)


@pytest.mark.slow
def test_a_kd_run_as_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.STATE, "warnings", [])
    text = tiny_teacher(tmp_path)
    ready = prepared(tmp_path, teacher=text)
    train_stage(ready, {}, force=False, resume=False)
    told = capsys.readouterr().err
    assert "teacher: validation accuracy" in told
    train_stage(ready, {}, force=False, resume=False)
    assert "up to date" in capsys.readouterr().err
    tiny_teacher(tmp_path, seed=1)
    with pytest.raises(ConfigError, match="another training: teacher_sha256 differ"):
        train_stage(ready, {}, force=False, resume=False)
    assert "teacher changed" in capsys.readouterr().err
    train_stage(ready, {}, force=True, resume=False)


def test_a_bad_teacher_is_found_before_any_image_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.onnx"
    path.write_bytes(b"no")
    ready = prepared(tmp_path, teacher=f"onnx:{path}")

    def load(*_: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr(type(ready.source), "load", load)
    with pytest.raises(NdError, match="not an ONNX file"):
        train_stage(ready, {}, force=False, resume=False)


def test_a_run_is_not_its_own_teacher(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learn from a file that it writes itself"):
        prepared(tmp_path, teacher=f"checkpoint:{tmp_path / 'runs' / 'kd' / BEST}")


def test_a_teacher_that_guesses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes in another order: nothing else would show it."""
    monkeypatch.setattr(console.STATE, "warnings", [])
    model, _ = teachers.linear_onnx(("n", 1, 8, 8))
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    train(
        nets.options(recipe=Recipe.KD, teacher=saved(tmp_path, model), epochs=1),
        RunDir(tmp_path / "run"),
        spec=GRAY,
        contract=nets.contract_of(GRAY),
        train=nets.split_of(GRAY, 16),
        val=nets.split_of(GRAY, 12),
        resume=False,
        progress=Silent(),
    )
    assert "teacher: validation accuracy 33.3 %" in capsys.readouterr().err
    assert [code for code, _ in console.STATE.warnings] == ["train.weak-teacher"]
