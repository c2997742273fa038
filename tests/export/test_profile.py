"""Instruction counts: exact, the same every time, of the function alone; and the plugin's cache."""

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu_engine import require_cross_tools, write_script

from ndtool.errors import InputError, ToolMissingError
from ndtool.export import qemu
from ndtool.export.profile import cache_folder, plugin_path, profile

M4 = "mps2-an386"
SAMPLE = bytes(36)
# A run function whose instructions are counted by hand: 1 + 2 * 1000 in the helper and its return,
# push, bl, movs, pop around it. The helper's loop is what a wrong count would multiply.
COUNTED = """
#include "m.h"
__attribute__((naked, noinline, used)) static void helper(void)
{
    __asm volatile("movw r1, #1000\\n1:\\n\\tsubs r1, #1\\n\\tbne 1b\\n\\tbx lr");
}
__attribute__((naked)) nd_status m_run(void *arena)
{
    (void)arena;
    __asm volatile("push {r3, lr}\\n\\tbl helper\\n\\tmovs r0, #0\\n\\tpop {r3, pc}");
}
int8_t *m_input(void *arena) { return (int8_t *)arena; }
const int8_t *m_output(const void *arena) { return (const int8_t *)arena; }
nd_status m_check_arena(const void *arena, size_t bytes) { (void)arena; (void)bytes; return ND_OK; }
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of these tests' own, with what QEMU's arguments and shells take badly in its path."""
    require_cross_tools()
    folder = tmp_path_factory.mktemp("cache, with 'signs'")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def counted(firmware: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted") / "project"
    shutil.copytree(firmware, folder)
    (folder / "m.c").write_text(COUNTED)
    return folder


@pytest.fixture(scope="module")
def elf(firmware: Path) -> Path:
    return qemu.build(firmware, "m", M4)


@pytest.mark.parametrize("board", ["mps2-an385", M4, "mps3-an547"])
def test_count_is_exact(board: str, counted: Path) -> None:
    found = profile(qemu.build(counted, "m", board), board, "m", SAMPLE)
    assert found.instructions == 1 + 2 * 1000 + 1 + 4
    assert found.functions == (("helper", 2002), ("m_run", 4))


def test_same_every_time_and_by_function(elf: Path) -> None:
    first = profile(elf, M4, "m", SAMPLE)
    assert profile(elf, M4, "m", SAMPLE) == first
    counts = dict(first.functions)
    assert sum(counts.values()) == first.instructions
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert {"m_run", "nd_conv_s8", "nd_mean_s8"} <= set(counts)
    assert not {"main", "stack_used", "stack_paint", "reset_handler"} & set(counts)
    # 4 x 4 positions of 3 x 3 weights at the very least
    assert 144 < first.instructions < 10**6


def test_warm_up_is_not_counted(elf: Path) -> None:
    """Two inferences run, one is counted: a count of both would be twice this one's parts."""
    counts = dict(profile(elf, M4, "m", SAMPLE).functions)
    assert counts["m_run"] < 100


def test_unknown_model_is_told(elf: Path) -> None:
    with pytest.raises(InputError, match="no function other_run"):
        profile(elf, M4, "other", SAMPLE)


def test_qemu_without_plugins_is_a_missing_tool(
    elf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path / "qemu-system-arm", "echo 'QEMU emulator version 7.2.0'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ToolMissingError, match="loads plugins"):
        profile(elf, M4, "m", SAMPLE)


# -- the plugin's cache --------------------------------------------------------------------------


def test_plugin_is_compiled_once(cache: Path) -> None:
    path = plugin_path()
    assert path.parent == cache / "ndtool"
    before = path.stat()
    assert plugin_path() == path
    assert path.stat() == before


def test_compiled_at_the_same_time(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(plugin_path(environment))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert set(found) == set((tmp_path / "ndtool").iterdir())


def test_relative_cache_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for environment in ({}, {"XDG_CACHE_HOME": "here"}, {"XDG_CACHE_HOME": ""}):
        assert cache_folder(environment) == Path("/home/someone/.cache/ndtool")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/ndtool")


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        plugin_path({"XDG_CACHE_HOME": str(tmp_path / "file")})


def test_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "qemu-system-arm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"install .*gcc libc6-dev"):
        plugin_path({"XDG_CACHE_HOME": str(tmp_path)})


@pytest.mark.parametrize(("version", "interface"), [("7.2.22", 1), ("8.2.0", 1), ("10.0.2", 2)])
def test_plugin_is_made_for_the_qemu_there_is(
    version: str, interface: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU 9 refuses what was made for interface version 1."""
    write_script(
        tmp_path / "qemu-system-arm", f"echo 'QEMU emulator version {version} (distribution)'"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    plugin = ctypes.PyDLL(str(plugin_path({"XDG_CACHE_HOME": str(tmp_path)})), os.RTLD_LAZY)
    assert ctypes.c_int.in_dll(plugin, "qemu_plugin_version").value == interface
