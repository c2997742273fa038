"""The user's own network: what is imported, what is refused, and in which words."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.arch import Act
from ndtool.console import error_line
from ndtool.errors import ConfigError, InputError, NdError
from ndtool.models import make_spec
from ndtool.models.own import is_own_model, load_own_spec

GOOD = """
from dataclasses import replace
from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem

def net(*, width, size_px, in_channels, classes):
    block = Block(kind=BlockKind.SEPARABLE, kernel=3, stride=2, mid=0, c_out=int(24 * width),
                  act=Act.RELU)
    return ArchSpec(model="", width=0.0, height_px=size_px, width_px=size_px,
                    in_channels=in_channels, classes=classes,
                    stem=Stem(c_out=8, kernel=3, stride=1, act=Act.RELU6),
                    blocks=(block,), head=Head())

"""
ASKED = {"width": 0.5, "size_px": 16, "in_channels": 1, "classes": 4}
Write = Callable[[str], str]
NUMBER = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the working directory; gives its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    made = []

    def one(text: str) -> str:
        made.append(f"own_module_{next(NUMBER)}")
        (tmp_path / f"{made[-1]}.py").write_text(GOOD + text)
        return made[-1]

    yield one
    for name in made:
        sys.modules.pop(name, None)


def refusal(name: str, **changes: object) -> NdError:
    with pytest.raises(NdError) as caught:
        load_own_spec(name, **(ASKED | changes))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert "\n" not in error_line(caught.value)
    return caught.value


def test_it_is_built_by_the_function(write: Write) -> None:
    name = f"{write('')}:net"
    spec = make_spec(name, **ASKED)  # type: ignore[arg-type]
    assert (spec.model, spec.width) == (name, 0.5)
    assert (spec.height_px, spec.width_px, spec.in_channels, spec.classes) == (16, 16, 1, 4)
    assert spec.blocks[0].c_out == 12 and spec.stem.act is Act.RELU6


def test_a_module_of_a_package_and_its_neighbours_are_found(tmp_path: Path, write: Write) -> None:
    neighbour = write("")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/nets.py").write_text(f"from {neighbour} import net\n")
    with forgotten("own_package"):
        assert load_own_spec("own_package.nets:net", **ASKED).classes == 4  # type: ignore[arg-type]


def test_the_path_of_the_process_stays_as_it_was(write: Write) -> None:
    name = write("import sys\nsys.path.append('x')\ndef bad(**_): raise KeyError('x')\n")
    before = list(sys.path)
    load_own_spec(f"{name}:net", **ASKED)  # type: ignore[arg-type]
    refusal(f"{name}:bad")
    assert sys.path == before


def test_what_it_prints_goes_to_stderr(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(
        "print('at import')\ndef loud(**asked):\n    print('now')\n    return net(**asked)"
    )
    load_own_spec(f"{name}:loud", **ASKED)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == "" and err == "at import\nnow\n"


def test_values_of_a_kindred_type_become_those_of_the_fields(write: Write) -> None:
    """As they would when the run is read back: a spec must not change on its way."""
    name = write(
        "def loose(**a):\n"
        "    s = net(**a)\n"
        "    return replace(s, blocks=[replace(s.blocks[0], c_out=12.0, act='relu')])\n"
    )
    asked: dict[str, object] = dict(ASKED)
    assert (
        load_own_spec(f"{name}:loose", **asked).blocks
        == make_spec(  # type: ignore[arg-type]
            f"{name}:net",
            **asked,  # type: ignore[arg-type]
        ).blocks
    )


@contextlib.contextmanager
def forgotten(package: str) -> Iterator[None]:
    yield
    for name in [n for n in sys.modules if f"{n}.".startswith(f"{package}.")]:
        del sys.modules[name]


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no_such_module_x", "no_such_package_x.nets"])
def test_a_module_that_is_not_there(name: str) -> None:
    problem = refusal(f"{name}:net")
    assert problem.code == "model.import" and "no module named no_such" in problem.what
    assert f"{name}:net" in problem.where


@pytest.mark.parametrize("function", ["nothing", "ONE"])
def test_a_function_that_is_not_there(write: Write, function: str) -> None:
    problem = refusal(f"{write('ONE = 1')}:{function}")
    assert problem.code == "model.import" and f"has no function {function}" in problem.what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_library_x", "ModuleNotFoundError: No module named 'no_such_library_x'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def f(width): return 1", "TypeError: f() got an unexpected keyword argument"),
        ("def f(**_): raise ValueError", "fails with ValueError, in"),
        ("def f(**_): raise ValueError('a\\n\\x1b[31m b')", "ValueError: a \\x1b[31m b"),
        ("def f(**_): raise ValueError('x' * 5000)", "ValueError: xxx"),
        ("def f(**_): return f()", "RecursionError: maximum recursion"),
        ("def f(**_): return None", "gives a NoneType, not an ArchSpec"),
        ("def f(**a): return {}", "gives a dict, not an ArchSpec"),
        ("def f(**a): return replace(net(**a), bn_eps=float('nan'))", "ValueError: Out of range"),
        ("def f(**a): return replace(net(**a), blocks=object())", "TypeError: Object of type"),
        ("def f(**a): return net(**a | {'size_px': 32})", "height_px 32 where 16 was asked"),
        ("def f(**a): return net(**a | {'classes': 5})", "classes 5 where 4 was asked"),
        ("def f(**a): return net(**a | {'in_channels': 3})", "in_channels 3 where 1 was asked"),
    ],
)
def test_a_function_that_gives_no_network(write: Write, text: str, words: str) -> None:
    problem = refusal(f"{write(text)}:f")
    assert problem.code == "model.own" and words in problem.what
    assert len(error_line(problem)) < 700 and "\x1b" not in error_line(problem)


def test_the_line_that_fails_is_named(write: Write) -> None:
    name = write("def f(**_):\n    return 1 / 0\n")
    line = len(GOOD.splitlines()) + 2
    assert f"{name}.py:{line}" in refusal(f"{name}:f").what


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("stem=replace(s.stem, kernel=4)", "kernel is out of bounds"),
        ("blocks=()", "blocks is out of bounds"),
        ("stem=None", "stem: Input should be"),
        ("blocks=(replace(s.blocks[0], act='tanh'),)", "blocks.0.act: Input should be"),
        ("blocks=(replace(s.blocks[0], shortcut=True),)", "blocks.0.shortcut is out of bounds"),
    ],
)
def test_a_spec_that_cannot_be_built(write: Write, change: str, field: str) -> None:
    name = write(f"def f(**a):\n    s = net(**a)\n    return replace(s, {change})\n")
    problem = refusal(f"{name}:f")
    assert isinstance(problem, InputError) and problem.code == "arch.invalid"
    assert field in problem.what and "ndtool wrote" not in problem.remedy


def test_our_own_refusals_come_through(write: Write) -> None:
    name = write(
        "from ndtool.models import make_spec\n"
        "def f(**a):\n    return make_spec('mbv2', **a | {'size_px': 1})\n"
    )
    assert refusal(f"{name}:f").code == "model.resolution"


def test_width_and_strides_are_looked_at_first() -> None:
    for changes, code in (
        ({"width": 9.0}, "model.width"),
        ({"strides": (1, 1)}, "model.strides"),
        ({"stem_stride": 1}, "model.strides"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_spec("no_such_module_x:net", **(ASKED | changes))  # type: ignore[arg-type]
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("nets:small", True),
        ("a.b_c.d1:E", True),
        ("nets", False),
        ("nets:", False),
        (":f", False),
        ("a..b:f", False),
        (".a:f", False),
        ("a/b:f", False),
        ("a:b:c", False),
        ("a:b.c", False),
        ("C:\\nets", False),
        ("nets:f\n", False),
        ("é:f", False),
        ("a:" + "b" * 500, False),
    ],
)
def test_what_has_the_form_of_a_name(name: str, *, own: bool) -> None:
    assert is_own_model(name) is own
    if not own:
        with pytest.raises(ConfigError) as caught:
            make_spec(name, **ASKED)  # type: ignore[arg-type]
        assert caught.value.code == "model.unknown"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(max_size=30))
def test_no_text_is_imported_that_is_no_name(text: str) -> None:
    if is_own_model(text):
        assert text.isascii() and text.count(":") == 1 and "/" not in text
    else:
        with pytest.raises(ConfigError):
            make_spec(text, **ASKED)  # type: ignore[arg-type]
