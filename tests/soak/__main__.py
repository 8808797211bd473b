"""Garbage on every port for a while: ``python -m tests.soak [--seconds 60] [--seed 1] [--without-daemon]``.

Guard, worker (commands and data), journal writer, stmsim and the daemon's console get random bytes, truncated
messages, huge claims, wrong versions, unknown kinds, connections that say nothing or write byte by byte, and
Ray's ports what makes sense there: all at the same time, while a campaign runs.  Ends with status 1 if
anything died, was started again, grew, fell silent or was lost.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.session import Outcome, under_garbage
from tests.soak.subjects import GROWTH_MIB
from tests.soak.with_daemon import daemon_under_garbage


def main(arguments: list[str] | None = None) -> int:
    """Run one session and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of garbage (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the garbage (default %(default)s)")
    parser.add_argument("--without-daemon", action="store_true", help="the processes below the daemon only")
    parser.add_argument(
        "--state", type=Path, help="empty directory to work in, which stays (default: none does)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what was started
    console = Console(width=130)
    session = under_garbage if options.without_daemon else daemon_under_garbage
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        outcome = session(options.state or Path(folder), options.seconds, options.seed)
    show(outcome, options.seconds, console)
    console.print(f"{time.monotonic() - began:.0f} s in all")
    for fault in outcome.faults:
        console.print(fault, style="bold red", markup=False)
    return 1 if outcome.faults else 0


def show(outcome: Outcome, seconds: float, console: Console) -> None:
    """Processes, garbage and books as tables."""
    processes = Table(title=f"{seconds:g} s of garbage on {outcome.ports} ports", title_justify="left")
    columns = ("process", "pid before", "pid after", "MiB before", "MiB after", f"gained (< {GROWTH_MIB:g})")
    for head in (*columns, "asked", "answered", "slowest, ms"):
        processes.add_column(head, justify="left" if head == "process" else "right")
    for s in outcome.subjects:
        sizes = (f"{s.before_mib:.1f}", f"{s.after_mib:.1f}", f"{s.gained_mib:+.1f}")
        times = (str(s.asked), str(s.answered), f"{1e3 * s.slowest_s:.0f}") if s.asked else ("", "", "")
        processes.add_row(s.name, str(s.pid), str(s.pid_after), *sizes, *times)
    console.print(processes)
    sent = Table(title="sent, all ports", title_justify="left")
    sent.add_column("kind")
    sent.add_column("messages or connections", justify="right")
    for name, count in sorted(outcome.sent.items()):
        sent.add_row(name, str(count))
    console.print(sent)
    books = outcome.comparison
    console.print(
        f"{outcome.spectra} spectra; {books.measured} measured, {books.journaled} journaled, "
        f"{books.interrupted} ended without result, {books.lost} lost, {books.doubled} doubled, "
        f"{len(books.problems)} disagreements between truth log, journal and spool"
    )


if __name__ == "__main__":
    sys.exit(main())
