"""What somebody else has changed at the electronics between two of our jobs.  Pure.

Others use the instrument too.  How a job left the electronics is kept; the next one begins only if bias,
setpoint, controller and scan read back the same.
"""

from __future__ import annotations

from protocols.errors import DriverError
from protocols.files.limits_toml import Limits
from protocols.files.quantities import format_quantity
from protocols.messages.data import InstrumentState
from protocols.messages.jobs import CHANGED_BY_OTHERS


class ForeignChangeError(DriverError):
    """Somebody else changed the electronics; the text begins with ``CHANGED_BY_OTHERS`` and says what."""

    code = "foreign-change"

    @classmethod
    def of(cls, when: str, changes: list[str]) -> ForeignChangeError:
        """The error for these changes; ``when`` they came, for example "during the job"."""
        return cls(
            f"{CHANGED_BY_OTHERS} {when}: {'; '.join(changes)}.",
            "See who else is connected.",
            changes=tuple(changes),
        )


def changes_since(left: InstrumentState, found: InstrumentState, limits: Limits) -> list[str]:
    """What is not as a job of ours left it, in words; empty if nothing is."""
    changed = []
    if found.withdrawn != left.withdrawn:
        changed.append("the tip is withdrawn" if found.withdrawn else "the tip is not withdrawn any more")
    if found.feedback != left.feedback:
        changed.append(f"feedback is {'on' if found.feedback else 'off'}")
    setpoint_tolerance_a = limits.setpoint_tolerance * abs(left.setpoint_a)
    changed += changed_values(
        ("bias", left.bias_v, found.bias_v, limits.bias_tolerance, "V"),
        ("setpoint", left.setpoint_a, found.setpoint_a, setpoint_tolerance_a, "A"),
    )
    return changed + [what for what in running_in(found) if what not in running_in(left)]


def changed_values(*compared: tuple[str, float | None, float, float, str]) -> list[str]:
    """What differs, in words, among (name, as it must be, as it is, tolerance, unit); None: it may be
    anything.  What is not a number differs."""
    return [
        changed_value(name, have, want, unit)
        for name, want, have, tolerance, unit in compared
        if want is not None and not abs(have - want) <= tolerance
    ]


def running_in(state: InstrumentState) -> list[str]:
    """What the electronics carry out by themselves, in words."""
    return ["a scan runs"] * state.scanning + ["a sweep runs"] * state.sweeping


def changed_value(name: str, have: float, want: float, unit: str) -> str:
    """A value that is another than it was, in words."""
    return f"{name} is {format_quantity(have, unit, 6)} instead of {format_quantity(want, unit, 6)}"
