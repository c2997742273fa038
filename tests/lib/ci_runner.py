"""What a GitHub runner makes of a step's stdout or stderr, written after its own sources.

actions/runner, src/Runner.Common/ActionCommand.cs: TryParseV2 (white space, then `::name`) and
TryParse (`##[name]` anywhere in a line). Every name counts here, not only the known ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# .NET's ReadLine; its Trim: Unicode's white space
_LINE_END = re.compile(r"\r\n|\r|\n")
_NEW = re.compile(r"^\s*::(?P<name>[^ :]*)(?P<properties>(?: .*?)?)::(?P<data>.*)$", re.DOTALL)
_OLD = re.compile(r"##\[(?P<name>[^\] ]*)[^\]]*\](?P<data>.*)$", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line that the runner obeys, unescaped."""

    name: str
    data: str
    properties: dict[str, str] = field(default_factory=dict)


def commands(text: str) -> list[Command]:
    """All commands in what a step printed, in order."""
    found = (_command(line) for line in _LINE_END.split(text))
    return [command for command in found if command is not None]


def _command(line: str) -> Command | None:
    if match := _NEW.match(line):
        pairs = [pair.split("=", 1) for pair in match["properties"].strip().split(",")]
        values = {
            pair[0]: _unescape(pair[1], "%0D %0A %3A %2C %25") for pair in pairs if len(pair) == 2
        }
        return Command(match["name"], _unescape(match["data"], "%0D %0A %25"), values)
    if match := _OLD.search(line):
        return Command(match["name"], match["data"])
    return None


def _unescape(text: str, codes: str) -> str:
    for code in codes.split():  # in the runner's order, % last
        text = text.replace(code, chr(int(code[1:], 16)))
    return text
