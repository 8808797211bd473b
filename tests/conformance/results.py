"""What a part of the conformance run found, and the table of all parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    good: bool
    note: str = ""
    """What went wrong; of an excused check, why it is excused."""
    excused: bool = False
    """A client's own fault that is on record: shown, not counted as failed."""


@dataclass
class Findings:
    """Everything that one part found."""

    part: str
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    setup_seconds: float = 0.0

    def add(self, name: str, good: bool, note: str = "") -> None:
        """Note a check."""
        self.checks.append(Check(name, bool(good), note))

    def excuse(self, name: str, why: str) -> None:
        """Note a fault of the client itself."""
        self.checks.append(Check(name, good=False, note=why, excused=True))

    def count(self) -> tuple[int, int, int]:
        """(passed, failed, excused)."""
        passed = sum(check.good for check in self.checks)
        excused = sum(check.excused for check in self.checks)
        return passed, len(self.checks) - passed - excused, excused

    @property
    def good(self) -> bool:
        """Whether there were checks and none failed."""
        passed, failed, _ = self.count()
        return passed > 0 and failed == 0


def failures(findings: Sequence[Findings]) -> str:
    """A line for each failed check."""
    return "\n".join(
        f"FAILED {part.part}: {check.name}: {check.note or 'no reason given'}"
        for part in findings
        for check in part.checks
        if not check.good and not check.excused
    )


def table(findings: Sequence[Findings]) -> str:
    """Part, checks passed, failed and excused, seconds of set-up and run."""
    titles = ("part", "passed", "failed", "excused", "set-up s", "run s")
    rows = [
        (part.part, *(str(n) for n in part.count()), f"{part.setup_seconds:.0f}", f"{part.seconds:.0f}")
        for part in findings
    ]
    widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (titles, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
