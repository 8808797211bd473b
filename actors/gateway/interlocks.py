"""What the tip may not be asked to do.  Interlocks refuse, they never clamp.

``check_recipe`` looks at a recipe alone, when it is submitted; ``check_against_state`` looks at it together
with what the electronics say just before it is acted on.  Both raise LimitError whose details name the limit
as in the limits file, the value and what is allowed.  All quantities are SI, coordinates are the piezo's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from protocols.errors import LimitError
from protocols.files.limits_toml import LIMIT_FIELDS, Limits
from protocols.files.quantities import format_quantity
from protocols.instrument.driver import DriverInfo
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import (
    BiasFrames,
    Engage,
    Frame,
    Indentation,
    LockIn,
    Move,
    Park,
    Pulse,
    Recipe,
    ReferencePatch,
    SpectrumRecipe,
    Sweep,
)

MAXIMUM_POINTS = 100_000
"""Most samples of one sweep (points x repeats x directions): what one message can carry comfortably."""

MAXIMUM_BIASES = 64
"""Most images of one job."""


RAMP_V_S = 4.0
"""Electronics go to the start of a sweep and back at a pace of their own; no faster one is reckoned with."""


def require(
    limit: str, what: str, value: float, low: float | None, high: float | None, unit: str | None = None
) -> None:
    """Refuse ``value`` unless it is finite and in [low, high] (None: open).

    Raises:
        LimitError: ``details``: limit, value, low, high.
    """
    inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    if inside:
        return
    if unit is None:
        unit = LIMIT_FIELDS[limit].unit if limit in LIMIT_FIELDS else ""
    allowed = " and ".join(
        part
        for part in (
            f"at least {_text(low, unit)}" if low is not None else "",
            f"at most {_text(high, unit)}" if high is not None else "",
        )
        if part
    )
    raise LimitError(
        f"{what} is {_text(value, unit)}; the limit {limit} allows {allowed}.",
        limit=limit,
        value=value,
        low=low,
        high=high,
    )


def x_range(limits: Limits, info: DriverInfo) -> tuple[float, float]:
    """Where the tip may go in x (m): the limits, and the piezo's range less the margin."""
    return (
        max(limits.x_min, info.x_range_m[0] + limits.xy_margin),
        min(limits.x_max, info.x_range_m[1] - limits.xy_margin),
    )


def y_range(limits: Limits, info: DriverInfo) -> tuple[float, float]:
    """Where the tip may go in y (m)."""
    return (
        max(limits.y_min, info.y_range_m[0] + limits.xy_margin),
        min(limits.y_max, info.y_range_m[1] - limits.xy_margin),
    )


def bias_range(limits: Limits, info: DriverInfo) -> tuple[float, float]:
    """Allowed bias (V): the limits and what the electronics can do."""
    return max(limits.bias_min, info.bias_range_v[0]), min(limits.bias_max, info.bias_range_v[1])


def frame_corners(frame: Frame) -> Iterator[tuple[float, float]]:
    """The four corners of a frame (m), turned about its centre."""
    cosine, sine = math.cos(frame.angle_rad), math.sin(frame.angle_rad)
    for u in (-frame.width_m / 2, frame.width_m / 2):
        for v in (-frame.height_m / 2, frame.height_m / 2):
            yield frame.centre_x_m + u * cosine - v * sine, frame.centre_y_m + u * sine + v * cosine


def feedback_off_s(spectrum: SpectrumRecipe, limits: Limits) -> float:
    """Seconds with the controller held during a sweep: its samples, and the ramps to start and back."""
    ramps = abs(spectrum.start_v - spectrum.stabilise_bias_v)
    end_v = spectrum.start_v if spectrum.backward else spectrum.stop_v
    ramps += abs(end_v - spectrum.stabilise_bias_v)
    if not spectrum.backward:
        ramps += abs(spectrum.stop_v - spectrum.start_v) * (spectrum.repeats - 1)
    return spectrum.sweep_duration_s + ramps / min(limits.bias_slew, RAMP_V_S)


def duration_s(recipe: Recipe, limits: Limits) -> float:
    """Instrument seconds the recipe takes at most, without travel: for retry hints and for limits."""
    match recipe:
        case Sweep():
            return recipe.spectrum.settle_s + feedback_off_s(recipe.spectrum, limits)
        case Frame():
            return 2.0 * recipe.lines * recipe.line_time_s
        case ReferencePatch():
            return 2.0 * recipe.frame.lines * recipe.frame.line_time_s
        case BiasFrames():
            return 2.0 * recipe.frame.lines * recipe.frame.line_time_s * len(recipe.biases_v)
        case Pulse():
            return recipe.width_s
        case Indentation():
            return recipe.dwell_s
        case Engage():
            return recipe.settle_s
        case Move() | Park():
            return 0.0


def check_recipe(recipe: Recipe, limits: Limits, info: DriverInfo) -> None:
    """Refuse a recipe that would leave the limits, whatever the state of the microscope.

    Raises:
        LimitError: names the limit, the value and what is allowed.
    """
    match recipe:
        case Sweep():
            _check_place(recipe.x_m, recipe.y_m, limits, info)
            _check_spectrum(recipe.spectrum, limits, info)
        case Frame():
            _check_frame(recipe, limits, info, images=1)
            _check_feedback_bias(recipe.bias_v, None, limits, info, "the imaging bias")
        case ReferencePatch():
            _check_frame(recipe.frame, limits, info, images=1)
            _check_feedback_bias(recipe.frame.bias_v, None, limits, info, "the imaging bias")
        case BiasFrames():
            require("biases", "the number of biases", len(recipe.biases_v), 1, MAXIMUM_BIASES)
            _check_frame(recipe.frame, limits, info, images=len(recipe.biases_v))
            for bias in recipe.biases_v:
                _check_feedback_bias(bias, None, limits, info, "an imaging bias")
        case Move():
            _check_place(recipe.x_m, recipe.y_m, limits, info)
            if recipe.speed_m_s is not None:
                _require_positive("tip_speed", "the speed", recipe.speed_m_s, limits.tip_speed)
        case Pulse():
            _check_pulse(recipe, limits, info)
        case Indentation():
            _require_positive("indentation_max", "the depth", recipe.depth_m, limits.indentation_max)
            _check_bias(recipe.bias_v, limits, info, "the bias")
            _check_feedback_off(recipe.dwell_s, limits, info)
        case Engage():
            _check_feedback_bias(recipe.bias_v, None, limits, info, "the bias")
            _check_setpoint(recipe.setpoint_a, limits)
            require("settle_time_max", "the settling time", recipe.settle_s, 0.0, limits.settle_time_max)
        case Park():
            pass


def check_against_state(
    recipe: Recipe, limits: Limits, info: DriverInfo, state: InstrumentState, held_elsewhere_s: float = 0.0
) -> None:
    """Refuse a recipe that would leave the limits from where the microscope is now.

    ``held_elsewhere_s``: seconds with feedback off already needed before it (a change of polarity).

    Raises:
        LimitError: names the limit, the value and what is allowed.
    """
    match recipe:
        case Sweep():
            _check_polarity_change(state, recipe.spectrum.stabilise_bias_v, limits, info)
            if recipe.spectrum.z_offset_m:
                margin = limits.z_park_margin * (info.z_range_m[1] - info.z_range_m[0])
                low, high = info.z_range_m[0] + margin, info.z_range_m[1] - margin
                target = state.z_m + recipe.spectrum.z_offset_m
                require("z_park_margin", "z with the recipe's offset", target, low, high, "m")
        case Frame():
            _check_polarity_change(state, recipe.bias_v, limits, info)
        case ReferencePatch():
            _check_polarity_change(state, recipe.frame.bias_v, limits, info)
        case BiasFrames():
            _check_polarity_change(state, recipe.biases_v[0], limits, info)
            previous = recipe.biases_v[0]
            for bias in recipe.biases_v[1:]:
                if bias * previous < 0:
                    _check_feedback_off(abs(bias - previous) / limits.bias_slew, limits, info)
                previous = bias
        case Pulse() if not recipe.hold_z:
            if recipe.bias_v * state.bias_v < 0:
                raise LimitError(
                    f"a pulse of {_text(recipe.bias_v, 'V')} with feedback on at {_text(state.bias_v, 'V')} "
                    "would change polarity through 0 V (min_feedback_bias).",
                    "Set hold_z, or change the bias first.",
                    limit="min_feedback_bias",
                    value=recipe.bias_v,
                )
        case Engage() if not state.withdrawn:
            _check_polarity_change(state, recipe.bias_v, limits, info)
        case _:
            pass
    if held_elsewhere_s:
        _check_feedback_off(held_elsewhere_s, limits, info)


def _check_place(x_m: float, y_m: float, limits: Limits, info: DriverInfo) -> None:
    for axis, value, (low, high) in (
        ("x", x_m, x_range(limits, info)),
        ("y", y_m, y_range(limits, info)),
    ):
        require(f"{axis}_min" if value < low else f"{axis}_max", axis, value, low, high)


def _check_bias(bias_v: float, limits: Limits, info: DriverInfo, what: str, extra_v: float = 0.0) -> None:
    """``extra_v``: amplitude of a modulation on top, which must stay in range too."""
    low, high = bias_range(limits, info)
    name = "bias_min" if bias_v < 0 else "bias_max"
    require(name, what, bias_v, low + extra_v, high - extra_v)


def _check_feedback_bias(
    bias_v: float, lockin: LockIn | None, limits: Limits, info: DriverInfo, what: str
) -> None:
    amplitude = lockin.amplitude_v if lockin else 0.0
    _check_bias(bias_v, limits, info, what, amplitude)
    least = limits.min_feedback_bias + amplitude
    require("min_feedback_bias", f"|{what.removeprefix('the ')}|", abs(bias_v), least, None)


def _check_setpoint(setpoint_a: float, limits: Limits) -> None:
    name = "setpoint_min" if setpoint_a < limits.setpoint_min else "setpoint_max"
    require(name, "the setpoint", setpoint_a, limits.setpoint_min, limits.setpoint_max)


def _check_feedback_off(seconds: float, limits: Limits, info: DriverInfo) -> None:
    what = "the time with feedback off"
    require("feedback_off_time_max", what, seconds, 0.0, limits.feedback_off_time_max)
    drift = seconds * max(abs(info.vertical_drift_m_s), limits.vertical_drift_assumed)
    what = "the vertical drift predicted with feedback off"
    require("feedback_off_drift_max", what, drift, 0.0, limits.feedback_off_drift_max)


def _check_polarity_change(state: InstrumentState, bias_v: float, limits: Limits, info: DriverInfo) -> None:
    """Going to the other polarity needs feedback off for as long as the ramp takes."""
    if state.withdrawn or not state.feedback or state.bias_v * bias_v > 0:
        return
    _check_feedback_off(abs(bias_v - state.bias_v) / limits.bias_slew, limits, info)


def _check_lockin(lockin: LockIn) -> None:
    for what, value, unit in (
        ("the lock-in's amplitude", lockin.amplitude_v, "V"),
        ("the lock-in's frequency", lockin.frequency_hz, "Hz"),
        ("the lock-in's time constant", lockin.time_constant_s, "s"),
    ):
        require("lockin", what, value, 0.0, None, unit)


def _check_spectrum(spectrum: SpectrumRecipe, limits: Limits, info: DriverInfo) -> None:
    lockin = spectrum.lockin
    amplitude = 0.0
    if lockin:
        _check_lockin(lockin)
        amplitude = lockin.amplitude_v
    _check_feedback_bias(spectrum.stabilise_bias_v, lockin, limits, info, "the stabilisation bias")
    _check_setpoint(spectrum.stabilise_current_a, limits)
    require("settle_time_max", "the settling time", spectrum.settle_s, 0.0, limits.settle_time_max)
    _check_bias(spectrum.start_v, limits, info, "the start of the sweep", amplitude)
    _check_bias(spectrum.stop_v, limits, info, "the stop of the sweep", amplitude)
    samples = spectrum.points * spectrum.repeats * (2 if spectrum.backward else 1)
    require("points", "the number of points", spectrum.points, 2, MAXIMUM_POINTS)
    require("points", "the number of repeats", spectrum.repeats, 1, MAXIMUM_POINTS)
    require("points", "the number of samples", samples, 2, MAXIMUM_POINTS)
    _require_positive("feedback_off_time_max", "the dwell", spectrum.dwell_s, limits.feedback_off_time_max)
    rate = abs(spectrum.stop_v - spectrum.start_v) / ((spectrum.points - 1) * spectrum.dwell_s)
    require("bias_slew", "the slew of the sweep", rate, 0.0, limits.bias_slew)
    offset_toward = -spectrum.z_offset_m
    require(
        "z_offset_toward_max", "the offset toward the sample", offset_toward, None, limits.z_offset_toward_max
    )
    _check_feedback_off(feedback_off_s(spectrum, limits), limits, info)


def _check_frame(frame: Frame, limits: Limits, info: DriverInfo, images: int) -> None:
    for what, value in (("the width", frame.width_m), ("the height", frame.height_m)):
        _require_positive("x_max", what, value, info.x_range_m[1] - info.x_range_m[0] + 1.0)
    require("angle", "the angle", frame.angle_rad, -2 * math.pi, 2 * math.pi, "rad")
    for x, y in frame_corners(frame):
        _check_place(x, y, limits, info)
    for what, count in (("the number of pixels", frame.pixels), ("the number of lines", frame.lines)):
        require("frame_pixels_max", what, count, 1, limits.frame_pixels_max)
    _check_pixels(frame.pixels, info.pixel_step)
    _require_positive("frame_time_max", "the time of a line", frame.line_time_s, limits.frame_time_max)
    total = 2.0 * frame.lines * frame.line_time_s * images
    require("frame_time_max", "the time of the frame", total, 0.0, limits.frame_time_max)
    require("tip_speed", "the speed of the scan", frame.width_m / frame.line_time_s, 0.0, limits.tip_speed)
    _check_setpoint(frame.setpoint_a, limits)


def _check_pixels(pixels: int, step: int) -> None:
    if pixels % step == 0:
        return
    below = step * max(1, pixels // step)
    raise LimitError(
        f"{pixels} pixels per line: these electronics take multiples of {step} only.",
        f"Take {below} or {below + step}.",
        limit="pixels",
        value=pixels,
    )


def _check_pulse(pulse: Pulse, limits: Limits, info: DriverInfo) -> None:
    largest = min(limits.pulse_bias_max, info.bias_range_v[1], -info.bias_range_v[0])
    require("pulse_bias_max", "|the bias of the pulse|", abs(pulse.bias_v), 0.0, largest)
    _require_positive("pulse_width_max", "the width of the pulse", pulse.width_s, limits.pulse_width_max)
    if pulse.hold_z:
        _check_feedback_off(pulse.width_s, limits, info)
    else:
        what = "|bias of a pulse with feedback on|"
        require("min_feedback_bias", what, abs(pulse.bias_v), limits.min_feedback_bias, None)


def _require_positive(limit: str, what: str, value: float, high: float) -> None:
    require(limit, what, value, math.nextafter(0.0, 1.0), high)


def _text(value: float | None, unit: str) -> str:
    if value is None:
        return "?"
    return format_quantity(value, unit) if unit and math.isfinite(value) else f"{value:g}"
