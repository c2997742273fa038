"""What a reader of a Markdown page sees: a real renderer's view (markdown-it, of rich)."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt

# What our pages are made of; all else (links, images, HTML, code, emphasis, lists) is an intrusion
_BLOCKS = {"heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td"}


@dataclass(frozen=True)
class Page:
    """Texts of paragraphs and headings, and the rows of each table, white space as in HTML."""

    paragraphs: list[str]
    tables: list[list[list[str]]]

    @property
    def cells(self) -> list[str]:
        return [cell for table in self.tables for row in table for cell in row]


def read_page(text: str) -> Page:
    """The page; AssertionError where it has anything but plain text in paragraphs and tables."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = Page([], [])
    inside = ""
    for token in reader.parse(text):
        kind = token.type.removesuffix("_open").removesuffix("_close")
        if token.type != "inline":
            assert kind in _BLOCKS, (token.type, token.content)
            if token.type == "table_open":
                page.tables.append([])
            elif token.type == "tr_open":
                page.tables[-1].append([])
            inside = kind
            continue
        parts = token.children or []
        assert {part.type for part in parts} <= {"text", "text_special"}, (token.content, parts)
        shown = " ".join("".join(part.content for part in parts).split())
        if inside in ("th", "td"):
            page.tables[-1][-1].append(shown)
        else:
            page.paragraphs.append(shown)
    return page
