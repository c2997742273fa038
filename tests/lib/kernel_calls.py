"""Runs kernel calls one by one, as the lowering made them, through ctypes: no generated C between.

As a program it runs random operations, each activation and table a block of the heap for itself, in
kernels built with the address sanitizer (`check_heap` starts it).
"""

import ctypes
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import single_op
from host_tools import C99, compile_ok, require_tool
from wide_ops import WIDE

from ndtool.export.codegen.lower import elementwise, movement, softmax, windows
from ndtool.export.codegen.program import Arg, Call, Read, Scratch, Struct, Table, Write
from ndtool.export.int8.ir import Graph, TensorId, op_name

RUNTIME = Path(str(resources.files("ndtool.firmware_templates"))) / "runtime"
KERNELS = (
    "nd_add_s8",
    "nd_average_pool_s8",
    "nd_copy_s8",
    "nd_max_pool_s8",
    "nd_mean_s8",
    "nd_mul_s8",
    "nd_pad_s8",
    "nd_resize_nearest_s8",
    "nd_slice_s8",
    "nd_softmax_s8",
    "nd_table_s8",
)
UBSAN = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-static-libubsan")
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GUARD = 64  # bytes on both sides of an activation, which no kernel may touch
UNTOUCHED = 0x5A
LOWER: dict[str, Callable[..., tuple[Call, ...]]] = {
    "ADD": elementwise.lower_binary,
    "SUB": elementwise.lower_binary,
    "MUL": elementwise.lower_binary,
    "AVERAGE_POOL_2D": windows.lower_pool,
    "MAX_POOL_2D": windows.lower_pool,
    "MEAN": windows.lower_mean,
    "SOFTMAX": softmax.lower_softmax,
    "PAD": movement.lower_pad,
    "CONCATENATION": movement.lower_concat,
    "SPLIT": movement.lower_split,
    "STRIDED_SLICE": movement.lower_strided_slice,
    "RESIZE_NEAREST_NEIGHBOR": movement.lower_resize_nearest,
    "HARD_SWISH": elementwise.lower_unary,
    "LOGISTIC": elementwise.lower_unary,
    "TANH": elementwise.lower_unary,
    "LEAKY_RELU": elementwise.lower_unary,
    "RELU": elementwise.lower_unary,
    "RELU6": elementwise.lower_unary,
    "QUANTIZE": elementwise.lower_unary,
}
CASES = {
    **{name: case for name, case in single_op.CASES.items() if name in LOWER},
    **{f"{name}, wide": case for name, case in WIDE.items()},
}


def random_graph(name: str, number: int) -> Graph:
    return CASES[name](np.random.default_rng([zlib.crc32(name.encode()), 11, number]))


def lower_only_op(graph: Graph) -> tuple[Call, ...]:
    """The calls of a graph of one operation."""
    (op,) = graph.ops
    return LOWER[op_name(op)](graph, op, 0)


def build_kernels(
    folder: Path, sanitizer: Sequence[str] = UBSAN, names: Sequence[str] = KERNELS
) -> Path:
    """The kernels as one shared library in `folder`."""
    sources = [RUNTIME / f"{name}.c" for name in names]
    options = ("-O1", "-g", "-fPIC", "-shared", *sanitizer, "-o", "kernels.so")
    compile_ok(C99, sources, *options, cwd=folder)
    return folder / "kernels.so"


class Arena:
    """Activations in one array, with guards between or one over another; constants beside it."""

    def __init__(self, sizes: Mapping[TensorId, int], places: Mapping[TensorId, int]) -> None:
        self.sizes, self.places = sizes, places
        self.bytes = np.full(max(places[t] + sizes[t] for t in places) + GUARD, UNTOUCHED, np.uint8)
        self.kept: list[np.ndarray] = []

    @classmethod
    def apart(cls, sizes: Mapping[TensorId, int]) -> "Arena":
        places, end = {}, GUARD
        for tensor, size in sizes.items():
            places[tensor] = end
            end += size + GUARD
        return cls(sizes, places)

    def address(self, tensor: TensorId) -> int:
        return self.bytes.ctypes.data + self.places[tensor]

    def constant(self, data: bytes) -> int:
        self.kept.append(np.frombuffer(data, np.uint8))
        return self.kept[-1].ctypes.data

    def view(self, tensor: TensorId) -> np.ndarray:
        start = self.places[tensor]
        return self.bytes[start : start + self.sizes[tensor]].view(np.int8)

    def check_guards(self) -> None:
        used = np.zeros(len(self.bytes), bool)
        for tensor, start in self.places.items():
            used[start : start + self.sizes[tensor]] = True
        assert (self.bytes[~used] == UNTOUCHED).all(), "written outside the tensors"


class Heap:
    """Each activation and constant as a block of its own, which the address sanitizer guards."""

    def __init__(self, sizes: Mapping[TensorId, int]) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.blocks: list[int] = []
        self.places = {t: self.constant(bytes(size)) for t, size in sizes.items()}

    def address(self, tensor: TensorId) -> int:
        return self.places[tensor]

    def constant(self, data: bytes) -> int:
        self.blocks.append(self.libc.malloc(ctypes.c_size_t(len(data))))
        ctypes.memmove(self.blocks[-1], data, len(data))
        return self.blocks[-1]

    def free(self) -> None:
        for block in self.blocks:
            self.libc.free(block)


def run_calls(library: ctypes.CDLL, calls: Iterable[Call], memory: Arena | Heap) -> None:
    """Run `calls` on activations that lie in `memory`."""
    for call in calls:
        addresses = [_address(arg, memory) for arg in call.args]
        function = getattr(library, call.kernel)
        function.restype = None
        function(*map(ctypes.c_void_p, addresses))


def _address(arg: Arg, memory: Arena | Heap) -> int:
    match arg:
        case Struct():
            return memory.constant(np.array([v for _, v in arg.fields], np.int32).tobytes())
        case Table():
            return memory.constant(arg.data)
        case Scratch():
            return memory.constant(bytes(arg.size))
        case Read() | Write():
            return memory.address(arg.tensor) + arg.offset


def sizes_of(graph: Graph) -> dict[TensorId, int]:
    """Bytes of each input and output."""
    return {t: graph.tensor(t).elements for t in dict.fromkeys((*graph.inputs, *graph.outputs))}


def run_op(
    library: ctypes.CDLL,
    graph: Graph,
    inputs: Sequence[np.ndarray],
    places: Mapping[TensorId, int] | None = None,
    calls: Sequence[Call] | None = None,
) -> list[np.ndarray]:
    """Outputs (n, elements) for inputs (n, ...); tensors lie apart, or at `places`.

    `calls` are those of the only operation, if nothing is said.
    """
    sizes, calls = sizes_of(graph), lower_only_op(graph) if calls is None else calls
    rows = []
    for images in zip(*inputs, strict=True):
        arena = Arena.apart(sizes) if places is None else Arena(sizes, places)
        for tensor, image in zip(graph.inputs, images, strict=True):
            arena.view(tensor)[:] = image.ravel()
        run_calls(library, calls, arena)
        arena.check_guards()
        rows.append([arena.view(t).copy() for t in graph.outputs])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def check_heap(folder: Path, cases: int) -> str:
    """Run `cases` of each operation under the address sanitizer; what it complains about, or ''."""
    return under_asan("kernel_calls", build_kernels(folder, ASAN), cases, cases * len(CASES))


def under_asan(module: str, library: Path, cases: int, expected: int) -> str:
    """Run `module` with LIBRARY CASES as a script that says "EXPECTED cases"; what was wrong."""
    found = subprocess.run(
        [require_tool("gcc"), "-print-file-name=libasan.so"],
        check=True,
        capture_output=True,
        text=True,
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, "-m", module, str(library), str(cases)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    if done.returncode == 0 and done.stdout == f"{expected} cases\n":
        return ""
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def main(path: str, cases: int) -> None:
    """Run random operations on random bytes; the sanitizer ends the process at a fault."""
    library = ctypes.CDLL(path)
    count = 0
    for name in CASES:
        for number in range(cases):
            graph = random_graph(name, number)
            heap = Heap(sizes_of(graph))
            run_calls(library, lower_only_op(graph), heap)
            heap.free()
            count += 1
    sys.stdout.write(f"{count} cases\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
