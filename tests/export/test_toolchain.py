"""Programs beside Python: found or named, stopped in time, their failures told in one line."""

import shutil
import sys
import time
from pathlib import Path

import pytest
from host_tools import require_tool

from ndtool.errors import FitError, InputError, ToolMissingError
from ndtool.export import toolchain
from ndtool.export.toolchain import PACKAGE_OF, find_tool, has_tool, make, run_tool, version_of


def run(script: str, folder: Path, **options: object) -> tuple[int | None, str]:
    log = folder / "log"
    arguments: dict[str, object] = {"timeout_s": 20.0} | options
    status = run_tool([sys.executable, "-c", script], cwd=folder, log=log, **arguments)  # type: ignore[arg-type]
    return status, log.read_text()


def has_ended(pid: int) -> bool:
    """Soon after its SIGKILL; a zombie, which waits for its parent, has ended."""
    stat = Path(f"/proc/{pid}/stat")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", sorted(PACKAGE_OF))
def test_missing_tool_names_its_package(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not has_tool(tool)
    with pytest.raises(ToolMissingError) as caught:
        find_tool(tool)
    assert caught.value.exit_code == 7
    assert caught.value.install == f"apt-get install --no-install-recommends {PACKAGE_OF[tool]}"


def test_present_tool_is_found() -> None:
    path = require_tool("make")
    assert find_tool("make") == path
    assert has_tool("make")
    assert "Make" in version_of("make")


# -- running -------------------------------------------------------------------------------------


def test_status_output_and_folder(tmp_path: Path) -> None:
    script = "import os, sys; print(os.getcwd()); sys.stderr.write('words'); sys.exit(3)"
    status, text = run(script, tmp_path)
    assert status == 3
    assert "words" in text and str(tmp_path) in text


def test_signal_is_a_negative_status(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 9)", tmp_path)[0] == -9


def test_no_input(tmp_path: Path) -> None:
    assert run("import sys; sys.exit(len(sys.stdin.read()))", tmp_path)[0] == 0


def test_a_surrounding_make_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ("MAKEFLAGS", "MAKELEVEL", "OPT", "LAYERS", "CFLAGS", "CPPFLAGS", "LDFLAGS")
    for name in foreign:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "yes")
    _, text = run("import os; print(*os.environ, os.environ['LC_ALL'])", tmp_path)
    words = text.split()
    assert not {*foreign, "de_DE.UTF-8"} & set(words)
    assert "KEPT" in words


CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open("pid.tmp", "w") as file:
    file.write(str(child.pid))
os.rename("pid.tmp", "pid")
time.sleep(600)
"""


def test_timeout_stops_it_and_its_children(tmp_path: Path) -> None:
    start = time.monotonic()
    status, _ = run(CHILD, tmp_path, timeout_s=60.0, watch=lambda: not (tmp_path / "pid").exists())
    assert status is None
    assert time.monotonic() - start < 30
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_timeout(tmp_path: Path) -> None:
    assert run("import time; time.sleep(600)", tmp_path, timeout_s=0.3)[0] is None


def test_interrupt_leaves_no_process(tmp_path: Path) -> None:
    """Whatever ends the wait ends the program."""

    def watch() -> bool:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        run(CHILD, tmp_path, timeout_s=60.0, watch=watch)
    assert has_ended(int((tmp_path / "pid").read_text()))


# -- builds --------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    require_tool("make")
    return tmp_path


def write_makefile(folder: Path, *recipe: str) -> None:
    lines = "".join(f"\t{line}\n" for line in recipe)
    (folder / "Makefile").write_text(f"all:\n{lines}")


def test_targets_and_variables_reach_make(project: Path) -> None:
    (project / "Makefile").write_text("other:\n\techo $(WORD) > other\n")
    make(project, "WORD=given", "other", tools=[])
    assert (project / "other").read_text() == "given\n"


def test_build_failure_shows_the_end(project: Path) -> None:
    write_makefile(project, "@seq 100", "@echo 'x.c:3: error: bad \x1b[31mword' >&2; exit 4")
    with pytest.raises(InputError) as caught:
        make(project, tools=[])
    assert caught.value.code == "build.failed"
    assert "x.c:3: error: bad \\x1b[31mword" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert " 90 " not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (r"region \`FLASH' overflowed by 2048 bytes", "FLASH is 2048 bytes too small"),
        ("RAM: data, bss, arenas and stack do not fit", "arenas and stack do not fit the RAM"),
    ],
)
def test_overflow_is_a_matter_of_fit(project: Path, words: str, shown: str) -> None:
    write_makefile(project, f'@echo "ld: {words}" >&2; exit 1')
    with pytest.raises(FitError, match=shown) as caught:
        make(project, tools=[])
    assert caught.value.exit_code == 4


def test_missing_libc_headers_are_a_missing_tool(project: Path) -> None:
    write_makefile(project, "@echo 'fatal error: string.h: No such file or directory'; exit 1")
    with pytest.raises(ToolMissingError, match="libnewlib-arm-none-eabi"):
        make(project, tools=[])


def test_tools_of_the_makefile_are_asked_for_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_makefile(project, "touch was_run")
    known = shutil.which

    def which(name: str) -> str | None:
        return None if name.startswith("arm-") else known(name)

    monkeypatch.setattr(toolchain.shutil, "which", which)
    with pytest.raises(ToolMissingError, match="gcc-arm-none-eabi"):
        make(project, tools=["arm-none-eabi-gcc"])
    assert not (project / "was_run").exists()


def test_no_project(project: Path) -> None:
    with pytest.raises(InputError, match="no Makefile"):
        make(project, tools=[])


def test_endless_build_is_stopped(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "BUILD_TIMEOUT_S", 0.5)
    write_makefile(project, "@echo begun; sleep 600")
    with pytest.raises(InputError, match="took more than 0 s: begun"):
        make(project, tools=[])
