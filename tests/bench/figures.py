"""Figures of the benchmarks: what was measured, what others reach, what was asked for; one table of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``met`` is None where nothing was asked for."""

    bench: str
    name: str
    value: float
    unit: str
    beside: str = ""
    """The peer's or the naive way's figure, in words."""
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """For the table."""
        return {True: "met", False: "MISSED", None: ""}[self.met]


@dataclass(frozen=True)
class Findings:
    """What one benchmark gives: lines for the table, and everything for the JSON file."""

    figures: Sequence[Figure]
    raw: dict[str, Any]


def percentiles(values: Iterable[float], unit: float = 1.0) -> dict[str, float]:
    """p50, p99, worst and count; values divided by ``unit``."""
    taken = np.asarray(list(values), dtype=float) / unit
    if taken.size == 0:
        return {"p50": float("nan"), "p99": float("nan"), "worst": float("nan"), "count": 0.0}
    return {
        "p50": float(np.percentile(taken, 50)),
        "p99": float(np.percentile(taken, 99)),
        "worst": float(taken.max()),
        "count": float(taken.size),
    }


def show(figures: Sequence[Figure], console: Console | None = None) -> None:
    """Print the table."""
    table = Table(title="Tunnelpilot benchmarks", title_justify="left")
    for head in ("benchmark", "figure"):
        table.add_column(head, overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    for head in ("beside it", "asked for"):
        table.add_column(head, overflow="fold")
    table.add_column("", no_wrap=True)
    last = ""
    for figure in figures:
        name = figure.bench if figure.bench != last else ""
        if name and last:
            table.add_section()
        last = figure.bench
        measured = f"{figure.value:.4g} {figure.unit}".rstrip()
        style = "bold red" if figure.met is False else ""
        table.add_row(name, figure.name, measured, figure.beside, figure.target, figure.verdict, style=style)
    (console or Console(width=150)).print(table)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Plain data."""
    return [asdict(figure) for figure in figures]
