"""Names that break terminals, CI logs, C, HTML, CSV or shells (users.md, 5.7)."""

from __future__ import annotations

HOSTILE_NAMES = (
    "a\n::error::x",
    "  ::error file=a::b",
    "x ##[error]y",
    "%0A::error::",
    "<script>alert(1)</script>",
    '"><img src=x onerror=1>',
    "a\"b'c",
    "`",
    "a|b",
    "$x_{1}",
    "_hidden",
    "=1+1",
    "@user",
    "#12",
    "[bold]x[/bold]",
    "{{7*7}}",
    "{0}",
    "%s%n",
    "*/",
    "*/*",
    "/*/",
    "??=",
    "x??/",
    "trailing\\",
    "\x1b[31m",
    "\u202egnp.exe",
    "caf\u00e9",
    "cafe\u0301",
    "\U0001f33c",
    "CON",
    "-rf",
    "..",
    "L" * 300,
    "\r\nx\ty\x7f\x85",
    "1\\x41",
    "\udcff\udc80raw bytes",  # a file name that is not UTF-8
    "\ufffe\uffff",  # XML has no form for them
    "![x](https://y.example)",
    "www.y.example a@b.example",
    "<!-- -->]]>&amp;&#64;",
)
BLANK_NAMES = ("", " ", "\t\u00a0", "\u200b\ufeff")  # no label: refused
# Those that a network of several classes can have: text, of which no two are the same to a reader
LABELS = tuple(n for n in HOSTILE_NAMES if n not in ("\udcff\udc80raw bytes", "cafe\u0301"))
