"""A verdict as Markdown, for a file, a pull request or a job's summary page (users.md, 5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ndtool.console import MAX_SENTENCE, MAX_VISIBLE, error_line, visible
from ndtool.errors import NdError, listed
from ndtool.gates.verdict import HOP_HEAD, WORDS, Verdict

# One pass over the characters, so that no escape escapes another one
_ESCAPES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "@": "&#64;"}
    | {sign: f"\\{sign}" for sign in "\\`*_{}[]()#+-.!|~"}
)
_NOTE_BYTES: Final = 100  # of the note below a table that was cut
_WORST_CLASSES: Final = 10


def escape(text: str, limit: int = MAX_VISIBLE) -> str:
    """Foreign text that Markdown shows as `visible` does: no markup, link, mention or HTML.

    For running text and table cells; never for a code span or the target of a link.
    """
    return visible(text, limit).translate(_ESCAPES).replace("://", "&#58;//")


@dataclass(frozen=True, slots=True)
class _Part:
    """What stays, and rows that may be cut from the end."""

    head: str
    rows: tuple[str, ...]


def markdown_text(verdict: Verdict, *, limit_bytes: int | None = None) -> str:
    """The verdict as a page: hops, gates with the failed ones first, the worst classes, notices.

    Args:
        limit_bytes: of the UTF-8 text, above some ten thousand; rows beyond are left out, and how
            many is said.
    """
    word = "PASS" if verdict.passed else "FAIL"
    gates = sorted(verdict.judgements, key=lambda j: j.passed is not False)  # stable
    worst = sorted(verdict.recall.items(), key=lambda item: item[1].exact)[:_WORST_CLASSES]
    summary = _Part(
        f"## ndtool check: {word}\n\n"
        f"Run {_sentence(verdict.run)}: {_sentence(verdict.against)}\n\n"
        f"{verdict.eval_count:,} test images, {verdict.seconds:.1f} s",
        (),
    )
    parts = [
        summary,
        _table(HOP_HEAD, [[escape(cell) for cell in row.cells] for row in verdict.rows]),
        _table(
            ("verdict", "gate", "present", "bound", "what was found"),
            [
                (WORDS[j.passed], escape(j.name), *map(_sentence, (j.present, j.bound, j.text)))
                for j in gates
            ],
        ),
        _table(("worst classes", "found"), [(escape(k), escape(n.text)) for k, n in worst]),
        _table(("notices",), [(_sentence(notice),) for notice in verdict.notices]),
    ]
    return _page([part for part in parts if part.head], limit_bytes)


def refusal_markdown(refusal: NdError, *, run: str) -> str:
    """The page of a check that came to no verdict: why. At most some hundred thousand bytes.

    Args:
        run: as the user named it.
    """
    lines = [_sentence(error_line(problem)) for problem in listed(refusal)]
    head = ("## ndtool check: ERROR", f"Run {_sentence(run)}: no verdict")
    return "\n\n".join([*head, *lines]) + "\n"


def _sentence(text: str) -> str:
    return escape(text, MAX_SENTENCE)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> _Part:
    """Of cells that are escaped; nothing at all without rows."""
    if not rows:
        return _Part("", ())
    lines = f"{_row(head)}\n{'| --- ' * len(head)}|"
    return _Part(lines, tuple(_row(row) for row in rows))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _page(parts: Sequence[_Part], limit_bytes: int | None) -> str:
    """The parts with blank lines between; what is above the limit is cut at the end."""
    fixed = sum(len(part.head.encode()) + _NOTE_BYTES for part in parts)
    room = float("inf") if limit_bytes is None else limit_bytes - fixed
    blocks = []
    for part in parts:
        kept = [part.head]
        for row in part.rows:
            room -= len(row.encode()) + 1
            if room < 0:  # and stays so: every later part is cut whole
                break
            kept.append(row)
        blocks.append("\n".join(kept))
        if left_out := 1 + len(part.rows) - len(kept):
            blocks.append(f"{left_out:,} more rows left out: the page would be too long")
    return "\n\n".join(blocks) + "\n"
