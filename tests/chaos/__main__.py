"""``python -m tests.chaos``: kill every process of a laboratory many times, then compare the books."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import disk_full
from tests.chaos.schedule import VICTIMS, draw
from tests.chaos.session import kill_and_judge
from tests.chaos.verdict import plain, table

_began = time.monotonic()


def say(text: str) -> None:
    """A line with the time since the start."""
    print(f"[{time.monotonic() - _began:7.1f} s] {text}", flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the schedule is drawn from it (default 1)")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each victim (default 20)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[*VICTIMS, "disk-full"],
        metavar="NAME",
        help=f"only this one, may be repeated: {', '.join(VICTIMS)}, disk-full",
    )
    parser.add_argument("--out", type=Path, help="directory for chaos.json (default: nothing is written)")
    parser.add_argument(
        "--state", type=Path, help="empty state directory, kept (default: a temporary one, kept on failure)"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="no kills after so long (default 60)")
    parser.add_argument("--no-replay", action="store_true", help="do not replay the runs at the end")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if nothing was lost or doubled, every run completed and the tip was always parked."""
    options = _parse(arguments)
    folder = options.state or Path(tempfile.mkdtemp(prefix="tp-chaos-"))
    results: dict[str, object] = {}
    good = True
    victims = [name for name in options.only if name != "disk-full"]
    if victims or not options.only:
        schedule = draw(options.seed, options.kills, victims)
        say(f"seed {options.seed}: {len(schedule)} kills; state directory {folder / 'kills'}")
        for plan in schedule:
            print(f"  {plan}")
        verdict = kill_and_judge(
            folder / "kills",
            options.seed,
            schedule,
            say,
            replay=not options.no_replay,
            within_s=60.0 * options.minutes,
        )
        print(table(verdict))
        for fault in verdict.faults:
            print(f"FAULT {fault}")
        for helped in verdict.interventions:
            print(f"an operator was needed: {helped.reason}: {helped.did}")
        results["kills"] = plain(verdict)
        good = verdict.good
    if not options.only or "disk-full" in options.only:
        full = disk_full.run(folder / "full", say)
        print()
        print(disk_full.table(full))
        results["disk_full"] = disk_full.plain(full)
        good = good and full.good
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "chaos.json").write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")
    if options.state is None and good:
        shutil.rmtree(folder, ignore_errors=True)
    say("good" if good else f"FAILED; everything is in {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
