"""Memory that can be taken: the machine's and the container's, whichever is less."""

from pathlib import Path

import pytest

from ndtool import machine
from ndtool.machine import available_memory_bytes

MIB = 1024**2


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1000 MiB available and no memory groups."""
    for name, path in (("_MEMINFO", "meminfo"), ("_OWN_GROUPS", "own"), ("_GROUPS", "groups")):
        monkeypatch.setattr(machine, name, tmp_path / path)
    text = f"MemTotal: {4000 * 1024} kB\nMemAvailable: {1000 * 1024} kB\nHugePages_Total: 0\n"
    (tmp_path / "meminfo").write_text(text)
    return tmp_path


def group(folder: Path, names: tuple[str, str, str], *, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache * MIB}\n")


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_the_kernels_estimate(system: Path) -> None:
    assert available_memory_bytes() == 1000 * MIB


def test_the_bound_of_a_container(system: Path) -> None:
    """Which sees its own group as the root, whatever the name says."""
    (system / "own").write_text("0::/docker/abc\n")
    group(system / "groups", V2, limit=str(500 * MIB), used=300, cache=100)
    assert available_memory_bytes() == 300 * MIB
    group(system / "groups", V2, limit=str(5000 * MIB), used=300, cache=100)
    assert available_memory_bytes() == 1000 * MIB
    group(system / "groups", V2, limit="max", used=300, cache=100)
    assert available_memory_bytes() == 1000 * MIB
    group(system / "groups", V2, limit=str(100 * MIB), used=300, cache=100)
    assert available_memory_bytes() == 0


def test_the_tightest_group_above_the_process_counts(system: Path) -> None:
    (system / "own").write_text("0::/user/job/step\n")
    group(system / "groups/user/job/step", V2, limit="max", used=1, cache=0)
    group(system / "groups/user/job", V2, limit=str(400 * MIB), used=150, cache=0)
    group(system / "groups/user", V2, limit=str(900 * MIB), used=200, cache=0)
    assert available_memory_bytes() == 250 * MIB


def test_version_1_of_the_groups(system: Path) -> None:
    (system / "own").write_text("7:blkio:/\n4:cpu,memory:/job\n")
    group(system / "groups/memory/job", V1, limit=str(400 * MIB), used=150, cache=50)
    group(system / "groups/memory", V1, limit=str(2**63 - 4096), used=150, cache=50)
    assert available_memory_bytes() == 300 * MIB


def test_broken_kernel_files_are_no_bound(system: Path) -> None:
    (system / "own").write_text("\n:::\nx\n0\n4:memory\n0::/a\n")
    (system / "groups" / "a").mkdir(parents=True)
    (system / "groups" / "a" / "memory.max").write_bytes(b"\xff\xfe 12 \n")
    assert available_memory_bytes() == 1000 * MIB
    (system / "meminfo").write_text("MemAvailable:\nMemAvailable: x kB\n")
    assert (available_memory_bytes() or 0) > 100 * MIB  # of the whole machine, by sysconf


def test_this_machine_has_some() -> None:
    assert (available_memory_bytes() or 0) > 10 * MIB
