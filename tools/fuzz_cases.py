"""Damaged .tflite files for `fuzz_reader`, and what is done with each.

A case is a pure function of the seed files, a random seed and its number, so that a finding can be
made again from these. The places of offsets, lengths, shapes and scales are learnt from what our
own parser reads of the undamaged file.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np

from ndtool.errors import NdError
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.tflite.flatbuffer import FlatBuffer
from ndtool.export.tflite.int8_part import int8_part
from ndtool.export.tflite.lint import lint
from ndtool.export.tflite.parse import parse_buffer
from ndtool.export.tflite.reader import read_model
from ndtool.export.tflite.writer import write_tflite
from ndtool.types import Converter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "lib"))
import single_op  # beside the tests that use it
from ai_edge_litert import schema_py_generated as fb
from float_ends import packed, with_float_ends
from int8_network import network

OPS_EACH: Final = 6  # files of each kind of operation
SMALL_BYTES: Final = 16384  # files up to this are chosen four times in five
REMADE: Final = 0.3  # share of files that are sound but say something else
INTEGERS: Final = (0, 1, 2, 3, 4, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**16, 2**24, 2**26)
EXTREMES: Final = (*INTEGERS, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2, 2**32 - 4)
FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-12, 1e12, 3e38, float("inf"), float("nan"))


class Outcome(StrEnum):
    """How far a file came. Everything that is not one of these is a finding."""

    MALFORMED = "not a file"
    REFUSED = "refused"
    UNCOMPILED = "accepted, not compiled"
    COMPILED = "compiled"


def judge(data: bytes) -> Outcome:
    """Read, lint and compile a file of unknown origin."""
    try:
        lint(data, None, converter=Converter.NATIVE)
        model = read_model(data)
    except NdError as error:
        return Outcome.MALFORMED if error.code == "tflite.malformed" else Outcome.REFUSED
    try:
        int8_part(data)
        compile_graph(model.graph)
    except NdError:
        return Outcome.UNCOMPILED
    return Outcome.COMPILED


# ------------------------------------------------------------------------------------ seed files


@dataclass(frozen=True, slots=True)
class Seed:
    """A good file and the (offset, bytes) of what our parser reads of it."""

    data: bytes
    spots: tuple[tuple[int, int], ...]


class _Spots(FlatBuffer):
    """Notes each span that is looked at."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "seed")
        self.seen: set[tuple[int, int]] = set()

    def check(self, at: int, size: int) -> None:
        super().check(at, size)
        if size:
            self.seen.add((at, size))


def make_seed(data: bytes) -> Seed:
    """The seed of a good file."""
    buffer = _Spots(data)
    parse_buffer(buffer)
    return Seed(data, tuple(sorted(buffer.seen)))


def make_seeds(files: Sequence[Path]) -> list[Seed]:
    """Seeds of `files`, of every kind of operation, of a network, and of one with float ends."""
    graphs = [
        case(np.random.default_rng([4, number]))
        for case in single_op.CASES.values()
        for number in range(OPS_EACH)
    ]
    datas = [write_tflite(graph, description="seed") for graph in (*graphs, network(), network(1))]
    datas += [with_float_ends(graph) for graph in (network(), graphs[0], graphs[-1])]
    return [make_seed(data) for data in (*datas, *(path.read_bytes() for path in files))]


# --------------------------------------------------------------------------------------- damages


def make_case(seeds: Sequence[Seed], seed: int, number: int) -> bytes:
    """The damaged file of that number."""
    rnd = random.Random(f"{seed}:{number}")
    small = [s for s in seeds if len(s.data) <= SMALL_BYTES]
    chosen = rnd.choice(small if rnd.random() < 0.8 else seeds)
    data = bytearray(chosen.data)
    if rnd.random() < REMADE:
        _remake(rnd, data, chosen, seeds)
        return bytes(data)
    for _ in range(rnd.choice((1, 1, 1, 1, 2, 3, 8))):
        if len(data) >= 8:
            rnd.choice(DAMAGES)(rnd, data, chosen, seeds)
    return bytes(data)


def _flip(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """Single bits, anywhere."""
    for _ in range(rnd.choice((1, 1, 2, 16))):
        data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)


def _word(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """An aligned word, anywhere."""
    at = rnd.randrange(len(data) // 4) * 4
    data[at : at + 4] = struct.pack("<I", _number(rnd, data, at))


def _number(rnd: random.Random, data: bytearray, at: int) -> int:
    """A 32-bit word that is extreme, near the old one, near the file's size, or any."""
    old = int.from_bytes(data[at : at + 4], "little")
    near = rnd.randrange(-8, 9)
    choices = (
        rnd.choice(EXTREMES),
        old + near,
        old * rnd.choice((2, 3, 4, 256)),
        len(data) - at + near,
        rnd.randrange(len(data)),
        rnd.randrange(2**32),
    )
    return rnd.choice(choices) % 2**32


def _field(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """An offset, a length, or one element of a vector."""
    at, size = rnd.choice(chosen.spots)
    if size > 4:
        at += rnd.randrange(size // 4) * 4
    size = min(size, 4)
    if at + 4 <= len(data):
        data[at : at + size] = struct.pack("<I", _number(rnd, data, at))[:size]


def _float(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """One word that is read, as a float: scales, beta, alpha."""
    at, size = rnd.choice([spot for spot in chosen.spots if spot[1] >= 4])
    at += rnd.randrange(size // 4) * 4
    if at + 4 <= len(data):
        old = struct.unpack_from("<f", data, at)[0]
        scaled = max(min(old * 2.0 ** rnd.uniform(-40, 40), 3e38), -3e38)
        struct.pack_into("<f", data, at, rnd.choice((rnd.choice(FLOATS), scaled)))


def _copy_field(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """One thing that is read over another of its size."""
    to, size = rnd.choice(chosen.spots)
    start, _ = rnd.choice([spot for spot in chosen.spots if spot[1] == size])
    if max(to, start) + size <= len(data):
        data[to : to + size] = data[start : start + size]


def _truncate(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """The end is missing."""
    del data[rnd.randrange(4, len(data)) :]


def _splice(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """A piece of another file over, or before, a place of this one."""
    other = rnd.choice(seeds).data
    size = min(rnd.choice((4, 16, 64, 256, 1024)), len(other))
    start = rnd.randrange(len(other) - size + 1) // 4 * 4
    at = rnd.randrange(len(data)) // 4 * 4
    data[at : at + rnd.choice((0, size))] = other[start : start + size]


def _move(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """Some bytes are missing, or there twice."""
    at, size = rnd.randrange(len(data)), rnd.choice((1, 2, 4, 16))
    data[at : at + size] = data[at : at + size] * rnd.choice((0, 2))


def _remake(rnd: random.Random, data: bytearray, chosen: Seed, seeds: Sequence[Seed]) -> None:
    """A sound file that says something else: fields changed by the schema's own object API."""
    model = fb.ModelT.InitFromPackedBuf(chosen.data, 0)
    graph = model.subgraphs[0]
    for _ in range(rnd.choice((1, 1, 2, 3))):
        holders = [graph, *graph.tensors, *graph.operators, *model.operatorCodes]
        holders += [t.quantization for t in graph.tensors if t.quantization is not None]
        options = [o.builtinOptions for o in graph.operators if o.builtinOptions is not None]
        holder = rnd.choice(rnd.choice((holders, options or holders)))
        fields = [k for k, v in vars(holder).items() if isinstance(v, int | float | np.ndarray)]
        if fields:
            name = rnd.choice(fields)
            setattr(holder, name, _other_value(rnd, getattr(holder, name)))
    try:
        data[:] = packed(model)
    except (TypeError, struct.error, OverflowError):
        return  # the value does not fit its field


def _other_value(rnd: random.Random, old: object) -> object:
    """Another number, or another vector of numbers."""
    if isinstance(old, np.ndarray):
        values = old.tolist()
        if values and rnd.random() < 0.7:
            at = rnd.randrange(len(values))
            values[at] = _other_value(rnd, values[at])
            return values
        return rnd.choice((values[:-1], values * 2, [*values, 1], values[::-1], []))
    if isinstance(old, bool):
        return not old
    if isinstance(old, float):
        scaled = max(min(old * 2.0 ** rnd.uniform(-40, 40), 3e38), -3e38)
        return float(np.float32(rnd.choice((*FLOATS, scaled))))
    assert isinstance(old, int)
    nearby = (old - 1, old + 1, old * 2, -old)
    return rnd.choice((*nearby, *nearby, rnd.randrange(-2, 20), rnd.choice(EXTREMES) - 2**31))


DAMAGES: Final[tuple[Callable[[random.Random, bytearray, Seed, Sequence[Seed]], None], ...]] = (
    _flip,
    _word,
    _field,
    _field,
    _field,
    _float,
    _copy_field,
    _truncate,
    _splice,
    _move,
)
