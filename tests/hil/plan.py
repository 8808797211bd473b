"""What is measured where: chosen once from the options, inside the limits, and the same for every test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.gateway.interlocks import check_recipe, feedback_off_s
from protocols.errors import ConfigError, LimitError
from protocols.files.limits_toml import Limits
from protocols.files.quantities import format_place, format_quantity
from protocols.instrument.driver import DriverInfo
from protocols.messages.recipes import Engage, Frame, LockIn, Recipe, SpectrumRecipe, Sweep

POINTS = 101
DWELL_S = 2e-3
LONG_SWEEP_S = 20.0
"""A sweep in whose middle something happens; shorter where the limit on time with feedback off says so."""
PIXEL_MULTIPLE = 16


@dataclass(frozen=True)
class Choices:
    """What the person at the microscope chose; SI."""

    bias_v: float = 0.5
    setpoint_a: float = 50e-12
    frame_m: float = 20e-9
    line_time_s: float = 0.3
    pixels: int = 64
    settle_s: float = 0.5
    drift_s: float = 60.0
    repeats: int = 6
    """Sweeps of the repeatability: enough for a scatter, few enough for a sample that drifts."""
    trials: int = 10
    lockin: LockIn | None = None


@dataclass(frozen=True)
class Plan:
    """Every recipe that the tests ask for when they want it carried out."""

    choices: Choices
    limits: Limits
    info: DriverInfo
    x_m: float
    y_m: float
    """Where the tip stood when the tests began: everything happens about there."""

    def engage(self, bias_v: float | None = None) -> Engage:
        """From withdrawn to tunneling."""
        c = self.choices
        return Engage(bias_v=bias_v or c.bias_v, setpoint_a=c.setpoint_a, settle_s=c.settle_s)

    def frame(self, purpose: str = "survey", pixels: int | None = None) -> Frame:
        """A topograph about the place where the tip stands."""
        c = self.choices
        count = pixels or c.pixels
        return Frame(
            centre_x_m=self.x_m,
            centre_y_m=self.y_m,
            width_m=c.frame_m,
            height_m=c.frame_m,
            pixels=count,
            lines=count,
            bias_v=c.bias_v,
            setpoint_a=c.setpoint_a,
            line_time_s=c.line_time_s,
            purpose=purpose,
        )

    def sweep(self, **changes: float | int | bool | LockIn | None) -> Sweep:
        """One spectrum from the imaging bias to a quarter of it on the other side, there and back."""
        fields: dict[str, object] = {
            "stabilise_bias_v": self.choices.bias_v,
            "stabilise_current_a": self.choices.setpoint_a,
            "settle_s": min(self.choices.settle_s, self.limits.settle_time_max),
            "z_offset_m": 0.0,
            "start_v": self.choices.bias_v,
            "stop_v": -0.25 * self.choices.bias_v,
            "points": POINTS,
            "dwell_s": DWELL_S,
            "backward": True,
            "lockin": self.choices.lockin,
        }
        spectrum = SpectrumRecipe(**{**fields, **changes})  # type: ignore[arg-type]
        return Sweep(x_m=self.x_m, y_m=self.y_m, spectrum=spectrum)

    def long_sweep(self) -> Sweep:
        """A sweep that lasts until something happens."""
        allowed = 0.5 * self.limits.feedback_off_time_max
        drift = max(abs(self.info.vertical_drift_m_s), self.limits.vertical_drift_assumed)
        if drift:
            allowed = min(allowed, 0.5 * self.limits.feedback_off_drift_max / drift)
        seconds = min(LONG_SWEEP_S, allowed)
        return self.sweep(
            dwell_s=seconds / POINTS, backward=False, stop_v=0.5 * self.choices.bias_v, lockin=None
        )

    def recipes(self) -> tuple[Recipe, ...]:
        """Everything above, for a check before anything moves."""
        return self.engage(), self.frame(), self.sweep(), self.long_sweep()

    def check(self) -> None:
        """See that nothing of it is outside the limits.

        Raises:
            ConfigError: what is, and which option changes it.
        """
        try:
            for recipe in self.recipes():
                check_recipe(recipe, self.limits, self.info)
        except LimitError as outside:
            raise ConfigError(
                f"the tests as chosen are outside the limits: {outside.text}",
                "Choose another --bias, --setpoint, --frame-size or --line-time, or stand elsewhere.",
            ) from outside

    def seconds(self) -> float:
        """Instrument seconds of the measurements, roughly."""
        frame = 2.0 * self.choices.pixels * self.choices.line_time_s
        sweeps = self.choices.repeats * (
            feedback_off_s(self.sweep().spectrum, self.limits) + self.choices.settle_s
        )
        return 2.0 * frame + max(self.choices.drift_s, 2.0 * frame) + sweeps

    def __str__(self) -> str:
        c = self.choices
        return (
            f"{format_quantity(c.bias_v, 'V')}, {format_quantity(c.setpoint_a, 'A')}, frames of "
            f"{format_quantity(c.frame_m, 'm')} with {c.pixels} lines of "
            f"{format_quantity(c.line_time_s, 's')} about {format_place(self.x_m, self.y_m)}"
        )


def whole_pixels(pixels: int, step: int) -> int:
    """The next number of pixels that the electronics take."""
    return math.ceil(pixels / step) * step
