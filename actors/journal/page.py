"""Pieces of a self-contained HTML page: every text is escaped, every picture is inside the page."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files


def text(value: object) -> str:
    """Escaped text."""
    return html.escape(str(value))


def picture(png: bytes, caption: str, wide: bool = False) -> str:
    """A figure with its caption, which is also the alternative text."""
    data = base64.b64encode(png).decode("ascii")
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind}><img alt="{text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def gallery(figures: Iterable[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """A table; cells that look like numbers are aligned right."""
    top = "".join(f"<th>{text(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in rows)
    head_row = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table class="{kind}">{head_row}<tbody>{body}</tbody></table></div>'


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: (value, what it is, a note)."""
    inner = "".join(
        f'<div class="tile"><div class="value">{text(v)}</div><div class="what">{text(w)}</div>'
        f'<div class="note">{text(n)}</div></div>'
        for v, w, n in entries
    )
    return f'<div class="tiles">{inner}</div>'


def section(title: str, *parts: str, anchor: str = "") -> str:
    """A section with its heading."""
    mark = f' id="{text(anchor)}"' if anchor else ""
    return f"<section{mark}><h2>{text(title)}</h2>{''.join(parts)}</section>"


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of escaped words."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def details(title: str, content: str) -> str:
    """Something to open on demand."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def preformatted(words: str) -> str:
    """Words as they stand."""
    return f"<pre>{text(words)}</pre>"


def page(title: str, body: str) -> str:
    """The whole document."""
    style = files("actors.journal").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>\n{style}</style></head>\n'
        f"<body><main>{body}</main></body></html>\n"
    )


def _cell(value: object) -> str:
    shown = text(value)
    number = isinstance(value, int | float)
    return f'<td class="number">{shown}</td>' if number else f"<td>{shown}</td>"
