"""The table at the end: what was found, in words of the laboratory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from protocols.files.quantities import format_quantity

TITLE, FIGURE, HEADER = "hil title", "hil figure", "hil electronics"
"""Names of the properties that a test's report carries."""

WIDTH = 108


@dataclass(frozen=True)
class Row:
    """One test.  ``figures``: (quantity, value) in the order of measurement."""

    electronics: str
    outcome: str
    title: str
    figures: tuple[tuple[str, str], ...]
    reason: str = ""


@dataclass
class Table:
    """All rows, by electronics."""

    rows: list[Row] = field(default_factory=list)

    def lines(self, electronics: str) -> Iterable[str]:
        """The table of one microscope."""
        quantity_width = max((len(q) for row in self.rows for q, _ in row.figures), default=0)
        for row in together([row for row in self.rows if row.electronics == electronics]):
            yield f"{row.outcome:<10}{row.title}"
            if row.reason:
                yield from _wrapped(row.reason, " " * 10)
            for quantity, value in row.figures:
                yield from _wrapped(f"{quantity:<{quantity_width}}  {value}", " " * 12)

    def counts(self, electronics: str) -> str:
        """How many passed, and so on."""
        found: dict[str, int] = {}
        for row in self.rows:
            if row.electronics == electronics:
                found[row.outcome] = found.get(row.outcome, 0) + 1
        return ", ".join(f"{count} {outcome}" for outcome, count in found.items())


def text_of(value: float, unit: str) -> str:
    """A quantity for the table."""
    return format_quantity(value, unit, 3)


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and worst of some times."""
    ordered = sorted(1e3 * value for value in seconds)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
    return f"median {median:.1f} ms, worst {ordered[-1]:.1f} ms of {len(ordered)}"


def title_of(docstring: str | None, name: str) -> str:
    """The first sentence of a test's docstring."""
    text = re.sub(r"\s+", " ", docstring or "").strip()
    first = re.split(r"(?<=[.!])\s", text, maxsplit=1)[0] if text else name
    return first.rstrip(".")


def together(rows: Sequence[Row]) -> Iterable[Row]:
    """The rows, those of tests that were skipped one after the other for the same reason as one."""
    for (outcome, reason), group in groupby(rows, key=lambda row: (row.outcome, row.reason)):
        found = list(group)
        if outcome != "skipped" or len(found) == 1:
            yield from found
            continue
        titles = "; ".join(row.title for row in found)
        yield Row(found[0].electronics, outcome, f"{len(found)} tests", (), f"{reason}: {titles}")


def row_of(properties: Sequence[tuple[str, object]], outcome: str, reason: str) -> Row | None:
    """A row from the properties of a report; None for a test that is none of ours."""
    titles = [str(value) for name, value in properties if name == TITLE]
    headers = [str(value) for name, value in properties if name == HEADER]
    if not titles or not headers:
        return None
    figures = tuple(tuple(str(v).split("\t", 1)) for name, v in properties if name == FIGURE)
    return Row(headers[0], outcome, titles[0], figures, reason)  # type: ignore[arg-type]


def _wrapped(text: str, indent: str) -> Iterable[str]:
    line = indent
    for word in text.split(" "):
        if len(line) + len(word) + 1 > WIDTH and line.strip():
            yield line.rstrip()
            line = indent + "    "
        line += word + " "
    yield line.rstrip()
