"""What goes to the terminal: one JSON document, or tables and sentences for people; errors to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from protocols.errors import TunnelpilotError


def stdout() -> Console:
    """For people.  Colours on a terminal without NO_COLOR only; wide when piped, so that nothing is cut."""
    interactive = sys.stdout.isatty()
    return Console(
        file=sys.stdout, highlight=False, soft_wrap=not interactive, width=None if interactive else 160
    )


def stderr() -> Console:
    """For errors and notes."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for people on stdout."""
    stdout().print(text, markup=False)


def note(text: str) -> None:
    """One line for people on stderr, beside a result on stdout."""
    stderr().print(text, markup=False)


def complain(error: TunnelpilotError) -> None:
    """What went wrong and what to do."""
    console = stderr()
    console.print("stmctl:", style="bold red", end=" ")
    separate = not error.advice or "\n" in error.text
    console.print(error.text, markup=False, end="\n" if separate else " ")
    if error.advice:
        console.print(error.advice, markup=False)


def emit(schema: str, body: dict[str, Any]) -> None:
    """Exactly one JSON document on stdout; numbers that are none become null."""
    document = {"schema": f"tunnelpilot/{schema}/1", **body}
    sys.stdout.write(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> Table:
    """A table; columns named in ``right`` are set flush right."""
    made = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_escaped(cell) for cell in row))
    return made


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values without a frame."""
    made = Table.grid(padding=(0, 2))
    made.title = title or None
    made.title_justify = "left"
    made.title_style = "bold"
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, _escaped(value))
    return made


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)
