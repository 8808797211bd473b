"""How the surface drifts under the tip: position and velocity with their uncertainty, and a gate.

``piezo = sample + offset + velocity * (t - time_s)`` (protocols.messages.records.Transform).  The model is a
Kalman filter per axis with constant velocity and a slow random walk of that velocity; its transform is fed
forward to every target.  A registration that cannot tell, or that would need a velocity no microscope has,
never changes the transform: it is counted and said.

From a registration to an offset: a feature at place u of the reference frame (centre c_r in piezo
coordinates, taken when the offset was o_r) appears now at u + s in a frame centred on c_n, so the offset now
is o_r + (c_n - c_r) + s, with s turned from the frame's axes to the piezo's.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from actors.analysis.registration import Registration
from protocols.errors import UsageError
from protocols.messages.campaign import DriftSection
from protocols.messages.records import DriftMeasured, FrameTaken, Transform

MINIMUM_SIGMA_M = 2e-12
"""No registration is believed to better than this (m): in-frame drift and creep remain."""
VELOCITY_WALK = 0.02
"""Standard deviation of the velocity's change in one hour, as a share of the largest velocity."""
SURPRISE_SIGMA = 3.0
"""A plausible shift that surprises by more than this widens the velocity's uncertainty before it counts."""
JUMP_AFTER = 3
"""So many implausible shifts in a row that agree with one another are a jump of the surface: see observe."""
DUE_SHARE = 0.1
"""The next reference frame is due when the predicted uncertainty exceeds this share of the patch."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a reference frame was taken, in piezo coordinates (m, rad, instrument seconds)."""

    job_id: str
    centre_x_m: float
    centre_y_m: float
    angle_rad: float
    time_s: float
    """Middle of the frame: rows are as far apart in time in both frames, so their shift belongs to it."""
    transform: Transform

    @classmethod
    def of(cls, frame: FrameTaken) -> Placed:
        """From the journal's record, whose centre is in sample coordinates in the middle of the frame."""
        middle = (frame.began_s + frame.ended_s) / 2
        x, y = frame.transform.to_piezo(frame.centre_x_m, frame.centre_y_m, middle)
        return cls(
            job_id=frame.job_id,
            centre_x_m=x,
            centre_y_m=y,
            angle_rad=frame.angle_rad,
            time_s=middle,
            transform=frame.transform,
        )


class DriftModel:
    """Drift of one window's surface.  Times are instrument seconds, lengths metres.

    Args:
        settings: Largest velocity and least confidence, from the campaign.
        transform: Transform in force at the start (from an earlier window or a resumed run).
        offset_sigma_m: Uncertainty of that transform's offset.
        velocity_sigma_m_s: Uncertainty of its velocity; None: a tenth of the largest velocity.

    Raises:
        UsageError: a largest velocity that is not positive, or an uncertainty below 0.
    """

    def __init__(
        self,
        settings: DriftSection,
        transform: Transform | None = None,
        offset_sigma_m: float = 0.0,
        velocity_sigma_m_s: float | None = None,
    ) -> None:
        if not settings.max_velocity_m_s > 0:
            raise UsageError(f"drift.max_velocity_m_s must be positive, got {settings.max_velocity_m_s}.")
        start = transform if transform is not None else Transform()
        sigma_v = settings.max_velocity_m_s / 10 if velocity_sigma_m_s is None else velocity_sigma_m_s
        if offset_sigma_m < 0 or sigma_v < 0:
            raise UsageError(f"uncertainties must not be negative, got {offset_sigma_m}, {sigma_v}.")
        self.settings = settings
        self._walk = (VELOCITY_WALK * settings.max_velocity_m_s) ** 2 / 3600.0
        self._time_s = start.time_s
        # Rows: offset, velocity; columns: x, y.  Both axes share one covariance.
        self._state: npt.NDArray[np.float64] = np.array(
            [[start.offset_x_m, start.offset_y_m], [start.velocity_x_m_s, start.velocity_y_m_s]]
        )
        self._covariance: npt.NDArray[np.float64] = np.diag([offset_sigma_m**2, sigma_v**2])
        self._refused: list[tuple[float, npt.NDArray[np.float64]]] = []
        self.accepted = 0
        self.untold = 0
        """Registrations that could not tell."""
        self.implausible = 0
        """Registrations that were refused because of the velocity they imply."""
        self.jumps = 0

    def transform(self, time_s: float | None = None) -> Transform:
        """The transform in force; with ``time_s`` its offset is brought forward to that time."""
        at = self._time_s if time_s is None else time_s
        (ox, oy), (vx, vy) = self._state
        dt = at - self._time_s
        return Transform(
            offset_x_m=float(ox + vx * dt),
            offset_y_m=float(oy + vy * dt),
            velocity_x_m_s=float(vx),
            velocity_y_m_s=float(vy),
            time_s=at,
        )

    def uncertainty_m(self, time_s: float) -> float:
        """Standard deviation of the offset predicted for ``time_s`` along one axis (m)."""
        return math.sqrt(float(self._predicted(time_s)[0, 0]))

    def anchor(self, reference: Placed) -> Transform:
        """A new reference frame: by definition the offset it was taken with is right at its time.

        Sample coordinates of everything measured from here on are those of this frame; the velocity and
        its uncertainty stay.  Returns the transform in force.
        """
        variance = float(self._predicted(reference.time_s)[1, 1]) if self.accepted else None
        self._state[0] = self._offset_of(reference)
        self._covariance = np.diag([0.0, float(self._covariance[1, 1]) if variance is None else variance])
        self._time_s = reference.time_s
        self._refused.clear()
        return self.transform()

    def expected_shift(self, frame: Placed, reference: Placed) -> tuple[float, float, float]:
        """Shift (x, y in the frame's axes) and its uncertainty that the model expects: for ``register``."""
        predicted = self.transform(frame.time_s)
        there = reference.transform
        dt = reference.time_s - there.time_s
        x = predicted.offset_x_m - (there.offset_x_m + there.velocity_x_m_s * dt)
        y = predicted.offset_y_m - (there.offset_y_m + there.velocity_y_m_s * dt)
        x -= frame.centre_x_m - reference.centre_x_m
        y -= frame.centre_y_m - reference.centre_y_m
        x, y = _turn(x, y, -frame.angle_rad)
        return x, y, math.hypot(self.uncertainty_m(frame.time_s), MINIMUM_SIGMA_M)

    def observe(self, registration: Registration, frame: Placed, reference: Placed) -> DriftMeasured:
        """Take a registration of ``frame`` against ``reference`` into account, or refuse it.

        Returns:
            The journal's record; its transform is the one in force from here on.

        Raises:
            UsageError: the frames are turned against each other.
        """
        if not math.isclose(frame.angle_rad, reference.angle_rad, abs_tol=1e-9):
            raise UsageError(
                f"frames at {frame.angle_rad} and {reference.angle_rad} rad cannot be compared.",
                "Take the reference frame at the reference's angle.",
            )
        shift = _turn(registration.shift_x_m, registration.shift_y_m, frame.angle_rad)
        accepted, note = self._judge(registration, shift, frame, reference)
        return DriftMeasured(
            frame_job=frame.job_id,
            reference_job=reference.job_id,
            shift_x_m=shift[0],
            shift_y_m=shift[1],
            confidence=registration.confidence,
            accepted=accepted,
            note=note,
            transform=self.transform(),
        )

    def due(self, spectra_since: int, now_s: float, patch_width_m: float) -> str:
        """Why a reference frame is due now, or "" if none is.

        ``spectra_since`` counts spectra since the last reference frame, whatever its outcome was.
        """
        every = self.settings.every
        if every == 0 or spectra_since == 0:
            return ""
        if spectra_since >= every:
            return f"{spectra_since} spectra since the last reference frame"
        sigma = self.uncertainty_m(max(now_s, self._time_s))
        if sigma > DUE_SHARE * patch_width_m:
            return f"position uncertain by {sigma * 1e9:.2g} nm, over {DUE_SHARE:.0%} of the patch"
        return ""

    def _judge(
        self, registration: Registration, shift: tuple[float, float], frame: Placed, reference: Placed
    ) -> tuple[bool, str]:
        if registration.verdict == "cannot tell":
            self.untold += 1
            return False, f"cannot tell: {registration.note}"
        if registration.confidence < self.settings.minimum_confidence:
            self.untold += 1
            floor = self.settings.minimum_confidence
            return False, f"cannot tell: confidence {registration.confidence:.2f} is below {floor:.2f}"
        dt = frame.time_s - self._time_s
        if dt < 0:
            self.untold += 1
            return False, f"frame is {-dt:.3g} s older than the model: not used"
        there = self._offset_of(reference)
        centres = np.array([frame.centre_x_m - reference.centre_x_m, frame.centre_y_m - reference.centre_y_m])
        offset = there + centres + np.array(shift)
        sigma = max(registration.uncertainty_m, MINIMUM_SIGMA_M)
        speed = self._implied_speed(offset, dt, sigma)
        if speed <= self.settings.max_velocity_m_s:
            surprise = self._update(offset, sigma, frame.time_s)
            self._refused.clear()
            return True, f"{registration.note}; surprise {surprise:.1f} sigma"
        self.implausible += 1
        limit = self.settings.max_velocity_m_s
        note = f"implausible: needs at least {speed * 1e9:.3g} nm/s, allowed {limit * 1e9:.3g} nm/s"
        if self._is_jump(offset, frame.time_s):
            self.jumps += 1
            self._jump(offset, sigma, frame.time_s)
            return True, f"jump: {JUMP_AFTER} shifts in a row agree on a place the drift cannot have reached"
        return False, f"{note} ({self.implausible} so far)"

    @staticmethod
    def _offset_of(reference: Placed) -> npt.NDArray[np.float64]:
        t = reference.transform
        dt = reference.time_s - t.time_s
        return np.array([t.offset_x_m + t.velocity_x_m_s * dt, t.offset_y_m + t.velocity_y_m_s * dt])

    def _implied_speed(self, offset: npt.NDArray[np.float64], dt: float, sigma: float) -> float:
        """Least speed since the last accepted frame that explains ``offset``, three sigma granted (m/s)."""
        distance = float(np.hypot(*(offset - self._state[0])))
        granted = 3 * math.hypot(sigma, math.sqrt(float(self._covariance[0, 0])))
        excess = max(distance - granted, 0.0)
        if excess == 0.0:
            return 0.0
        return excess / dt if dt > 0 else math.inf

    def _predicted(self, time_s: float) -> npt.NDArray[np.float64]:
        dt = max(time_s - self._time_s, 0.0)
        step = np.array([[1.0, dt], [0.0, 1.0]])
        walk = self._walk * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        covariance: npt.NDArray[np.float64] = step @ self._covariance @ step.T + walk
        return covariance

    def _update(self, offset: npt.NDArray[np.float64], sigma: float, time_s: float) -> float:
        """Kalman's step; returns the innovation in sigma (root mean square of both axes)."""
        dt = time_s - self._time_s
        predicted = np.stack([self._state[0] + dt * self._state[1], self._state[1]])
        covariance = self._predicted(time_s)
        innovation = offset - predicted[0]
        square = float(innovation @ innovation) / 2
        surprise = math.sqrt(square / (covariance[0, 0] + sigma**2))
        if surprise > SURPRISE_SIGMA and dt > 0:
            # The velocity has changed more than its walk allows: let the new value in.
            spread = square / SURPRISE_SIGMA**2
            covariance = covariance + (spread / dt**2) * np.array([[dt**2, dt], [dt, 1.0]])
        gain = covariance[:, 0] / (covariance[0, 0] + sigma**2)
        self._state = predicted + np.outer(gain, innovation)
        kept = np.eye(2) - np.outer(gain, [1.0, 0.0])
        # Joseph's form stays positive whatever the rounding.
        self._covariance = kept @ covariance @ kept.T + sigma**2 * np.outer(gain, gain)
        self._limit_velocity()
        self._time_s = time_s
        self.accepted += 1
        return surprise

    def _limit_velocity(self) -> None:
        """A fitted velocity beyond the largest is not fed forward: it is set aside until it is measured."""
        if float(np.hypot(*self._state[1])) > self.settings.max_velocity_m_s:
            self._state[1] = 0.0
            self._covariance[1, 1] = (self.settings.max_velocity_m_s / 3) ** 2
            self._covariance[0, 1] = self._covariance[1, 0] = 0.0

    def _is_jump(self, offset: npt.NDArray[np.float64], time_s: float) -> bool:
        limit = self.settings.max_velocity_m_s
        if self._refused:
            then, where = self._refused[-1]
            reach = limit * max(time_s - then, 0.0) + 3 * MINIMUM_SIGMA_M
            if float(np.hypot(*(offset - where))) > reach:
                self._refused.clear()
        self._refused.append((time_s, offset))
        return len(self._refused) >= JUMP_AFTER

    def _jump(self, offset: npt.NDArray[np.float64], sigma: float, time_s: float) -> None:
        """Take over a new place; the velocity's estimate survives with its prior uncertainty."""
        self._state[0] = offset
        variance = max(float(self._covariance[1, 1]), (self.settings.max_velocity_m_s / 10) ** 2)
        self._covariance = np.diag([sigma**2, variance])
        self._time_s = time_s
        self._refused.clear()
        self.accepted += 1


def _turn(x: float, y: float, angle_rad: float) -> tuple[float, float]:
    """Rotate counter-clockwise."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return c * x - s * y, s * x + c * y
