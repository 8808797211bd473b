"""``python -m tests.conformance [PART ...]``: others' clients and readers against our server and files."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import (
    part_control,
    part_files,
    part_nanonistcp,
    part_official,
    part_scanbot,
    part_writers,
)
from tests.conformance.environments import SetUpError, python_of
from tests.conformance.results import Findings, failures, table
from tests.conformance.server import ServerError

TERMINATED = 143
"""Exit status after SIGTERM; clients and server are ended first."""

Run = Callable[[Findings, Path], None]


@dataclass(frozen=True)
class Part:
    """A part of the run."""

    environments: tuple[str, ...]
    run: Run
    what: str
    by_default: bool = True


PARTS: dict[str, Part] = {
    "writers": Part(
        ("readers",), part_writers.run, "files of our writers, read by nanonispy2 and xarray-nanonis"
    ),
    "files": Part(
        ("readers", "clients"), part_files.run, "files that the server writes, read by the same two"
    ),
    "nanonistcp": Part(
        ("clients",), part_nanonistcp.run, "the test suite shipped in nanonisTCP 1.1.5, 18 modules"
    ),
    "official": Part(("clients",), part_official.run, "methods and examples of nanonis-spm 1.0.9"),
    "control": Part(("clients",), part_control.run, "the tip driven with nanonis-control 1.0.1"),
    "scanbot": Part(("scanbot",), part_scanbot.run, "a survey and a bias series of Scanbot 4.5.1"),
    "scifireaders": Part(
        ("scifireaders",),
        part_writers.run_scifireaders,
        "files of our writers, read by SciFiReaders (960 MB; only when asked for)",
        by_default=False,
    ),
}


def run_part(name: str) -> Findings:
    """Set the part's environments up and run it; what breaks it is a failed check."""
    part = PARTS[name]
    findings = Findings(name)
    began = time.monotonic()
    try:
        for environment in part.environments:
            python_of(environment)
        findings.setup_seconds = time.monotonic() - began
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"tp-conf-{name}-") as folder:
            part.run(findings, Path(folder))
    except (SetUpError, ServerError) as broken:
        findings.add("the part as a whole", good=False, note=str(broken))
    except Exception:  # noqa: BLE001  (a broken part must not hide what the others find)
        findings.add("the part as a whole", good=False, note=traceback.format_exc())
    findings.seconds = time.monotonic() - began
    return findings


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if every check of every part passed."""
    words = "\n".join(f"  {name:13} {part.what}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=f"{__doc__}\n\nparts:\n{words}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all but those only when asked for")
    parser.add_argument("--verbose", action="store_true", help="show every check")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))
    findings = []
    for name in options.parts or [name for name, part in PARTS.items() if part.by_default]:
        print(f"{name}: {PARTS[name].what} ...", flush=True)
        findings.append(run_part(name))
        for check in findings[-1].checks:
            if options.verbose or check.excused:
                state = "passed " if check.good else "excused" if check.excused else "FAILED "
                print(f"  {state} {check.name}{': ' if check.note else ''}{check.note}")
        passed, failed, excused = findings[-1].count()
        print(f"  {passed} passed, {failed} failed, {excused} excused", flush=True)
    print()
    if text := failures(findings):
        print(f"{text}\n")
    print(table(findings))
    return 0 if all(part.good for part in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
