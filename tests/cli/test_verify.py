"""`ndtool verify`, and what `check` and `run` say of the C, by the real command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from c_projects import write_c_project
from command import Done, ndtool, ndtool_here
from host_tools import require_tool
from int8_models import tiny_model

RUN = Path("runs/tiny")
NAMES = ("nd_model", "other")
POSIX = RUN / "codegen/posix"
EASY = ("--max-drop", "20")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tools")]


@pytest.fixture(scope="session")
def tools() -> None:
    for tool in ("gcc", "make"):
        require_tool(tool)


def empty_path(folder: Path) -> dict[str, str]:
    """An environment without compilers."""
    (folder / "nothing").mkdir(exist_ok=True)
    return {"PATH": str(folder / "nothing")}


# -- a project folder ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def made(tflite_micro: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "c"
    write_c_project(tiny_model(), folder)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "c"))


def test_a_project_folder(project: Path) -> None:
    done = ndtool("verify", "c", "--random", "8", cwd=project.parent)
    assert done.code == 0, done.err
    assert "bit-exact 10/10 (host: outputs, of 8 all 3 tensors)" in done.out
    assert "arena" in done.out


def test_a_project_folder_without_layers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("verify", project, "--random", "8", "--no-layers")
    document = ndtool_here(*args, "--json", capsys=capsys).document
    assert (document["schema"], document["on"]) == ("ndtool.verify/1", "host")
    assert document["random"] == 8
    assert document["models"][0]["verified_tensors"] == 1
    assert document["models"][0]["bit_exact"] == "10/10"
    assert "10/10 (host: outputs)  " in ndtool_here(*args, capsys=capsys).out


def test_two_models_in_one_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_c_project(tiny_model(classes=4), project, prefix="other")
    args = ("verify", project, "--random", "4", "--json")
    document = ndtool_here(*args, capsys=capsys).document
    assert [row["prefix"] for row in document["models"]] == ["nd_model", "other"]
    assert {row["bit_exact"] for row in document["models"]} == {"6/6"}
    lines = ndtool_here(*args[:-1], capsys=capsys).out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["C", "code", n] for n in NAMES]
    path = project / "other_main.c"
    call = "if (other_run(arena) != ND_OK) {"
    assert call in path.read_text()
    spoiled = "nd_status status = other_run(arena); ((int8_t *)other_output(arena))[0] ^= 1;"
    text = path.read_text().replace(call, f"{spoiled}\n        if (status != ND_OK) {{")
    path.write_text(text)
    assert "c, model other); " in ndtool_here(*args[:-1], capsys=capsys).err


def test_an_array_beside_an_engine_is_left_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = json.loads((project / "nd_model.json").read_text())
    marker |= {"template": "array", "prefix": "photo"}
    (project / "photo.json").write_text(json.dumps(marker))
    done = ndtool_here("verify", project, "--random", "4", "--no-layers", capsys=capsys)
    assert done.code == 0 and done.out.startswith("C code   nd_model   bit-exact 6/6")
    assert "left out, arrays without an engine: photo" in done.err


def test_a_file_is_neither_run_nor_project(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ndtool_here("verify", project / "model.tflite", capsys=capsys)
    assert done.code == 2 and "a file, neither a run folder nor a C project" in done.err
    assert "[verify.no-project]" in done.err


def append(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def wrong_rounding(folder: Path) -> None:
    """The fault of a user who 'optimises' the requantisation."""
    path = folder / "nd_runtime" / "nd_requant.h"
    lines = path.read_text().splitlines()
    body = next(i for i, line in enumerate(lines) if line.strip().startswith("return"))
    lines[body] = lines[body].replace("return ", "return 1 + ", 1)
    path.write_text("\n".join(lines) + "\n")


def other_model(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(tiny_model(classes=4))


def hang(folder: Path) -> None:
    path = folder / "nd_model_main.c"
    start = "int main(int argc, char **argv)\n{"
    text = path.read_text()
    assert start in text
    path.write_text(text.replace(start, f"{start}\n    for (;;) {{\n    }}"))


def crash(folder: Path) -> None:
    path = folder / "nd_model_main.c"
    start = "int main(int argc, char **argv)\n{"
    text = path.read_text()
    path.write_text(text.replace(start, f"{start}\n    __builtin_trap();"))


@pytest.mark.parametrize(
    ("change", "args", "code", "words"),
    [
        (shutil.rmtree, (), 2, "no such run or folder"),
        (lambda folder: (folder / "nd_model.json").unlink(), (), 2, "no PREFIX.json marker"),
        (lambda folder: (folder / "nd_model.json").write_text("{"), (), 2, "is damaged"),
        (append("nd_model.json", "}"), (), 2, "the marker nd_model.json is damaged: "),
        (other_model, (), 2, "[verify.model-changed]"),
        (append("nd_model.c", "#error by hand\n"), (), 2, "by hand"),
        (append("nd_model.c", "int f(void) { return g; }\n"), (), 2, "[verify.build]"),
        (wrong_rounding, (), 6, "[verify."),
        (crash, (), 6, "died of SIG"),
        (lambda folder: (folder / "Makefile").unlink(), (), 2, "Makefile"),
        (lambda folder: None, ("--on", "qemu:nonsense"), 2, "mps2-an386"),
        (lambda folder: None, ("--on", "ssh:board"), 2, "(--on); use host, qemu, or qemu:BOARD"),
        (lambda folder: None, ("--random", "0"), 2, "--random"),
        (lambda folder: None, ("--random", "1000000000"), 2, "--random"),
        (lambda folder: None, ("--seed", "-1"), 2, "--seed"),
    ],
)
def test_one_line_and_a_code(
    project: Path,
    change: Callable[[Path], object],
    args: tuple[str, ...],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(project)
    done = ndtool_here("verify", project, "--random", "2", *args, capsys=capsys)
    lines = [row for row in done.err.splitlines() if not row.startswith("ndtool: warning: ")]
    assert (done.code, len(lines), done.out) == (code, 1, ""), done
    assert lines[0].startswith("ndtool: error: ") and words in lines[0]


def test_a_program_that_hangs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ndtool.export import host_binary

    monkeypatch.setattr(host_binary, "START_TIMEOUT_S", 0.1)
    hang(project)
    done = ndtool_here("verify", project, "--random", "2", capsys=capsys)
    assert done.code == 6 and "does not end within 1 s" in done.err


@pytest.mark.parametrize("on", ["host", "qemu"])
def test_a_missing_tool_is_seven_with_the_line_that_installs_it(
    project: Path, on: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    done = ndtool_here("verify", project, "--on", on, "--json", capsys=capsys)
    document = done.document
    assert (done.code, document["exit"], document["code"]) == (7, 7, "tool.missing")
    assert document["install"].startswith("apt-get install")


# -- a run folder ----------------------------------------------------------------------------------


def gate(done: Done, name: str) -> dict[str, object]:
    return next(g for g in done.document["gates"] if g["gate"] == name)


def test_a_run_is_verified_once_and_again_when_its_c_changes(tiny: Path) -> None:
    done = ndtool("verify", "tiny", cwd=tiny)
    assert done.code == 0 and "verify: up to date" in done.err, done.err
    assert "bit-exact 168/168" in done.out and f"ndtool check {RUN}" in done.out
    assert "verify: random 100 -> 4" in ndtool("verify", "tiny", "--random", "4", cwd=tiny).err
    (tiny / POSIX / "nd_model.h").write_text(f"{(tiny / POSIX / 'nd_model.h').read_text()}\n")
    done = ndtool("verify", "tiny", "--random", "4", cwd=tiny)
    assert "codegen/posix/nd_model.h changed" in done.err and done.code == 0
    assert "not what codegen wrote: nd_model.h [" in done.err


def test_the_project_that_fits_the_place_is_verified(tiny: Path) -> None:
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        require_tool(tool)
    qemu = RUN / "codegen/cortex-m-qemu"
    few = ("--random", "2", "--no-layers")
    assert ndtool("codegen", "tiny", "--template", "cortex-m-qemu", cwd=tiny).code == 0
    host = ndtool("verify", "tiny", *few, cwd=tiny)
    assert f"files    {POSIX}\n" in host.out and host.code == 0
    assert f"not verified: {qemu}; ndtool verify PATH" in host.err
    document = ndtool("verify", "tiny", "--on", "qemu", *few, "--json", cwd=tiny).document
    assert (document["project"], document["not_verified"]) == (str(qemu), [str(POSIX)])
    shutil.rmtree(tiny / qemu)
    done = ndtool("verify", "tiny", "--on", "qemu", *few, cwd=tiny)
    assert "verify:mps2-an386: project codegen/cortex-m-qemu -> codegen/posix" in done.err
    assert f"files    {POSIX}\n" in done.out and "not verified" not in done.err


SPOILED = """static nd_status spoiled(void *arena)
{
    ((int8_t *)nd_model_output(arena))[0] ^= 1;
    return ND_OK;
}
ND_MODEL"""


def spoil(path: Path, place: str, old: str, new: str) -> None:
    """Replace the first `old` in the last `place`."""
    before, found, after = path.read_text().rpartition(place)
    assert found
    path.write_text(before + found.replace(old, new, 1) + after)


def test_check_fails_when_one_byte_of_the_c_is_another(tiny: Path) -> None:
    """The mutation of gate c: an output of the C is off by one for one class."""
    good = ndtool("check", "tiny", *EASY, "--json", cwd=tiny)
    assert good.code == 0 and gate(good, "c")["passed"] is True
    row = good.document["hops"][-1]
    assert (row["hop"], row["differing"], row["agreement"]) == ("c", 0, 1)
    spoil(tiny / POSIX / "nd_model.c", "    return ND_OK;\n}", "ND_OK", "spoiled(arena)")
    spoil(tiny / POSIX / "nd_model.c", "ND_MODEL_HOT nd_status nd_model_run", "ND_MODEL", SPOILED)
    spoil(
        tiny / POSIX / "nd_model_golden.c", "(i < ND_MODEL_GOLDEN_COUNT); ++i", "(i <", "(i < 0 *"
    )
    bad = ndtool("check", "tiny", *EASY, "--keep-going", "--json", cwd=tiny)
    assert bad.code == 3 and gate(bad, "c")["passed"] is False
    assert "60 of 60 images differ" in str(gate(bad, "c")["text"])
    assert gate(bad, "integrity")["passed"] is False
    found = ndtool("verify", "tiny", "--no-layers", cwd=tiny)
    assert found.code == 6 and "in output: tensor #" in found.err


@pytest.mark.parametrize("change", [append("nd_model.c", "#error by hand\n"), wrong_rounding])
def test_check_fails_when_the_c_cannot_answer(tiny: Path, change: Callable[[Path], object]) -> None:
    change(tiny / POSIX)
    done = ndtool("check", "tiny", *EASY, "--keep-going", "--json", cwd=tiny)
    assert done.code == 3 and gate(done, "c")["passed"] is False


def test_check_without_c_or_compiler_says_so_and_does_not_pass_it(tiny: Path) -> None:
    without = ndtool("check", "tiny", *EASY, cwd=tiny, env=empty_path(tiny))
    assert without.code == 0
    assert "SKIP  c: gcc not found; install: apt-get install" in without.out
    shutil.rmtree(tiny / RUN / "codegen")
    none = ndtool("check", "tiny", *EASY, "--keep-going", "--json", cwd=tiny)
    assert gate(none, "c")["passed"] is None
    assert "ndtool codegen" in str(gate(none, "c")["text"])
    assert ndtool("verify", "tiny", cwd=tiny).code == 2


def test_a_run_without_a_compiler_ends_with_seven_after_check(tiny: Path) -> None:
    config = str(RUN / "config.toml")
    (tiny / POSIX / "nd_model.c").unlink()
    done = ndtool("run", "-c", config, "--random", "3", cwd=tiny, env=empty_path(tiny))
    assert done.code == 7 and "SKIP  c" in done.out, done.err
    assert done.err.splitlines()[-1].startswith("ndtool: error: gcc not found; install: ")


def test_run_stays_bit_exact_when_it_regenerates(tiny: Path) -> None:
    (tiny / POSIX / "nd_model.c").write_text("broken")
    done = ndtool("run", "-c", RUN / "config.toml", "--json", cwd=tiny)
    assert done.code == 0, done.err
    assert done.document["verify"]["bit_exact"] == "168/168"
    assert done.document["check"]["verdict"] == "pass"
    manifest = json.loads((tiny / RUN / "manifest.json").read_text())
    assert not any("/build/" in name for name in manifest["files"])


def test_the_array_template_has_nothing_to_verify(tiny: Path) -> None:
    shutil.rmtree(tiny / RUN / "codegen")
    done = ndtool("codegen", "tiny", "--template", "array", cwd=tiny)
    assert done.code == 0 and "TFLM arena" in done.out and "next        ndtool check" in done.out
    verify = ndtool("verify", RUN / "codegen/array", cwd=tiny)
    assert verify.code == 2 and "[verify.array]" in verify.err


def test_a_damaged_model_is_not_compared_with(tiny: Path) -> None:
    (tiny / RUN / "export/model_int8.tflite").write_bytes(tiny_model())
    done = ndtool("verify", "tiny", cwd=tiny)
    assert done.code == 2 and "[verify.other-model]" in done.err


def test_qemu_from_a_posix_project_with_a_profile(tiny: Path) -> None:
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        require_tool(tool)
    args = ("--on", "qemu:mps2-an385", "--random", "3", "--profile", "--json")
    done = ndtool("verify", "tiny", *args, cwd=tiny)
    assert done.code == 0, done.err
    document = done.document
    assert document["bit_exact_cortex_m3"] == "11/11"  # eight golden vectors
    total = sum(row["instructions"] for row in document["profile"])
    assert total == document["instructions_cortex_m3"]


def test_list_ops_needs_no_run(tmp_path: Path) -> None:
    done = ndtool("codegen", "--list-ops", cwd=tmp_path)
    assert done.code == 0 and "DEPTHWISE_CONV_2D\n    supported" in done.out
    document = ndtool("codegen", "--list-ops", "--json", cwd=tmp_path).document
    names = [row["name"] for row in document["operators"]]
    assert names == sorted(names) and "STRIDED_SLICE" in names
