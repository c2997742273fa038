"""A verdict for GitHub: annotations, and the page of the step (users.md, 5.6).

A line `::error title=T,file=F,line=N::MESSAGE` on stdout or stderr makes an annotation. How it is
read: actions/runner, src/Runner.Common/ActionCommand.cs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ndtool.console import MAX_SENTENCE, visible, visible_line
from ndtool.errors import NdError
from ndtool.gates.markdown import markdown_text
from ndtool.gates.verdict import Judgement, Verdict

MAX_ANNOTATIONS: Final = 10  # of a kind that GitHub shows in a step
MAX_SUMMARY_BYTES: Final = 900 * 1024  # GitHub takes 1 MiB a step, and drops what is larger

# What the runner turns back; `%` itself too, or `%0A` in a name would become a line end.
_DATA: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def annotation_lines(
    verdict: Verdict, *, baseline_file: str | None, lines: Callable[[str], int | None]
) -> list[str]:
    """A line for the runner for each failed gate, as in the table, and for each notice.

    At most MAX_ANNOTATIONS of a kind, of the gates the worst; the last one says how many more there
    are.

    Args:
        baseline_file: of `inside_checkout`: where the failed bounds are shown; None for nowhere.
        lines: the line of a bound in that file, by `Judgement.key`.
    """
    errors = []
    for judgement in _worst(verdict):
        place: dict[str, str] = {}
        if baseline_file is not None and judgement.key:
            line = lines(judgement.key)
            place = {"file": baseline_file} | ({} if line is None else {"line": str(line)})
        title = {"title": f"ndtool check: {visible(judgement.name)}"}
        errors.append((title | place, judgement.text))
    notices = [({"title": "ndtool check"}, notice) for notice in verdict.notices]
    return [*_commands("error", errors), *_commands("notice", notices)]


def refusal_line(refusal: NdError) -> str:
    """The line for a check that came to no verdict."""
    (line,) = _commands("error", [({"title": "ndtool check"}, str(refusal))])
    return line


def step_summary(verdict: Verdict) -> str:
    """Markdown to append to the file that GITHUB_STEP_SUMMARY names."""
    return markdown_text(verdict, limit_bytes=MAX_SUMMARY_BYTES)


def inside_checkout(path: Path, checkout: Path) -> str | None:
    """`path` relative to the folder `checkout`, with `/`.

    None when it is not inside, or has characters that no line should have.
    """
    place, root = path.resolve(), checkout.resolve()
    if not place.is_relative_to(root):
        return None
    name = place.relative_to(root).as_posix()
    return name if name == visible_line(name) else None


def _worst(verdict: Verdict) -> list[Judgement]:
    """The failed gates in the order of judging, but first those that GitHub shows.

    Those are of the most fundamental gates, and the lowest recalls.
    """
    failed = verdict.failed
    order = list(dict.fromkeys(j.gate for j in failed))

    def badness(place: int) -> tuple[int, float]:
        found = verdict.recall.get(failed[place].subject)
        return order.index(failed[place].gate), 0.0 if found is None else found.fraction

    places = sorted(range(len(failed)), key=badness)
    shown, hidden = places[:MAX_ANNOTATIONS], places[MAX_ANNOTATIONS:]
    return [failed[place] for place in (*sorted(shown), *hidden)]


def _commands(kind: str, found: Sequence[tuple[Mapping[str, str], str]]) -> list[str]:
    """One line each; properties and message, foreign text in both."""
    made: list[str] = []
    for properties, message in found[:MAX_ANNOTATIONS]:
        left_out = len(found) - MAX_ANNOTATIONS
        last = len(made) == MAX_ANNOTATIONS - 1 and left_out > 0
        text = visible(message, MAX_SENTENCE) + (f"\nand {left_out:,} more" if last else "")
        about = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
        made.append(f"::{kind} {about}::{_data(text)}")
    return made


def _data(text: str) -> str:
    return _broken(text.translate(_DATA))


def _property(text: str) -> str:
    return _broken(text.translate(_PROPERTY))


def _broken(text: str) -> str:
    """Without the old form of a command, which is found anywhere in a line."""
    return text.replace("##[", "##\\[")
