"""The block that `run`, `export` and `codegen` end with (users.md, 2.9)."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from ndtool import console
from ndtool.console import visible_line
from ndtool.types import Hop

if TYPE_CHECKING:
    from ndtool.export.summary import Summary

MAX_NAMED: Final = 3  # boards that it does not fit
UNKNOWN: Final = "-"


def print_summary(summary: "Summary") -> None:
    """Print the block; nothing in --json mode."""
    for title, text in summary_lines(summary):
        console.out(f"{title:<12}{visible_line(text)}")


def next_baseline(given: str = "") -> str:
    """The file that a run's next check is held against; empty: there is none yet."""
    from ndtool.export.summary import BASELINE

    return given or (BASELINE if Path(BASELINE).is_file() else "")


def end_if_too_large(summary: "Summary") -> None:
    """Exit 4, with the reason on stderr, when the C does not fit the target."""
    if summary.refusal is not None:
        console.error(console.error_line(summary.refusal))
        raise typer.Exit(summary.refusal.exit_code)


def summary_lines(summary: "Summary") -> list[tuple[str, str]]:
    """Title and text of each line; texts may hold foreign names as they are."""
    lines = {
        "accuracy": [] if summary.accuracies is None else _accuracy(summary),
        "C code": _c_code(summary),
        "work": _work(summary),
        "fits": _fits(summary),
    }
    shown = [(title, _text(parts, summary.hints.get(title))) for title, parts in lines.items()]
    shown += [("files", str(summary.files)), ("next", summary.next)]
    return [(title, text) for title, text in shown if text]


def _text(parts: list[tuple[str, bool]], command: str | None) -> str:
    """Parts (text, is it all); where it is not, with the command that tells it, or left out."""
    shown = [text for text, whole in parts if whole or command is not None]
    told = command is not None and not all(whole for _, whole in parts)
    return "   ".join([*shown, f"({command})"] if told else shown)


def _accuracy(summary: "Summary") -> list[tuple[str, bool]]:
    found = summary.accuracies or {}
    first = Hop.FLOAT if Hop.FLOAT in found or Hop.ONNX not in found else Hop.ONNX
    parts = [
        (f"{hop.value} {found[hop].text if hop in found else UNKNOWN}", hop in found)
        for hop in (first, Hop.INT8)
    ]
    if summary.template != "array":
        share = f"{100 * found[Hop.C].fraction:.2f} %" if Hop.C in found else UNKNOWN
        parts.append((f"C {share}", Hop.C in found))
    drop = summary.drop
    # Rounded before it is printed: a loss of nearly nothing is not -0.00.
    lost = UNKNOWN if drop is None else f"{round(float(drop), 2) + 0:.2f} points"
    return [*parts, (f"drop {lost}", drop is not None)]


def _c_code(summary: "Summary") -> list[tuple[str, bool]]:
    if summary.template == "array":
        return [
            _bytes("TFLM arena", summary.arena_bytes_tflm),
            _bytes("model", summary.tflite_bytes),
        ]
    count = summary.instructions
    exact = summary.bit_exact
    instructions = UNKNOWN if count is None else f"{count:,} ({summary.core})"
    return [
        (f"bit-exact {UNKNOWN if exact is None else exact}", exact is not None),
        _bytes("arena", summary.arena_bytes),
        _bytes("flash", summary.flash_bytes),
        _bytes("stack", summary.stack_bytes),
        (f"instructions {instructions}", count is not None),
    ]


def _bytes(word: str, size: int | None) -> tuple[str, bool]:
    return f"{word} {UNKNOWN if size is None else f'{size:,} B'}", size is not None


def _work(summary: "Summary") -> list[tuple[str, bool]]:
    macs, params, ops = summary.macs, summary.params, summary.ops
    return [
        (f"{UNKNOWN if macs is None else short_count(macs)} MAC", macs is not None),
        (f"{UNKNOWN if params is None else f'{params:,}'} parameters", params is not None),
        (f"ops {UNKNOWN if ops is None else ops}", ops is not None),
    ]


def short_count(count: int) -> str:
    """`845`, `24.3 k`, `1.1 M`, `2.0 G`."""
    for size, word in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return str(count)


def _fits(summary: "Summary") -> list[tuple[str, bool]]:
    if not summary.fits:
        return [(UNKNOWN, False)]
    if summary.target is not None:
        return [(summary.fits[0].text, True)]
    small = [fit.target.name for fit in summary.fits if not fit.fits]
    named = small[:MAX_NAMED] + ([f"{len(small) - MAX_NAMED} more"] if small[MAX_NAMED:] else [])
    others = f"; not {', '.join(named)}" if named else ""
    return [(f"{len(summary.fits) - len(small)} of {len(summary.fits)} targets{others}", False)]
