"""Garbage on every port for a while: ``python -m tests.soak [--seconds 600] [--seed 1] [--without-daemon]``.

Guard, worker (commands and data), journal writer, stmsim and the daemon's console get random bytes, truncated
messages, huge claims, wrong versions, unknown kinds, connections that say nothing or write byte by byte, and
Ray's ports what makes sense there.  The campaign meanwhile is driven over stmsim's Nanonis door, and a
crowd waits before its four ports; the Nanonis ports of a second stmsim serve whoever comes: requests cut
anywhere, lies about sizes and counts, floods, answers that nobody reads, half-closed and reset connections.
All at the same time.  Ends with status 1 if anything died, was started again, grew, fell silent or was lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.soak.good_client import quantile
from tests.soak.session import Outcome, under_garbage
from tests.soak.weights import FILES, FLAT_MIB, GROWTH_MIB
from tests.soak.with_daemon import daemon_under_garbage


def main(arguments: list[str] | None = None) -> int:
    """Run one session and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of garbage (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the garbage (default %(default)s)")
    parser.add_argument("--without-daemon", action="store_true", help="the processes below the daemon only")
    parser.add_argument(
        "--state",
        type=Path,
        help="empty directory to work in, which stays, with all samples (default: none does)",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what was started
    console = Console(width=130)
    session = under_garbage if options.without_daemon else daemon_under_garbage
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        outcome = session(options.state or Path(folder), options.seconds, options.seed)
    show(outcome, options.seconds, console)
    if options.state:
        (options.state / "soak.json").write_bytes(msgspec.json.encode(_samples(outcome)))
    console.print(f"{time.monotonic() - began:.0f} s in all")
    for fault, times in Counter(outcome.faults).items():
        console.print(fault if times == 1 else f"{fault} ({times} times)", style="bold red", markup=False)
    return 1 if outcome.faults else 0


def show(outcome: Outcome, seconds: float, console: Console) -> None:
    """Processes, garbage, waiting times and books as tables."""
    console.print(_processes(outcome, seconds))
    console.print(
        f"allowed: {GROWTH_MIB:g} MiB above the beginning at any moment; {FLAT_MIB:g} MiB and {FILES} "
        "open files (of a process of Ray a quarter of what it has) by a straight line through the samples "
        "after the first third"
    )
    sent = Table(title="sent, all ports", title_justify="left")
    sent.add_column("kind")
    sent.add_column("messages or connections", justify="right")
    for name, count in sorted(outcome.sent.items()):
        sent.add_row(name, str(count))
    console.print(sent)
    console.print(_waits(outcome))
    console.print(
        f"waits for a processor: {1e3 * outcome.starved_s:.0f} ms at most; load {os.getloadavg()[0]:.1f}"
    )
    books = outcome.comparison
    console.print(
        f"{outcome.spectra} spectra; {books.measured} measured, {books.journaled} journaled, "
        f"{books.interrupted} ended without result, {books.lost} lost, {books.doubled} doubled, "
        f"{len(books.problems)} disagreements between truth log, journal and spool"
    )


def _samples(outcome: Outcome) -> dict[str, Any]:
    """All samples, by process: times (s), memory (MiB), open files; and all waiting times (s)."""
    weights = {s.name: s.weights for s in outcome.subjects}
    return {
        "processes": {name: (w.times_s, w.mib, w.files) for name, w in weights.items()},
        "round_trips_s": outcome.round_trips_s,
        "served_s": outcome.served_s,
    }


def _processes(outcome: Outcome, seconds: float) -> Table:
    table = Table(title=f"{seconds:g} s of garbage on {outcome.ports} ports", title_justify="left")
    columns = ("process", "pid before", "after", "MiB before", "most", "after", "fitted gain", "open files")
    for head in (*columns, "asked", "answered", "slowest, ms"):
        table.add_column(head, justify="left" if head == "process" else "right")
    for s in outcome.subjects:
        weights = s.weights
        sizes = (s.before_mib, weights.peak_mib, s.after_mib)
        files = f"{s.files_before} -> {s.files_after}"
        times = (str(s.asked), str(s.answered), f"{1e3 * s.slowest_s:.0f}") if s.asked else ("", "", "")
        weighed = (*(f"{mib:.1f}" for mib in sizes), f"{weights.fitted_mib:+.1f}", files)
        table.add_row(s.name, str(s.pid), str(s.pid_after), *weighed, *times)
    return table


def _waits(outcome: Outcome) -> Table:
    table = Table(title="Nanonis ports: who behaves waits (ms)", title_justify="left")
    for head in ("client", "answers", "p50", "p99", "slowest"):
        table.add_column(head, justify="left" if head == "client" else "right")
    for name, waits_s in (
        ("on a port of its own, Bias.Get", outcome.round_trips_s),
        ("new on an attacked port, right after an attack", outcome.served_s),
    ):
        shares = (f"{1e3 * quantile(waits_s, share):.2f}" for share in (0.5, 0.99, 1.0))
        table.add_row(name, str(len(waits_s)), *shares)
    return table


if __name__ == "__main__":
    sys.exit(main())
