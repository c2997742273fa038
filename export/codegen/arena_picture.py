"""The arena over time as an SVG: calls from left to right, bytes upwards, a rectangle a block.

Written by hand, without matplotlib: rectangles need no library, and the same plan gives the same
bytes. Colours follow the reader's light or dark setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from ndtool.console import visible
from ndtool.export.codegen.arena import (
    Extent,
    MemoryRow,
    memory_rows,
    program_blocks,
    program_overlaps,
    tensor_block,
)
from ndtool.export.codegen.plan import ArenaPlan, Block, Overlap
from ndtool.export.codegen.program import Program

# pixels
LEFT: Final = 68  # of the plot: room for the bytes
RIGHT: Final = 24
TOP: Final = 80  # title, figures, key
PLOT_WIDTH: Final = 960  # as near as whole calls come to it
PLOT_HEIGHT: Final = 400
MIN_CALL: Final = 4  # width of a call
MAX_CALL: Final = 96
MIN_TITLED: Final = 13  # narrowest call that gets its title
TITLE_DEPTH: Final = 200  # under the plot, where the calls' titles have room
PLAIN_DEPTH: Final = 44  # under the plot, numbers only
GLYPH: Final = 6.2  # width of a character at 10.5 pixels, a little too wide
LINE: Final = 13

MAX_TITLE: Final = int((TITLE_DEPTH - 16) / GLYPH)  # characters
_STYLE: Final = """
text{font:10.5px system-ui,sans-serif;fill:#24292f}
.page{fill:#fff}.head{font-size:15px;font-weight:600}.soft{fill:#57606a}
.grid{stroke:#d0d7de;stroke-width:1}.full{fill:#eef1f4}
.top{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:6 4}.figure{fill:#cf222e;font-weight:600}
.block rect{stroke-width:1;fill-opacity:.82}.block:hover rect{fill-opacity:1;stroke-width:2.5}
.tensor rect{fill:#9ec5f4;stroke:#2f6fb7}.input rect{fill:#a5dba5;stroke:#2d7d33}
.output rect{fill:#d3b8f0;stroke:#7a4bb0}.scratch rect{fill:#f6c177;stroke:#ad6800}
.shared{fill:url(#hatch);pointer-events:none}.label{pointer-events:none;paint-order:stroke;
stroke:#fff;stroke-width:3px;stroke-opacity:.6;stroke-linejoin:round}.hatch{stroke:#24292f;stroke-width:1.2}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.page{fill:#0d1117}.soft{fill:#9198a1}.grid{stroke:#30363d}.full{fill:#1b222b}
.label{stroke:#0d1117}.top{stroke:#ff7b72}.figure{fill:#ff7b72}.hatch{stroke:#e6edf3}
.tensor rect{fill:#1f4b7d;stroke:#6cb0ff}.input rect{fill:#1f5a2a;stroke:#63c96f}
.output rect{fill:#4b3273;stroke:#b98cf2}.scratch rect{fill:#7a4d0b;stroke:#f0ad4e}
}
""".strip()
_KEY: Final = (("input", "input"), ("tensor", "activation"), ("output", "output"))
_NO_XML: Final = re.compile("[\ufffe\uffff]")  # the only ones `visible` leaves that XML forbids


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float

    def middle(self, width: float, height: float) -> _Box:
        """A box of that size around the same middle."""
        x, y = self.x + (self.width - width) / 2, self.y + (self.height - height) / 2
        return _Box(x=x, y=y, width=width, height=height)

    def crosses(self, other: _Box) -> bool:
        """Whether they have a part in common."""
        across = self.x < other.x + other.width and other.x < self.x + self.width
        return across and self.y < other.y + other.height and other.y < self.y + self.height

    def rect(self, attributes: str = "") -> str:
        """It as an element, a little narrower and lower than it is, so that neighbours show."""
        return (
            f'<rect x="{self.x + 0.5:.1f}" y="{self.y + 0.5:.1f}" '
            f'width="{max(self.width - 1, 1):.1f}" height="{max(self.height - 1, 1):.1f}" '
            f'rx="2"{attributes}/>'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """From calls and bytes to pixels; `top_byte` is at the plot's upper edge."""

    calls: int
    call_width: float
    top_byte: int

    def box(self, first: int, last: int, extent: Extent) -> _Box:
        """Bytes of the arena for the time of some calls; a block of few bytes is 2 pixels high."""
        height = max(PLOT_HEIGHT * extent.size / self.top_byte, 2.0)
        return _Box(
            x=self.x(first),
            y=self.y(extent.offset) - height,
            width=(last - first + 1) * self.call_width,
            height=height,
        )

    def x(self, call: int) -> float:
        """Left edge of a call."""
        return LEFT + call * self.call_width

    def y(self, byte: int) -> float:
        """Lower edge of a byte."""
        return TOP + PLOT_HEIGHT * (1 - byte / self.top_byte)

    @property
    def right(self) -> float:
        """Right edge of the plot; the head needs some room even over a single call."""
        return max(self.x(self.calls), LEFT + PLOT_WIDTH / 2)

    @property
    def is_titled(self) -> bool:
        """Whether the calls' titles have room."""
        return self.call_width >= MIN_TITLED


def arena_svg(program: Program, plan: ArenaPlan, title: str) -> bytes:
    """Picture of the plan; `title` and the tensors' names may be any text."""
    blocks = program_blocks(program)
    rows = memory_rows(program, plan)
    calls = max(len(rows), 1)
    scale = _Scale(
        calls=calls,
        call_width=min(max(PLOT_WIDTH / calls, MIN_CALL), MAX_CALL),
        top_byte=plan.total + plan.total // 20 + 1,
    )
    width = scale.right + RIGHT
    height = TOP + PLOT_HEIGHT + (TITLE_DEPTH if scale.is_titled else PLAIN_DEPTH)
    apart = sum(block.size for block in blocks.values())
    count = "1 call" if len(rows) == 1 else f"{len(rows)} calls"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6"/></pattern>',
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        f'<text class="head" x="{LEFT}" y="26">{_text(title)}</text>',
        f'<text class="soft" x="{LEFT}" y="45">{count}; all blocks side by side would take '
        f"{apart:,} bytes</text>",
        *_key(),
        *_axes(rows, scale),
        *_block_shapes(program, plan, blocks, scale),
        *_shared(program_overlaps(program, blocks), blocks, plan, scale),
        *_labels(program, plan, blocks, scale),
        *_total_line(plan, scale),
        "</svg>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _text(text: str) -> str:
    """Any text as XML character data."""
    return escape(_NO_XML.sub("?", visible(text)))


def _short(text: str, length: int) -> str:
    """At most `length` characters, the last one an ellipsis where some are left out."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def _key() -> Iterator[str]:
    """What the colours mean."""
    x = float(LEFT)
    more = (("scratch", "scratch"), ("shared", "shared in place"), ("full", "fullest call"))
    for kind, label in (*_KEY, *more):
        mark = _Box(x=x, y=57, width=13, height=13)
        if kind in ("shared", "full"):
            yield mark.rect(f' class="{kind}"')
        else:
            yield f'<g class="block {kind}">{mark.rect()}</g>'
        yield f'<text x="{x + 18:.1f}" y="67">{label}</text>'
        x += 36 + GLYPH * len(label)


def _axes(rows: Sequence[MemoryRow], scale: _Scale) -> Iterator[str]:
    """Bands behind the fullest calls, bytes at the left, calls at the bottom."""
    bottom = TOP + PLOT_HEIGHT
    for row in rows:
        if row.peak:
            yield (
                f'<rect class="full" x="{scale.x(row.call):.1f}" y="{TOP}" '
                f'width="{scale.call_width:.1f}" height="{PLOT_HEIGHT}"/>'
            )
    step = _tick_step(scale.top_byte)
    for byte in range(0, scale.top_byte, step):
        y = scale.y(byte)
        label = f"{byte // 1024} KiB" if step >= 1024 else f"{byte:,} B"
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{scale.right:.1f}"/>'
        place = f'x="{LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end"'
        yield f'<text class="soft" {place}>{label}</text>'
    every = max(1, -int(-6 * GLYPH // scale.call_width))
    for row in rows:
        x = scale.x(row.call) + scale.call_width / 2
        if scale.is_titled:
            place = f'transform="translate({x - 3.5:.1f} {bottom + 8}) rotate(90)"'
            yield f"<text {place}>{_text(_short(f'{row.call}  {row.title}', MAX_TITLE))}</text>"
        elif row.call % every == 0:
            place = f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle"'
            yield f'<text class="soft" {place}>{row.call}</text>'
    if not scale.is_titled:
        yield f'<text class="soft" x="{LEFT}" y="{bottom + 34}">call</text>'


def _tick_step(top_byte: int) -> int:
    """Bytes between two ticks: the power of two that gives 5 to 9 of them."""
    step = 1
    while top_byte > 8 * step:
        step *= 2
    return step


def _block_shapes(
    program: Program, plan: ArenaPlan, blocks: Mapping[str, Block], scale: _Scale
) -> Iterator[str]:
    """A rectangle for every block, the largest at the back, and as tooltip what it is."""
    ends = {tensor_block(program, tensor): "input" for tensor in program.graph.inputs}
    ends |= {tensor_block(program, tensor): "output" for tensor in program.graph.outputs}
    formed = (*program.graph.inputs, *(call.out for call in program.calls), *program.aliases)
    tensors: dict[str, list[str]] = {}
    for number in dict.fromkeys(formed):
        tensor = program.graph.tensor(number)
        text = f"{tensor.name}: {'x'.join(map(str, tensor.shape))}"
        tensors.setdefault(tensor_block(program, number), []).append(text)
    for name, block in sorted(blocks.items(), key=lambda item: (-item[1].size, item[0])):
        extent = Extent(offset=plan.offsets[name], size=block.size)
        last = min(block.last, scale.calls - 1)
        size = f"{block.size:,} bytes at {extent}"
        when = f"calls {block.first} to {last}" if block.first < last else f"call {block.first}"
        tip = (*tensors.get(name, ["scratch"]), size, when)
        kind = ends.get(name, "tensor" if name in tensors else "scratch")
        yield f'<g class="block {kind}"><title>{"&#10;".join(map(_text, tip))}</title>'
        yield f"{scale.box(block.first, last, extent).rect()}</g>"


def _labels(
    program: Program, plan: ArenaPlan, blocks: Mapping[str, Block], scale: _Scale
) -> Iterator[str]:
    """Shape and bytes of every tensor over the call that forms it, upright where that is narrow.

    In-place chains have a label a column: a label that would cross one before it, as that of a
    first call that writes over its input, moves to the next call of its block, or is left out.
    """
    taken: list[_Box] = []
    for number in dict.fromkeys((*program.graph.inputs, *(call.out for call in program.calls))):
        block = blocks[tensor_block(program, number)]
        extent = Extent(offset=plan.offsets[block.name], size=block.size)
        shape = "x".join(map(str, program.graph.tensor(number).shape)).removeprefix("1x")  # batch
        labels = (shape, f"{block.size:,}")
        long = max(map(len, labels)) * GLYPH + 6
        box = scale.box(block.first, block.first, extent)
        across, along, turn = box.height, box.width, ""
        if long > along:
            across, along, turn = along, across, " rotate(-90)"
        room = labels[: int((across - 2) / LINE)]
        deep = len(room) * LINE
        if long > along or not room:
            continue
        for call in range(block.first, min(block.first + 2, block.last + 1, scale.calls)):
            box = scale.box(call, call, extent)
            text = box.middle(deep, long) if turn else box.middle(long, deep)
            if not any(text.crosses(other) for other in taken):
                break
        else:
            continue
        taken.append(text)
        place = f"translate({box.x + box.width / 2:.1f} {box.y + box.height / 2:.1f}){turn}"
        for line, label in enumerate(room):
            y = LINE * (line - (len(room) - 1) / 2) + 3.5
            yield (
                f'<text class="label" transform="{place}" y="{y:.1f}" text-anchor="middle">'
                f"{label}</text>"
            )


def _shared(
    overlaps: Iterable[Overlap], blocks: Mapping[str, Block], plan: ArenaPlan, scale: _Scale
) -> Iterator[str]:
    """Hatching over the bytes that one call reads as its input and writes as its output."""
    for overlap in overlaps:
        before, after = blocks[overlap.before], blocks[overlap.after]
        low = max(plan.offsets[before.name], plan.offsets[after.name])
        high = min(plan.offsets[before.name] + before.size, plan.offsets[after.name] + after.size)
        if low < high:
            extent = Extent(offset=low, size=high - low)
            yield scale.box(after.first, after.first, extent).rect(' class="shared"')


def _total_line(plan: ArenaPlan, scale: _Scale) -> Iterator[str]:
    """The arena's end and its size."""
    y = scale.y(plan.total)
    yield f'<path class="top" d="M{LEFT} {y:.1f}H{scale.right:.1f}"/>'
    place = f'x="{scale.right:.1f}" y="{y - 5:.1f}" text-anchor="end"'
    yield f'<text class="figure" {place}>arena {plan.total:,} bytes</text>'
