"""All benchmarks, one after the other, in one table: ``python -m tests.bench [NAME ...] [--out DIR]``.

The search takes whole campaigns of minutes each, and is run only if it is named, or with ``--all``.
Writes DIR/bench.json.  Ends with status 1 if a benchmark could not be run; a target that was missed stands
in the table and in the file (figures move with the machine).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as in the actors

from tests.bench import bench_duty, bench_images, bench_instrument, bench_search, bench_stop, parts
from tests.bench.figures import Figure, Findings, as_json, show

BENCHES: dict[str, Callable[[argparse.Namespace], Findings]] = {
    "messages": lambda options: parts.messages(),
    "slow-reader": lambda options: parts.slow_reader(),
    "journal": lambda options: parts.journal(),
    "deciding": lambda options: parts.deciding(),
    "drift": lambda options: parts.drift(),
    "instrument": lambda options: bench_instrument.findings(),
    "stop": lambda options: bench_stop.findings(options.trials),
    "duty": lambda options: bench_duty.findings(),
    "images": lambda options: bench_images.findings(),
    "search": lambda options: bench_search.findings(range(1, options.seeds + 1)),
}
LONG = frozenset({"search"})


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)} (default: all but the long)"
    )
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument("--seeds", type=int, default=5, help="of the search (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write bench.json into this directory")
    parser.add_argument(
        "--trials", type=int, default=bench_stop.TRIALS, help="of the stop (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(BENCHES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what was started
    console = Console(width=150)
    figures: list[Figure] = []
    raw: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in options.names or [name for name in BENCHES if options.all or name not in LONG]:
        console.print(f"{name} ...", style="dim")
        began = time.monotonic()
        try:
            found = BENCHES[name](options)
        except Exception as problem:  # noqa: BLE001 - the others shall still be measured
            failed[name] = f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
            continue
        figures += found.figures
        raw[name] = {**found.raw, "wall_s": time.monotonic() - began}
    show(figures, console)
    for name, why in failed.items():
        console.print(f"{name} could not be measured: {why}", style="bold red", markup=False)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "bench.json"
        path.write_text(json.dumps(_document(figures, raw, failed), indent=1), encoding="utf-8")
        console.print(f"written: {path}", markup=False)
    return 1 if failed else 0


def _document(figures: list[Figure], raw: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
    return {
        "schema": "tunnelpilot/bench/1",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "figures": as_json(figures),
        "failed": failed,
        "raw": raw,
    }


if __name__ == "__main__":
    sys.exit(main())
