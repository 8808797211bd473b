"""What an operator can set at the electronics, and the world obeys.

Changed only under the world's lock.  The two doors write here; the world, its motions and its frames read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim_hardware.electronics import ElectronicsSettings
from sim_hardware.feedback import FeedbackSettings


@dataclass(frozen=True)
class GainRange:
    """One range of the preamplifier: V/A, bandwidth (Hz), and amplifier noise (A per root Hz)."""

    name: str
    gain_v_per_a: float
    bandwidth_hz: float
    noise_a_per_sqrt_hz: float

    @property
    def rail_a(self) -> float:
        """Largest current: 10 V at the output."""
        return 10.0 / self.gain_v_per_a


GAIN_RANGES: tuple[GainRange, ...] = (
    GainRange("LN 10^7", 1e7, 50e3, 1.3e-13),
    GainRange("LN 10^8", 1e8, 7e3, 1.3e-14),
    GainRange("LN 10^9", 1e9, 1.5e3, 4.3e-15),
    GainRange("LN 10^10", 1e10, 300.0, 1.8e-15),
)
"""As low-noise preamplifiers have them; higher gain costs bandwidth and range."""
USUAL_RANGE = 2


@dataclass
class ControllerSettings:
    """The Z-controller: ``z = P e + (P / T) integral e dt`` with e the (logarithmic) error of the current.

    ``proportional_m``: m per unit of error (positive: too much current raises the tip; a negative one is the
    wrong sign); ``time_constant_s``: T.
    """

    proportional_m: float
    time_constant_s: float
    logarithmic: bool = True
    rate_hz: float = 20e3
    switch_off_delay_s: float = 0.0
    tip_lift_m: float = 0.0
    home_m: float = 0.0
    home_relative: bool = False
    limits_enabled: bool = False
    z_low_m: float = -250e-9
    """User's limits, used while enabled."""
    z_high_m: float = 250e-9

    @property
    def integral_m_s(self) -> float:
        """I = P / T: m/s per unit of error."""
        return self.proportional_m / self.time_constant_s


@dataclass
class SafeTip:
    """Withdraws by itself as soon as |I| passes the threshold (A), while switched on."""

    on: bool = False
    threshold_a: float = 5e-9
    auto_recovery: bool = False
    auto_pause_scan: bool = False
    tripped: bool = False


@dataclass
class DriftCompensation:
    """A velocity (m/s) of the piezo that follows the sample's drift, limited to a share of the range."""

    on: bool = False
    velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    since_s: float = 0.0
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What has been compensated up to ``since_s``."""
    saturation: float = 0.1

    def at(self, time_s: float) -> tuple[float, float, float]:
        """Offset (m) at an instrument time."""
        if not self.on:
            return self.offset_m
        passed = max(0.0, time_s - self.since_s)
        x, y, z = (o + v * passed for o, v in zip(self.offset_m, self.velocity_m_s, strict=True))
        return x, y, z

    def change(self, now_s: float, on: bool, velocity_m_s: tuple[float, float, float]) -> None:
        """Switch it or change its velocity; what was compensated stays, as a position does not jump."""
        self.offset_m = self.at(now_s)
        self.since_s, self.on, self.velocity_m_s = now_s, on, velocity_m_s


@dataclass
class Controls:
    """See the module's text; ``slope`` is the tilt compensation dz/dx, dz/dy."""

    controller: ControllerSettings
    withdraw_m_s: float
    safe_tip: SafeTip = field(default_factory=SafeTip)
    drift: DriftCompensation = field(default_factory=DriftCompensation)
    gain_index: int = USUAL_RANGE
    travel_m_s: float = 1e-6
    slope: tuple[float, float] = (0.0, 0.0)
    lockin_order: int = 1
    coarse_steps: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Steps of the coarse motor in x, y, z since the start."""
    coarse_step_m: tuple[float, float, float] = (100e-9, 100e-9, 50e-9)

    @property
    def gain(self) -> GainRange:
        """The preamplifier's present range."""
        return GAIN_RANGES[self.gain_index]

    def in_range(self, given: ElectronicsSettings) -> ElectronicsSettings:
        """Preamplifier and noise, given for the usual range, in the present one."""
        usual, now = GAIN_RANGES[USUAL_RANGE], self.gain
        if now is usual:
            return given
        return replace(
            given,
            rail_a=given.rail_a * now.rail_a / usual.rail_a,
            bandwidth_hz=given.bandwidth_hz * now.bandwidth_hz / usual.bandwidth_hz,
            noise_a_per_sqrt_hz=given.noise_a_per_sqrt_hz
            * now.noise_a_per_sqrt_hz
            / usual.noise_a_per_sqrt_hz,
        )

    def z_range(self, feedback: FeedbackSettings) -> tuple[float, float]:
        """Lowest and highest z (m) that the controller may reach: the piezo's, or the user's limits."""
        if not self.controller.limits_enabled:
            return feedback.z_low_m, feedback.z_high_m
        return (
            max(feedback.z_low_m, self.controller.z_low_m),
            min(feedback.z_high_m, self.controller.z_high_m),
        )


def usual_controls(feedback: FeedbackSettings, kappa: float) -> Controls:
    """Controls whose loop has the time constant of ``feedback`` over a surface that decays with ``kappa``.

    With a logarithmic error ``e = 2 kappa (target - z)`` an integral gain I closes the loop with the time
    constant 1 / (2 kappa I).
    """
    integral_m_s = 1.0 / (2.0 * kappa * feedback.time_constant_s)
    time_constant_s = 0.1e-3
    controller = ControllerSettings(
        proportional_m=integral_m_s * time_constant_s,
        time_constant_s=time_constant_s,
        z_low_m=feedback.z_low_m,
        z_high_m=feedback.z_high_m,
    )
    return Controls(controller=controller, withdraw_m_s=feedback.retract_m_s)
