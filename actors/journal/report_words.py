"""Sentences of a report about single records: where data come from, what happened, the recipe."""

from __future__ import annotations

from actors.journal.wording import exact
from protocols.messages.recipes import SpectrumRecipe
from protocols.messages.records import (
    AttemptEnded,
    Fault,
    Label,
    OperatorAction,
    RunState,
    StoredRecord,
)

HOLDS = frozenset({"held", "paused", "waiting"})
"""Run states that count as holds."""


def sample_words(sample: str, simulated: bool) -> list[str]:
    """What of the sample was recorded on a real instrument and what is made up."""
    if sample.startswith("recorded:"):
        return [
            "Recorded: the topograph and every spectrum come from a CITS grid measured on a real surface. "
            "They are served at the grid's own points only, never interpolated.",
            "Added by the simulated microscope: when things happen (travel, settling, sweeps), and the way "
            "the tip is driven.",
        ]
    if simulated:
        return [
            f"Nothing here was measured on a real surface: the sample “{sample}”, its spectra and the "
            "microscope are simulated."
        ]
    return ["Everything measured here was recorded on the microscope."]


def measured_rows(sample: str, simulated: bool, time_scale: float) -> list[tuple[str, str, str]]:
    """(quantity, what it is, how) of what the gateway delivered."""
    clock = "in real time"
    if time_scale != 1:
        clock = f"on an instrument clock {time_scale:g} times faster than the wall clock"
    if sample.startswith("recorded:"):
        return [
            ("spectra, topograph", "recorded", "on a real surface, served by the simulated microscope"),
            ("instrument times", "added", f"by the simulated microscope, {clock}"),
        ]
    source = "simulated" if simulated else "recorded"
    return [("spectra, frames, instrument times", source, f"as the gateway delivered them, {clock}")]


def label_words(label: Label) -> str:
    """What the classifier said, with its confidence if it has any."""
    sure = f" ({100 * label.confidence:.0f} % sure)" if label.confidence > 0 else ""
    return f"“{label.label}”{sure}"


def event(record: StoredRecord) -> tuple[str, str] | None:
    """(kind, words) of a fault, hold, operator's action or attempt without result; None for other records."""
    match record.body:
        case Fault(actor=actor, what=what, action=action):
            return "fault", f"{actor}: {what}; {action}"
        case OperatorAction(command=command, arguments=arguments, outcome=outcome):
            return (
                "operator",
                f"{' '.join([command, *(f'{k}={v}' for k, v in arguments.items())])}: {outcome}",
            )
        case RunState(state=state, reason=reason) if state in HOLDS:
            return "hold", f"{state}: {reason}"
        case AttemptEnded(job_id=job, state=state, reason=reason):
            return "attempt", f"{job} {state}: {reason}"
        case _:
            return None


def recipe_rows(recipe: SpectrumRecipe) -> list[tuple[str, str]]:
    """How a spectrum was taken."""
    lines = [
        (
            "stabilised at",
            f"{exact(recipe.stabilise_bias_v, 'V')}, {exact(recipe.stabilise_current_a, 'A')}",
        ),
        ("settling", exact(recipe.settle_s, "s")),
        ("Z offset", f"{recipe.z_offset_m * 1e12:.0f} pm"),
        ("sweep", f"{exact(recipe.start_v, 'V')} to {exact(recipe.stop_v, 'V')}, {recipe.points} points"),
        (
            "dwell",
            f"{exact(recipe.dwell_s, 's')} per point, {recipe.repeats} "
            f"{'sweep' if recipe.repeats == 1 else 'sweeps'}, "
            f"{'forward and backward' if recipe.backward else 'forward only'}",
        ),
    ]
    if recipe.lockin is not None:
        lockin = recipe.lockin
        lines.append(
            (
                "lock-in",
                f"{exact(lockin.amplitude_v, 'V')} peak, {exact(lockin.frequency_hz, 'Hz')}, "
                f"time constant {exact(lockin.time_constant_s, 's')}",
            )
        )
    return lines
