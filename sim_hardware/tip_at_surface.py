"""The tip at the surface: what it does by itself, whoever commands it.

Feedback, retraction, drift into contact, crashes, SafeTip and the tip's own changes.  ``World`` adds the
commands and the activities.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import constants

from sim_hardware.clock import Clock
from sim_hardware.controller import Loop, rest
from sim_hardware.controls import Controls, usual_controls
from sim_hardware.damage import Crater
from sim_hardware.drift import DriftSettings
from sim_hardware.electronics import ElectronicsSettings
from sim_hardware.feedback import FeedbackSettings
from sim_hardware.junction import Junction, Profile
from sim_hardware.scanner import IDEAL, ScannerSettings
from sim_hardware.situation import Situation
from sim_hardware.stage import Stage
from sim_hardware.surfaces.base import Surface
from sim_hardware.surfaces.recording import Recorded
from sim_hardware.tip import Tip
from sim_hardware.trajectory import Trajectory
from sim_hardware.truth import TruthPen

Floats = npt.NDArray[np.float64]

FOLLOWED_M = 50e-12
"""Farther than this the surface does not come or go at once where the controller follows its drift."""
MOST_STEPS = 4000


@dataclass(frozen=True)
class WorldSettings:
    """Everything about the microscope that is not the sample; ranges are (low, high) in m and V."""

    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)
    electronics: ElectronicsSettings = field(default_factory=ElectronicsSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    scanner: ScannerSettings = IDEAL
    work_function_ev: float | None = None
    """None: the sample's own."""
    lateral_range_m: tuple[float, float] = (-500e-9, 500e-9)
    bias_range_v: tuple[float, float] = (-10.0, 10.0)
    travel_m_s: float = 1e-6
    """Speed of moves that the electronics make by themselves (to the first line of a frame)."""


class TipAtSurface(ABC):
    """See the module's text.  Everything is changed under ``lock``."""

    def __init__(
        self,
        surface: Surface,
        clock: Clock,
        pen: TruthPen,
        seed: int,
        settings: WorldSettings,
        tip: Tip,
        craters: tuple[Crater, ...],
    ) -> None:
        self.surface = surface
        self.settings = settings
        self.clock = clock
        self.pen = pen
        self.seed = seed
        self.recorded: Recorded | None = surface if isinstance(surface, Recorded) else None
        self.stage = Stage(
            surface, seed, settings.drift, settings.scanner, settings.work_function_ev, tip, craters
        )
        self.controls: Controls = usual_controls(settings.feedback, self.junction.kappa)
        self.situation = Situation(z_m=settings.feedback.z_high_m, since_s=clock.now())
        self.lock = threading.RLock()
        self.job_id = ""
        self._live: Trajectory | None = None

    @abstractmethod
    def withdraw(self, reason: str) -> None:
        """Controller off and Z on its way up when this returns."""

    def note(self, event: str, **detail: Any) -> int:
        """Write to the truth log with the present time and job."""
        return self.pen.note(event, self.clock.now(), self.job_id, **detail)

    def recede(self, metres: float) -> None:
        """The surface goes away from the tip by so much (a fault on demand)."""
        with self.lock:
            self.stage.move_coarsely(0.0, 0.0, metres)

    def coarse(self, dx_m: float, dy_m: float, dz_m: float) -> None:
        """The coarse motor has moved the tip over the sample by so much (z positive: away from it)."""
        with self.lock:
            self.advance()
            self.stage.move_coarsely(dx_m, dy_m, dz_m)
            s = self.situation
            if s.feedback and not s.withdrawn and s.z_m < self.z_range()[1]:
                self._crash("coarse motor moved while tunneling")
            elif not (s.withdrawn or s.retracting):
                profile, rise = self._here(self.clock.now())
                if s.z_m <= float(profile.contact_m[0]) + rise:
                    self._crash("coarse motor into contact")

    @property
    def junction(self) -> Junction:
        """The tip over the surface, as it is now."""
        return self.stage.junction

    @property
    def electronics(self) -> ElectronicsSettings:
        """Preamplifier and noise in the present range of gain."""
        return self.controls.in_range(self.settings.electronics)

    def z_range(self) -> tuple[float, float]:
        """Lowest and highest z (m) that the controller may reach: the piezo's, or the user's limits."""
        return self.controls.z_range(self.settings.feedback)

    def loop(self, noisy: bool = False) -> Loop:
        """The Z-controller with its surroundings."""
        electronics = self.electronics
        low, high = self.z_range()
        noise = 0.0
        if noisy:
            shot = electronics.shot_noise * 2.0 * constants.e * self.situation.setpoint_a
            noise = math.sqrt(electronics.noise_a_per_sqrt_hz**2 + shot)
        return Loop(
            settings=self.controls.controller,
            setpoint_a=self.situation.setpoint_a,
            bandwidth_hz=electronics.bandwidth_hz,
            rail_a=electronics.rail_a,
            z_low_m=low,
            z_high_m=high,
            slew_m_s=self.settings.feedback.slew_m_s,
            noise_a_per_sqrt_hz=noise * self.junction.tip.noise_factor,
        )

    def rise(self, x_m: Floats, y_m: Floats, offsets_m: Floats) -> Floats:
        """Height (m) of the surface's origin in piezo coordinates under tip positions (n,): drift and what
        the tilt compensation leaves of the tilt; ``offsets_m`` (n, 3) as ``offsets`` gives them."""
        return self.stage.rise(x_m, y_m, offsets_m, self.controls.slope)

    def lateral(self, time_s: float) -> tuple[float, float, float]:
        """Offset (m) in x, y, z: sample = piezo - offset."""
        x, y, z = self.offsets(np.array([time_s]))[0]
        return float(x), float(y), float(z)

    def offsets(self, times_s: Floats) -> Floats:
        """The same at several times: (n, 3).  Drift less its compensation, coarse motor, creep."""
        return self.stage.offsets(times_s, self.controls.drift)

    def change_tip(self, cause: str) -> int:
        """The tip changes because of ``cause`` (a key of ``tip.BETTER``); returns how often it has."""
        with self.lock:
            return self.stage.change_tip(cause)

    def may_change_tip(self, seconds: float, bias_v: float, rng: np.random.Generator) -> int:
        """So much time has passed in tunneling: perhaps the tip has changed by itself; how often it then has,
        or 0.  The rate grows as exp(|V| / 1 V), a field that makes atoms move."""
        rate = self.settings.scanner.spontaneous_per_hour / 3600.0
        if rate <= 0.0 or rng.uniform() >= -math.expm1(-rate * seconds * math.exp(min(abs(bias_v), 10.0))):
            return 0
        changes = self.change_tip("spontaneous")
        self.note("tip_change", cause="spontaneous", bias_v=bias_v, tip_changes=changes)
        return changes

    def advance(self, now: float | None = None) -> None:
        """Bring Z to the present where it moves by itself: feedback, retraction, drift into contact."""
        now = self.clock.now() if now is None else now
        s, feedback = self.situation, self.settings.feedback
        since, elapsed = s.since_s, max(0.0, now - s.since_s)
        if self._live is not None:
            return
        s.since_s = now
        if s.retracting:
            s.z_m = min(feedback.z_high_m, s.z_m + self.controls.withdraw_m_s * elapsed)
            if s.z_m >= feedback.z_high_m:
                s.retracting, s.withdrawn = False, True
                s.shorted = s.lost = False
                self.note("withdrawn", z_m=s.z_m)
            return
        if s.withdrawn or s.shorted:
            return
        profile, rise = self._here(now)
        touching = s.z_m <= float(profile.contact_m[0]) + rise
        if s.feedback:
            low, _ = self.z_range()
            if elapsed > 0.0:
                s.z_m, touching = self._kept(profile, rise, since, elapsed)
            lost = float(profile.target(s.setpoint_a)[0]) + rise < low and s.z_m <= low + 1e-12
            if lost and not s.lost:
                self.note("lost_surface", z_m=s.z_m)
            s.lost = lost
        if touching:
            self._crash("drift or feedback into contact")
        elif self._safe_tip_armed() and self._over_threshold(self._current_at(now)):
            self._trip()

    def _kept(self, profile: Profile, rise_m: float, since_s: float, elapsed_s: float) -> tuple[float, bool]:
        """Height (m) when the controller has kept the current for a time in which the surface came or went
        evenly to ``rise_m``, and whether the tip touches."""
        s, loop = self.situation, self.loop()
        before = float(self.rise(np.array([s.x_m]), np.array([s.y_m]), self.offsets(np.array([since_s])))[0])
        steps = min(max(1, math.ceil(abs(rise_m - before) / FOLLOWED_M)), MOST_STEPS)
        z, hit = s.z_m, False
        for k in range(1, steps + 1):
            z, hit = rest(loop, s.loop, profile, before + (rise_m - before) * k / steps, z, elapsed_s / steps)
            if hit:
                break
        return z, hit

    def _here(self, now: float) -> tuple[Profile, float]:
        """The profile under the tip and the height of the surface's origin, in piezo coordinates (m)."""
        s = self.situation
        x, y = np.array([s.x_m]), np.array([s.y_m])
        offsets = self.offsets(np.array([now]))
        profile = self.junction.profile(x - offsets[:, 0], y - offsets[:, 1], s.bias_v, s.setpoint_a)
        return profile, float(self.rise(x, y, offsets)[0])

    def _current_at(self, now: float) -> float:
        """Noise-free signed current (A) of the situation."""
        s = self.situation
        rail = self.electronics.rail_a
        sign = 1.0 if s.bias_v >= 0.0 else -1.0
        if s.shorted:
            return sign * rail
        if s.withdrawn or s.bias_v == 0.0:
            return 0.0
        profile, rise = self._here(now)
        return sign * float(profile.current(np.array([s.z_m - rise]), rail)[0])

    def _safe_tip_armed(self) -> bool:
        return self.controls.safe_tip.on and not self.controls.safe_tip.tripped

    def _over_threshold(self, current_a: float) -> bool:
        return abs(current_a) >= self.controls.safe_tip.threshold_a

    def _trip(self) -> None:
        """SafeTip withdraws."""
        self.controls.safe_tip.tripped = True
        self.note("safe_tip", threshold_a=self.controls.safe_tip.threshold_a)
        self.withdraw("safe tip")

    def _crash(self, cause: str) -> None:
        s = self.situation
        if s.shorted or s.withdrawn:
            return
        s.crashed = s.shorted = True
        dx, dy, _ = self.lateral(self.clock.now())
        x, y = s.x_m - dx, s.y_m - dy
        changes = self.stage.crash(x, y, leaves_crater=self.recorded is None)
        self.note("crash", cause=cause, sample_x_m=x, sample_y_m=y, z_m=s.z_m, tip_changes=changes)
        if self._safe_tip_armed() and self._over_threshold(self.electronics.rail_a):
            self._trip()
