"""What can go wrong at a microscope, as data: what is done to it, what must follow, and why.

Run on the simulated microscope only.  ``gateway`` is how guard and worker must end up, ``happened`` and
``never`` are entries of the microscope's own truth log from the moment the thing was done.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from protocols.messages import simdoor
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import Pulse, Recipe
from tests.hil.electronics import SimulatedMicroscope
from tests.hil.plan import Plan

TO_LOW_END_M = -243e-9
"""The sample goes away so far that Z stands within ``z_park_margin`` of its low end (the surface begins near
the middle of a range of +-250 nm); the opposite for the high end."""
NEAR_LOW_END_M = -215e-9
"""Within ``z_hold_margin``, not yet within ``z_park_margin``."""
OUT_OF_REACH_M = 1e-6
SLOWLY_S = 0.6
"""For a quarter of a micrometre: 400 nm/s, which the controller follows."""
NUDGE_M = 50e-12


class End(enum.Enum):
    """Where the tip is in the end."""

    LATCHED = "parked and latched until a person acknowledges"
    ENGAGED = "tunneling as before"


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    ``withdrawn_first``: it begins with a parked tip (else tunneling).  ``break_`` does the thing, ``ask`` is
    what the gateway is asked meanwhile, with the job's possible final states and a part of its reason.
    ``causes``: why the latch may be shut; which comes first depends on whether the electronics withdraw by
    themselves.
    ``alarm``: beginning of an alarm that must stand.  ``mend``: with the tip withdrawn.
    """

    title: str
    why: str
    end: End
    break_: Callable[[SimulatedMicroscope, Plan], None] = lambda *_: None
    mend: Callable[[SimulatedMicroscope], None] = lambda *_: None
    ask: Callable[[Plan], Recipe] | None = None
    jobs: frozenset[JobState] = frozenset({JobState.FINISHED})
    reason: str = ""
    limit: str = ""
    causes: frozenset[str] = frozenset()
    alarm: str = ""
    saturated: bool = False
    withdrawn_first: bool = False
    happened: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.title


def _fault(kind: str, **how: float) -> Callable[[SimulatedMicroscope, Plan], None]:
    return lambda microscope, _: microscope.break_(kind, **how)


def _mended(*faults: tuple[str, dict[str, float]]) -> Callable[[SimulatedMicroscope], None]:
    def mend(microscope: SimulatedMicroscope) -> None:
        for kind, how in faults:
            microscope.break_(kind, **how)

    return mend


def _sample(metres: float, seconds: float = SLOWLY_S) -> Callable[[SimulatedMicroscope, Plan], None]:
    return _fault("bring_sample", metres=metres, seconds=seconds)


def _sample_back(metres: float) -> Callable[[SimulatedMicroscope], None]:
    return _mended(("bring_sample", {"metres": -metres, "seconds": 1e-3}))


def _wrong_sign_and(metres: float) -> Callable[[SimulatedMicroscope, Plan], None]:
    def do(microscope: SimulatedMicroscope, _: Plan) -> None:
        microscope.break_("wrong_sign")
        microscope.break_("bring_sample", metres=metres, seconds=1e-3)

    return do


def _ramp_at_the_panel(share: float) -> Callable[[SimulatedMicroscope, Plan], None]:
    """Somebody turns the bias at the electronics to this share of what it is."""

    def do(microscope: SimulatedMicroscope, plan: Plan) -> None:
        bias = share * plan.choices.bias_v
        started = microscope.ask(simdoor.SimStartRamp(bias_v=bias, slew_v_s=10.0))
        assert isinstance(started, simdoor.SimStarted)
        microscope.ask(simdoor.SimAwait(activity=started.activity, wait_s=5.0))

    return do


def _saturating_sweep(plan: Plan) -> Recipe:
    """Stabilised so near that the sweep needs more current than the preamplifier has."""
    swing = 0.8 * min(plan.limits.bias_max, 2.5)
    spectrum = msgspec.structs.replace(
        plan.sweep(backward=False, lockin=None).spectrum,
        stabilise_current_a=0.6 * plan.limits.setpoint_max,
        start_v=plan.choices.bias_v,
        stop_v=swing,
    )
    return msgspec.structs.replace(plan.sweep(), spectrum=spectrum)


def _pulse_through_zero(plan: Plan) -> Recipe:
    return Pulse(bias_v=-plan.choices.bias_v, width_s=1e-3, hold_z=False)


GIVEN_UP = frozenset({JobState.FAILED, JobState.INTERRUPTED})
"""An approach without end is interrupted by the park that it asks for, if that comes first."""
CRASH = frozenset({"crash", "trip"})
"""Electronics that withdraw by themselves (SafeTip) make a trip of a crash; ours then never see more."""

SCENARIOS = (
    Scenario(
        "tip crash",
        "a crashed tip must not measure on; somebody has to look at tip and surface",
        End.LATCHED,
        break_=_fault("tip_crash"),
        causes=CRASH,
        happened=("crash", "retraction"),
    ),
    Scenario(
        "polarity change by a pulse in feedback",
        "with feedback on, the way to the other polarity leads through 0 V, where the controller drives the "
        "tip into the surface",
        End.ENGAGED,
        ask=_pulse_through_zero,
        jobs=frozenset({JobState.REFUSED}),
        limit="min_feedback_bias",
        never=("pulse", "bias", "crash", "retraction"),
    ),
    Scenario(
        "polarity change asked of the gateway",
        "the gateway switches feedback off, changes the bias, and switches it on again",
        End.ENGAGED,
        ask=lambda plan: plan.engage(-plan.choices.bias_v),
        happened=("feedback", "bias", "feedback"),
        never=("crash", "retraction"),
    ),
    Scenario(
        "polarity change at the panel, by somebody else",
        "nobody can refuse what is done at the electronics: the tip crashes, and nothing goes on by itself",
        End.LATCHED,
        break_=_ramp_at_the_panel(-1.0),
        causes=CRASH,
        happened=("crash", "retraction"),
    ),
    Scenario(
        "bias changed at the panel, by somebody else",
        "a spectrum at another bias than the journal says would be worse than none: the job fails and says "
        "what changed",
        End.ENGAGED,
        break_=_ramp_at_the_panel(0.8),
        ask=lambda plan: plan.sweep(),
        jobs=frozenset({JobState.FAILED}),
        reason=CHANGED_BY_OTHERS,
        never=("sweep_done", "crash", "retraction"),
    ),
    Scenario(
        "surface near the low end of Z",
        "there is room still, but not for long: an alarm on which runs hold, and the tip goes on tunneling",
        End.ENGAGED,
        break_=_sample(NEAR_LOW_END_M),
        mend=_sample_back(NEAR_LOW_END_M),
        alarm="z-range",
        never=("crash", "retraction", "lost_surface"),
    ),
    Scenario(
        "Z at its low end",
        "the surface drifts out of reach; only the coarse motor helps, and that is a person's decision",
        End.LATCHED,
        break_=_sample(TO_LOW_END_M),
        mend=_sample_back(TO_LOW_END_M),
        causes=frozenset({"z-end"}),
        happened=("retraction",),
        never=("crash",),
    ),
    Scenario(
        "Z at its high end",
        "the surface comes so near that the tip could soon not be withdrawn from it",
        End.LATCHED,
        break_=_sample(-TO_LOW_END_M),
        mend=_sample_back(-TO_LOW_END_M),
        causes=frozenset({"z-end"}),
        happened=("retraction",),
        never=("crash",),
    ),
    Scenario(
        "lost tunneling",
        "the surface is gone at once: the controller extends to the end of Z, and the tip is parked there",
        End.LATCHED,
        break_=_fault("lose_surface", metres=OUT_OF_REACH_M),
        mend=_mended(("lose_surface", {"metres": -OUT_OF_REACH_M})),
        causes=frozenset({"z-end"}),
        happened=("lost_surface", "retraction"),
        never=("crash",),
    ),
    Scenario(
        "no surface within reach at an engage",
        "an approach that finds nothing is given up after engage_time_max; it needs the coarse motor",
        End.LATCHED,
        break_=_fault("lose_surface", metres=OUT_OF_REACH_M),
        mend=_mended(("lose_surface", {"metres": -OUT_OF_REACH_M})),
        ask=lambda plan: plan.engage(),
        jobs=GIVEN_UP,
        reason="no surface",
        causes=frozenset({"no-surface"}),
        withdrawn_first=True,
        happened=("lost_surface", "retraction"),
        never=("crash",),
    ),
    Scenario(
        "preamplifier at its rail",
        "the current cannot be believed, and the controller follows it: a trip, or Z at its end",
        End.LATCHED,
        break_=_fault("rail"),
        mend=_mended(("rail", {"count": 0})),
        causes=frozenset({"trip", "z-end"}),
        happened=("retraction",),
        never=("crash",),
    ),
    Scenario(
        "preamplifier at its rail within a sweep",
        "a spectrum may saturate: that ends the sweep, marked as saturated, and not the run",
        End.ENGAGED,
        ask=_saturating_sweep,
        saturated=True,
        happened=("sweep_done",),
        never=("crash", "retraction"),
    ),
    Scenario(
        "wrong controller sign at an engage",
        "the controller goes away from the surface: nothing is found, nothing is touched",
        End.LATCHED,
        break_=_fault("wrong_sign"),
        mend=_mended(("wrong_sign", {"count": 0})),
        ask=lambda plan: plan.engage(),
        jobs=GIVEN_UP,
        reason="no surface",
        causes=frozenset({"no-surface"}),
        withdrawn_first=True,
        happened=("retraction",),
        never=("crash",),
    ),
    Scenario(
        "wrong controller sign while tunneling, surface receding",
        "the controller runs away upward, to the end of Z",
        End.LATCHED,
        break_=_wrong_sign_and(-NUDGE_M),
        mend=_mended(("wrong_sign", {"count": 0})),
        causes=frozenset({"z-end"}),
        happened=("retraction",),
        never=("crash",),
    ),
    Scenario(
        "wrong controller sign while tunneling, surface approaching",
        "the controller drives the tip into the surface within milliseconds: no software prevents that, but "
        "the tip is out again and stays out",
        End.LATCHED,
        break_=_wrong_sign_and(NUDGE_M),
        mend=_mended(("wrong_sign", {"count": 0})),
        causes=CRASH,
        happened=("crash", "retraction"),
    ),
)
