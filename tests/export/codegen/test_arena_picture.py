"""The picture of the arena: well-formed, inside its frame, safe with any name."""

import re
import xml.etree.ElementTree as ET

import pytest
from hostile_names import HOSTILE_NAMES
from shared_models import shared_model

from ndtool.export.codegen.arena import plan_program
from ndtool.export.codegen.arena_picture import MIN_CALL, arena_svg
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.program import Call, Program, Read, Scratch, Sharing, Write
from ndtool.export.int8.ir import DType, Graph, Tensor, TensorId
from ndtool.export.tflite.reader import read_tflite

SVG = "{http://www.w3.org/2000/svg}"


def chain(calls: int, *, name: str = "t", title: str = "CONV_2D 3x3", side: int = 24) -> Program:
    """Feature maps of side x side x 8; all calls in place, every third with scratch."""
    tensors = tuple(
        Tensor(name=f"{name}{i}", shape=(1, side, side, 8), dtype=DType.INT8)
        for i in range(calls + 1)
    )
    steps = []
    for i in range(calls):
        x, out = TensorId(i), TensorId(i + 1)
        scratch = (Scratch(size=500),) if i % 3 == 0 else ()
        rules = (Sharing(x=x, out=out, low=0, high=0),)
        args = (Read(tensor=x), *scratch, Write(tensor=out))
        steps.append(Call(kernel="nd_any_s8", op=i, title=title, args=args, sharing=rules))
    graph = Graph(tensors=tensors, ops=(), inputs=(TensorId(0),), outputs=(TensorId(calls),))
    return Program(graph=graph, calls=tuple(steps))


def draw(program: Program, title: str = "model") -> ET.Element:
    return ET.fromstring(arena_svg(program, plan_program(program), title))


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def check_frame(root: ET.Element) -> None:
    """Every rectangle has a size and lies inside the view box."""
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (left, top) == (0, 0)
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert float(rect.attrib["width"]) > 0
        assert float(rect.attrib["height"]) > 0
        assert 0 <= x <= x + float(rect.attrib["width"]) <= width
        assert 0 <= y <= y + float(rect.attrib["height"]) <= height


def test_a_rectangle_a_block_with_what_it_is() -> None:
    program = chain(4)
    root = draw(program, "kws")
    check_frame(root)
    groups = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    kinds = sorted(g.attrib["class"].split()[1] for g in groups)
    assert kinds == ["input", "output", "scratch", "scratch", "tensor", "tensor", "tensor"]
    tips = [g.findtext(f"{SVG}title", "") for g in groups]
    (first,) = (tip for tip in tips if tip.startswith("t0:"))
    lines = first.split("\n")
    assert lines[0] == "t0: 1x24x24x8"
    assert re.fullmatch(r"4,608 bytes at \d+\.\.\d+", lines[1])
    assert lines[2] == "call 0"
    (middle,) = (tip for tip in tips if tip.startswith("t2:"))
    assert middle.endswith("calls 1 to 2")
    (last,) = (tip for tip in tips if tip.startswith("t4:"))
    assert last.endswith("call 3")
    assert sum(tip.startswith("scratch\n500 bytes") for tip in tips) == 2


def test_figures_titles_and_labels() -> None:
    program = chain(4)
    found = texts(draw(program, "kws"))
    total = plan_program(program).total
    assert "kws" in found
    assert f"arena {total:,} bytes" in found
    assert "4 KiB" in found
    assert "3  CONV_2D 3x3" in found
    assert found.count("24x24x8") == 4  # five tensors in place in four columns
    assert "fullest call" in found


def label_places(root: ET.Element) -> list[tuple[str, str]]:
    """Transform and line of every label, in the plot."""
    found = [text for text in root.iter(f"{SVG}text") if text.get("class") == "label"]
    return [(text.attrib["transform"], text.attrib["y"]) for text in found]


@pytest.mark.parametrize("calls", [1, 2, 4, 30])
def test_no_label_lies_on_another(calls: int) -> None:
    """Input and output of a first call in place have the same middle."""
    places = label_places(draw(chain(calls)))
    assert places and len(set(places)) == len(places)


def test_shared_bytes_are_hatched() -> None:
    shared = [r for r in draw(chain(3)).iter(f"{SVG}rect") if r.get("class") == "shared"]
    assert len(shared) == 1 + 3  # the key and the calls
    assert sum(r.get("class") == "full" for r in draw(chain(3)).iter(f"{SVG}rect")) >= 2


def test_an_alias_is_named_in_the_tooltip() -> None:
    program = chain(2)
    flat = Tensor(name="flat", shape=(1, 4608), dtype=DType.INT8)
    graph = Graph(
        tensors=(*program.graph.tensors, flat),
        ops=(),
        inputs=program.graph.inputs,
        outputs=(TensorId(3),),
    )
    aliased = Program(graph=graph, calls=program.calls, aliases={TensorId(3): TensorId(2)})
    tips = [g.findtext(f"{SVG}title", "") for g in draw(aliased).iter(f"{SVG}g")]
    assert any(tip.startswith("t2: 1x24x24x8\nflat: 1x4608\n") for tip in tips)


@pytest.mark.parametrize("calls", [0, 1, 2, 30, 150, 600])
def test_any_number_of_calls(calls: int) -> None:
    program = chain(calls)
    root = draw(program)
    check_frame(root)
    assert float(root.attrib["width"]) >= calls * MIN_CALL
    if calls == 150:  # no room for titles: some numbers
        numbers = [text for text in texts(root) if text.isdigit()]
        assert numbers[0] == "0"
        assert 10 < len(numbers) < 60


def test_one_byte() -> None:
    tensor = Tensor(name="x", shape=(1,), dtype=DType.INT8)
    graph = Graph(tensors=(tensor,), ops=(), inputs=(TensorId(0),), outputs=(TensorId(0),))
    check_frame(draw(Program(graph=graph, calls=())))


HOSTILE = [
    *HOSTILE_NAMES,
    '</title></svg><script>alert("x")</script>',
    "]]>&lt;&#0;",
    "a\x00b\x1b[31m\x85\u2028\ud800\ufffe\uffff",
    "'\"><image href='http://example.org/x'/>",
]


@pytest.mark.parametrize("name", HOSTILE, ids=[f"name{i}" for i in range(len(HOSTILE))])
def test_hostile_names(name: str) -> None:
    program = chain(3, name=name, title=name)
    root = draw(program, name)
    check_frame(root)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "title", "style", "pattern", "path", "rect", "text", "g"}


def test_same_bytes_each_time() -> None:
    program = chain(7)
    plan = plan_program(program)
    picture = arena_svg(program, plan, "model")
    assert arena_svg(program, plan, "model") == picture
    assert picture.endswith(b"</svg>\n")
    assert b"href" not in picture  # nothing is loaded


@pytest.mark.parametrize("name", ["person_detect", "kws", "vww_96", "resnet8"])
def test_published_models(name: str) -> None:
    compiled = compile_graph(read_tflite(shared_model(name)))
    root = ET.fromstring(arena_svg(compiled.program, compiled.plan, name))
    check_frame(root)
    assert f"arena {compiled.plan.total:,} bytes" in texts(root)
