"""Who is killed, when: drawn from a seed, so that a failure can be repeated.  Pure: no clock, no process.

Kills go in rounds, each victim once per round.  The victims are dealt into two halves, and each round takes
first the one half in a new order and then the other: between two kills of the same victim lie at least half
a round of kills of others, which keeps everybody within its restart budget (3 in 60 s).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ACTORS = (
    "scan_controller",
    "drift_tracker",
    "spectroscopy_acquirer",
    "spectrum_classifier",
    "dkl_planner",
    "zoom_supervisor",
)
PROCESSES = ("journal", "guard", "worker", "daemon", "gcs", "raylet")
VICTIMS = (*ACTORS, *PROCESSES)

PHASES = ("idle", "moving", "sweeping", "scanning", "committing")

LONGEST_DELAY_S = {"idle": 0.3, "moving": 0.008, "sweeping": 0.09, "scanning": 0.5, "committing": 0.005}
"""The kill follows the beginning of its phase after at most so long (wall seconds)."""

BUDGET = 3
BUDGET_WINDOW_S = 60.0
"""What the daemon, the guard and the actor pool allow: so many restarts within this time."""
MARGIN_S = 5.0
"""Restarts come some seconds after the kills that they answer."""
SHARED_BUDGET = {"gcs": "ray", "raylet": "ray", "guard": "gateway"}
"""Victims whose deaths are paid from one budget."""


@dataclass(frozen=True)
class PlannedKill:
    """One SIGKILL: ``delay_s`` after the first sight of ``phase``."""

    number: int
    victim: str
    phase: str
    delay_s: float

    def __str__(self) -> str:
        return f"{self.number:3d} {self.victim:<22} {self.phase:<10} +{1e3 * self.delay_s:.1f} ms"


def draw(seed: int, kills: int, only: Sequence[str] = ()) -> tuple[PlannedKill, ...]:
    """``kills`` kills of every victim (of those in ``only``, if any are named), their phases as even as
    possible for each victim.

    Raises:
        ValueError: an unknown victim, or a negative number.
    """
    unknown = sorted(set(only) - set(VICTIMS))
    if unknown:
        raise ValueError(f"no such victim: {', '.join(unknown)}; known are {', '.join(VICTIMS)}.")
    if kills < 0:
        raise ValueError(f"{kills} kills of each are not possible.")
    rng = random.Random(f"chaos {seed}")
    victims = [v for v in VICTIMS if not only or v in only]
    phases = {victim: _phases(rng, kills, offset) for offset, victim in enumerate(victims)}
    dealt = rng.sample(victims, len(victims))
    halves = (dealt[: (len(dealt) + 1) // 2], dealt[(len(dealt) + 1) // 2 :])
    planned: list[PlannedKill] = []
    for turn in range(kills):
        for half in halves:
            for victim in rng.sample(half, len(half)):
                phase = phases[victim][turn]
                delay = rng.uniform(0.0, LONGEST_DELAY_S[phase])
                planned.append(PlannedKill(len(planned) + 1, victim, phase, delay))
    return tuple(planned)


def _phases(rng: random.Random, kills: int, offset: int) -> list[str]:
    """Every phase equally often, up to one; ``offset`` says who gets the odd ones, so that all phases are
    equally frequent over all victims too."""
    even = [PHASES[(offset + k) % len(PHASES)] for k in range(kills)]
    rng.shuffle(even)
    return even


def wait_before(victim: str, history: Iterable[tuple[str, float]], now_s: float) -> float:
    """Seconds to wait until another kill of ``victim`` stays within its restart budget.

    ``history``: (victim, time) of the kills so far, in order.  The wait leaves room for one death that
    nobody planned.
    """
    budget = SHARED_BUDGET.get(victim, victim)
    window = BUDGET_WINDOW_S + MARGIN_S
    recent = [t for v, t in history if SHARED_BUDGET.get(v, v) == budget and now_s - t < window]
    if len(recent) < BUDGET - 1:
        return 0.0
    return max(0.0, recent[-(BUDGET - 1)] + window - now_s)
