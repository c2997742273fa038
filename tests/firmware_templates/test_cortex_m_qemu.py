"""The template cortex-m-qemu: its files, its builds, and generated models on emulated cores."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_tools import WARNINGS, require_tool
from int8_models import tiny_model
from qemu_engine import require_cross_tools, run_batch, write_firmware
from shared_models import shared_model
from single_op import CASES, inputs_for
from tflm import run_tflm

from ndtool.export import qemu, toolchain
from ndtool.export.codegen.boards import BOARDS, Board
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.layers import formed_layers
from ndtool.export.elf_facts import read_elf_facts
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "firmware_templates/projects/cortex-m-qemu/board"
M4 = "mps2-an386"
MAX_STACK = 512  # bytes, of any model on any core
GCC = "arm-none-eabi-gcc"
# GNU C by nature: naked functions, asm, a range in the vector table
STRICT = [word for word in WARNINGS if word != "-Wpedantic"]


@pytest.fixture
def own(firmware: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(firmware, tmp_path / "project")


def smooth(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """int8 images of a few cosines each: networks answer them otherwise than noise."""
    rng = np.random.default_rng(seed)
    h, w = (np.arange(n) / max(n - 1, 1) for n in shape[1:3])
    made = np.zeros((count, *shape[1:]))
    for image in made:
        for channel in np.moveaxis(image, -1, 0):
            for _ in range(3):
                fy, fx, phase, gain = rng.uniform(0, (4, 4, 6.3, 90))
                channel += gain * np.cos(6.3 * (fy * h[:, None] + fx * w[None]) + phase)
    return np.clip(np.rint(made), -128, 127).astype(np.int8)


# -- the files -----------------------------------------------------------------------------------


def test_layout_is_clang_format_s(firmware: Path) -> None:
    formatter = require_tool("clang-format")
    style = f"--style=file:{ROOT / '.clang-format'}"
    for path in [*FOLDER.glob("*.[ch]"), firmware / "m_main.c"]:
        done = subprocess.run([formatter, style, path], check=True, capture_output=True)
        assert done.stdout.decode() == path.read_text(), path.name


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_compiles_without_a_word(board: Board, firmware: Path, tmp_path: Path) -> None:
    for source in [*sorted((firmware / "board").glob("*.c")), firmware / "m_main.c"]:
        command = [GCC, *board.cpu.split(), "-std=c99", *STRICT, "-O2", "-I.", "-c", str(source)]
        command += ["-Wstrict-prototypes", "-ffreestanding", "-o", str(tmp_path / "x.o")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=firmware)
        assert done.stderr == "", source.name
        assert done.returncode == 0


def test_makefile_and_cmake_know_every_board(firmware: Path) -> None:
    pages = [(firmware / name).read_text() for name in ("Makefile", "CMakeLists.txt", "README.md")]
    for board in BOARDS:
        assert all(board.name in page and board.cpu in page for page in pages)
        script = (firmware / "board" / board.linker).read_text()
        assert "INCLUDE sections.ld" in script


def test_unknown_board_is_named(firmware: Path) -> None:
    done = subprocess.run(
        ["make", "BOARD=nonesuch"], check=False, capture_output=True, text=True, cwd=firmware
    )
    assert done.returncode != 0
    assert "unknown BOARD=nonesuch; known: mps2-an385" in done.stderr


def test_no_libc_is_linked(firmware: Path) -> None:
    elf = qemu.build(firmware, "m", M4)
    archives = set(re.findall(r"\w+\.a\b", elf.with_suffix(".map").read_text()))
    assert archives <= {"libgcc.a"}


# -- building ------------------------------------------------------------------------------------


def run_make(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments], check=False, capture_output=True, text=True, cwd=folder, timeout=120
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_builds_what_changed_and_no_more(own: Path) -> None:
    assert run_make(own, f"BOARD={M4}").startswith("0\n")
    assert "arm-none-eabi-gcc" not in run_make(own, f"BOARD={M4}")
    assert run_make(own, f"BOARD={M4}", "OPT=-Os").count(" -c ") > 5
    again = run_make(own, f"BOARD={M4}", "OPT=-Os")
    assert "arm-none-eabi-gcc" not in again
    (own / "m.h").touch()
    changed = run_make(own, f"BOARD={M4}", "OPT=-Os")
    assert " -c m.c " in changed
    assert " -c board/startup.c " not in changed


def test_self_test_runs_in_qemu(own: Path) -> None:
    good = run_make(own, "--silent", "run")
    assert good.startswith("0\n")
    assert "m: 2 golden vectors: ok" in good
    golden = own / "m_golden.c"
    head, table, rest = re.split(r"(?s)(m_golden_output\[.*?\};)", golden.read_text(), maxsplit=1)
    digits = re.sub(r"-?\d+,", lambda m: "5," if m[0] != "5," else "6,", table)
    assert digits != table
    golden.write_text(head + digits + rest)
    bad = run_make(own, "--silent", "run")
    assert not bad.startswith("0\n")
    assert "m: golden vector [0] of 2: selftest failed" in bad


@pytest.mark.slow
def test_prefix_that_begins_another(tmp_path: Path) -> None:
    """Two models in one folder: each program gets its own model's files, and both are right."""
    require_cross_tools()
    folder = tmp_path / "two"
    models = {"net": tiny_model(3), "net_two": tiny_model(4)}
    for prefix, model in models.items():
        write_firmware(read_tflite(model), folder, prefix=prefix)
    assert run_make(folder, f"BOARD={M4}").startswith("0\n")
    x = np.random.default_rng(0).integers(-128, 128, (4, 6, 6, 1)).astype(np.int8)
    for prefix, model in models.items():
        (wanted,) = run_tflm(model, x)
        elf = folder / f"build/{M4}/{prefix}.elf"
        assert qemu.run(elf, M4, x.tobytes()).outputs == wanted.tobytes()


@pytest.mark.slow
def test_cmake_builds_the_same_programs(own: Path) -> None:
    require_tool("cmake")
    board = "mps2-an385"
    toolchain_file = "-DCMAKE_TOOLCHAIN_FILE=board/arm-none-eabi.cmake"
    for command in (
        ["cmake", "-S", ".", "-B", "build/cmake", toolchain_file, f"-DBOARD={board}"],
        ["cmake", "--build", "build/cmake"],
        ["cmake", "--build", "build/cmake", "--target", "run"],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=own)
        assert done.returncode == 0, done.stdout + done.stderr
    x = np.random.default_rng(0).integers(-128, 128, (4, 6, 6, 1)).astype(np.int8)
    by_make = qemu.run(qemu.build(own, "m", board), board, x.tobytes())
    by_cmake = qemu.run(own / "build/cmake/m.elf", board, x.tobytes())
    assert by_cmake == by_make


# -- on the cores --------------------------------------------------------------------------------


@pytest.mark.parametrize("board", [board.name for board in BOARDS])
def test_every_board_gives_tflm_s_bytes(board: str, own: Path) -> None:
    x = np.random.default_rng(1).integers(-128, 128, (20, 6, 6, 1)).astype(np.int8)
    (wanted,) = run_tflm(tiny_model(), x)
    elf = qemu.build(own, "m", board)
    done = qemu.run(elf, board, x.tobytes())
    assert done.outputs == wanted.tobytes()
    assert done.stack_bytes is not None
    assert 16 <= done.stack_bytes <= MAX_STACK
    assert read_elf_facts(elf, "m").ram_bytes == 0


@pytest.mark.slow
def test_one_op_models_on_m4_and_m0(tmp_path: Path) -> None:
    """Some of every operation, in one program. M0 has no unaligned loads, no long multiplies."""
    require_cross_tools()
    names, models, inputs, wanted = [], [], [], []
    for name, case in CASES.items():
        for seed in range(3):
            rng = np.random.default_rng(seed)
            graph = case(rng)
            compiled = compile_graph(graph)
            if compiled.plan.total > 8 * 1024:  # microbit has 16 KB
                continue
            xs = inputs_for(graph, rng)
            data = write_tflite(graph, description="test")
            names.append(f"{name} {seed}")
            models.append(compiled)
            inputs.append(xs)
            wanted.append(run_tflm(data, *xs, outputs=len(graph.outputs)))
    assert len(names) > 2 * len(CASES)
    found = run_batch(models, inputs, tmp_path, [M4, "microbit"])
    for board, outputs in found.items():
        for name, got, right in zip(names, outputs, wanted, strict=True):
            for y, z in zip(got, right, strict=True):
                np.testing.assert_array_equal(y.reshape(-1), z.reshape(-1), f"{name} on {board}")


# Both models' inputs are written before either runs, and read after both ran.
TWO_ARENAS = """
#include "board/semihost.h"
#include "a.h"
#include "b.h"

static A_ALIGN16 int8_t first[A_ARENA_BYTES];
static A_ALIGN16 int8_t second[A_ARENA_BYTES];
static B_ALIGN16 int8_t third[B_ARENA_BYTES];

int main(void)
{
    const int in = host_open("input.bin", HOST_READ);
    const int out = host_open("output.bin", HOST_WRITE);
    while (host_read(in, a_input(first), A_INPUT_BYTES) == A_INPUT_BYTES) {
        if (host_read(in, b_input(third), B_INPUT_BYTES) != B_INPUT_BYTES ||
            host_read(in, a_input(second), A_INPUT_BYTES) != A_INPUT_BYTES ||
            a_run(first) != ND_OK || b_run(third) != ND_OK || a_run(second) != ND_OK) {
            return 1;
        }
        (void)host_write(out, a_output(first), A_OUTPUT_BYTES);
        (void)host_write(out, b_output(third), B_OUTPUT_BYTES);
        (void)host_write(out, a_output(second), A_OUTPUT_BYTES);
    }
    return host_close(out);
}
"""


@pytest.mark.slow
def test_two_models_and_arenas_in_turn(tmp_path: Path) -> None:
    require_cross_tools()
    folder, models = tmp_path / "both", {"a": shared_model("kws"), "b": shared_model("resnet8")}
    for prefix, model in models.items():
        write_firmware(read_tflite(model), folder, prefix=prefix)
        (folder / f"{prefix}_main.c").unlink()
    (folder / "both_main.c").write_text(TWO_ARENAS)
    parts = [
        p for prefix in models for p in sorted(folder.glob(f"{prefix}*.c")) if p.stem != "both_main"
    ]
    sources = [p for p in parts if not p.stem.endswith("_layers")] + list(
        folder.glob("nd_runtime/*.c")
    )
    objects = [f"build/{M4}/objects/{p.relative_to(folder).with_suffix('.o')}" for p in sources]
    target = f"build/{M4}/both.elf"
    arguments = (f"BOARD={M4}", f"RUNTIME_OBJECTS={' '.join(objects)}", target)
    toolchain.make(folder, *arguments, tools=[GCC])
    rng = np.random.default_rng(2)
    n = 3
    x = {
        name: rng.integers(-128, 128, (n, 49, 10, 1) if name != "b" else (n, 32, 32, 3))
        for name in ("first", "b", "second")
    }
    x = {name: values.astype(np.int8) for name, values in x.items()}
    y = {
        name: run_tflm(models["b" if name == "b" else "a"], values)[0] for name, values in x.items()
    }
    data, wanted = (
        b"".join(arrays[name][i].tobytes() for i in range(n) for name in arrays)
        for arrays in (x, y)
    )
    assert qemu.run(folder / target, M4, data).outputs == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["person_detect", "kws", "vww_96", "resnet8"])
def test_shared_models_stay_in_flash(name: str, tmp_path: Path) -> None:
    """QEMU ignores a write to netduinoplus2's flash: a wrong one would show as a wrong byte."""
    require_cross_tools()
    board, data = "netduinoplus2", shared_model(name)
    graph = read_tflite(data)
    write_firmware(graph, tmp_path / "project")
    elf = qemu.build(tmp_path / "project", "m", board)
    shape = graph.tensor(graph.inputs[0]).shape
    noise = np.random.default_rng(3).integers(-128, 128, (3, *shape[1:])).astype(np.int8)
    x = np.concatenate([noise, smooth(shape, 3, seed=4)])
    done = qemu.run(elf, board, x.tobytes())
    assert done.outputs == run_tflm(data, x)[0].tobytes()
    assert done.stack_bytes is not None
    assert done.stack_bytes <= MAX_STACK
    facts = read_elf_facts(elf, "m")
    assert (facts.ram_bytes, facts.ram) == (0, ())
    assert facts.code_bytes <= 16 * 1024
    assert_tables_in_flash(elf, "m", flash=range(0x08000000, 0x08100000))


def assert_tables_in_flash(elf: Path, prefix: str, *, flash: range) -> None:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as file:
        reader = ELFFile(file)
        tables = [
            symbol
            for symbol in reader.get_section_by_name(".symtab").iter_symbols()
            if symbol["st_info"]["type"] == "STT_OBJECT"
            and re.match(rf"({prefix}_)?l\d+_", symbol.name)
        ]
        assert len(tables) > 20
        assert all(symbol["st_value"] in flash for symbol in tables)
        writable = [s for s in reader.iter_segments("PT_LOAD") if s["p_flags"] & 2]
        assert all(s["p_vaddr"] not in flash for s in writable)
        assert reader.get_section_by_name(".data")["sh_size"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "board"),
    [
        ("person_detect", "mps2-an385"),
        ("resnet8", M4),
        ("vww_96", "mps2-an500"),
        ("kws", "mps3-an547"),
    ],
)
def test_shared_models_by_layer(name: str, board: str, tmp_path: Path) -> None:
    """Every tensor that the C forms whole, on each core; outputs alone saturate."""
    require_cross_tools()
    data = shared_model(name)
    graph = read_tflite(data)
    write_firmware(graph, tmp_path / "project")
    elf = qemu.build(tmp_path / "project", "m", board, layers=True)
    shape = graph.tensor(graph.inputs[0]).shape
    noise = np.random.default_rng(6).integers(-128, 128, (2, *shape[1:])).astype(np.int8)
    x = np.concatenate([noise, smooth(shape, 2, seed=7)])
    done = qemu.run(elf, board, x.tobytes())
    layers = formed_layers(compile_graph(graph))
    sizes = [layer.size for layer in layers]
    rows = np.frombuffer(done.layers, np.int8).reshape(len(x), sum(sizes))
    wanted = run_tflm(data, x, tensors=[int(layer.tensor) for layer in layers])
    for layer, got, right in zip(
        layers, np.split(rows, np.cumsum(sizes)[:-1], axis=1), wanted, strict=True
    ):
        if layer.removed is not None:
            right = right[..., list(layer.removed.live)]
        np.testing.assert_array_equal(got, right.reshape(len(x), -1), layer.name)
