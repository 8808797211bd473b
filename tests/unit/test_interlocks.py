"""Interlocks refuse and never clamp: no accepted request lies outside the limits, and refusals name the
limit."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from fake_driver import FakeElectronics
from gateway_parts import FRAME, SPECTRUM, shipped_limits, sweep_at
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway.interlocks import (
    RAMP_V_S,
    check_against_state,
    check_recipe,
    duration_s,
    feedback_off_s,
    frame_corners,
)
from protocols.errors import LimitError
from protocols.messages.recipes import (
    BiasFrames,
    Engage,
    Indentation,
    LockIn,
    Move,
    Park,
    Pulse,
    Recipe,
    ReferencePatch,
)

LIMITS = shipped_limits()
INFO = FakeElectronics().info
TUNNELING = msgspec.structs.replace(
    FakeElectronics().state(), feedback=True, withdrawn=False, bias_v=0.5, setpoint_a=1e-10, z_m=0.0
)

EDGE = 1e-6 - LIMITS.xy_margin
"""Where x and y end: the piezo's range less the margin."""

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-2e-6, 2e-6),
    st.floats(-6, 6),
    st.floats(0, 1e-7),
    st.sampled_from([0.0, -0.0, EDGE, -EDGE, 4.0, -4.0, 0.01, 5e-9, 1e-12]),
)
positive = st.one_of(numbers, st.floats(1e-4, 1.0), st.floats(1e-9, 1e-6))
counts = st.integers(-2, 3000)


@st.composite
def spectra(draw: Any) -> Any:
    """Spectra of all sorts, most of them wrong somewhere."""
    lockin = draw(
        st.none() | st.builds(LockIn, amplitude_v=positive, frequency_hz=positive, time_constant_s=positive)
    )
    return msgspec.structs.replace(
        SPECTRUM,
        **{
            name: draw(numbers if name in {"z_offset_m"} else positive | st.just(getattr(SPECTRUM, name)))
            for name in draw(
                st.sets(
                    st.sampled_from(
                        [
                            "stabilise_bias_v",
                            "stabilise_current_a",
                            "settle_s",
                            "z_offset_m",
                            "start_v",
                            "stop_v",
                            "dwell_s",
                        ]
                    )
                )
            )
        },
        points=draw(counts),
        repeats=draw(st.integers(-1, 50)),
        backward=draw(st.booleans()),
        lockin=lockin,
    )


def inside(value: float, low: float, high: float) -> bool:
    """Finite and in the closed range."""
    return math.isfinite(value) and low <= value <= high


def accepted(recipe: Recipe) -> bool:
    """Whether the interlocks let it pass."""
    try:
        check_recipe(recipe, LIMITS, INFO)
    except LimitError as refused:
        assert refused.details["limit"]
        assert str(refused.details["limit"]) in refused.text
        return False
    return True


@given(x=numbers, y=numbers, spectrum=spectra())
@settings(max_examples=300)
def test_no_accepted_sweep_lies_outside(x: float, y: float, spectrum: Any) -> None:
    """Place, biases with modulation, setpoint, slew, offset, and time and drift with feedback off are in
    range."""
    from protocols.messages.recipes import Sweep

    if not accepted(Sweep(x_m=x, y_m=y, spectrum=spectrum)):
        return
    amplitude = spectrum.lockin.amplitude_v if spectrum.lockin else 0.0
    assert inside(x, -EDGE, EDGE)
    assert inside(y, -EDGE, EDGE)
    for bias in (spectrum.start_v, spectrum.stop_v, spectrum.stabilise_bias_v):
        assert inside(bias - amplitude, -4, 4)
        assert inside(bias + amplitude, -4, 4)
    assert abs(spectrum.stabilise_bias_v) - amplitude >= LIMITS.min_feedback_bias * (1 - 1e-9)
    assert inside(spectrum.stabilise_current_a, 1e-12, 5e-9)
    assert inside(-spectrum.z_offset_m, -math.inf, LIMITS.z_offset_toward_max)
    assert spectrum.points >= 2
    assert spectrum.repeats >= 1
    rate = abs(spectrum.stop_v - spectrum.start_v) / (spectrum.points - 1) / spectrum.dwell_s
    assert rate <= LIMITS.bias_slew * (1 + 1e-9)
    assert inside(spectrum.settle_s, 0, LIMITS.settle_time_max)
    held = spectrum.sweep_duration_s
    assert held <= LIMITS.feedback_off_time_max
    assert held * INFO.vertical_drift_m_s <= LIMITS.feedback_off_drift_max


frame_changes = st.fixed_dictionaries(
    {},
    optional={
        "centre_x_m": numbers,
        "centre_y_m": numbers,
        "width_m": positive,
        "height_m": positive,
        "angle_rad": numbers,
        "pixels": counts,
        "lines": counts,
        "bias_v": numbers,
        "setpoint_a": positive,
        "line_time_s": positive,
    },
)


@given(changes=frame_changes, kind=st.sampled_from(["frame", "reference", "biases"]), bias=numbers)
@settings(max_examples=300)
def test_no_accepted_frame_lies_outside(changes: dict[str, Any], kind: str, bias: float) -> None:
    """All four corners after rotation, line speed, bias, setpoint and duration are in range."""
    frame = msgspec.structs.replace(FRAME, **changes)
    recipe: Recipe = frame
    biases: tuple[float, ...] = (frame.bias_v,)
    if kind == "reference":
        recipe = ReferencePatch(frame=frame)
    elif kind == "biases":
        biases = (0.5, bias)
        recipe = BiasFrames(frame=frame, biases_v=biases)
    if not accepted(recipe):
        return
    for x, y in frame_corners(frame):
        assert inside(x, -EDGE, EDGE)
        assert inside(y, -EDGE, EDGE)
    assert frame.width_m > 0
    assert frame.height_m > 0
    assert frame.width_m / frame.line_time_s <= LIMITS.tip_speed * (1 + 1e-9)
    for value in biases:
        assert inside(abs(value), LIMITS.min_feedback_bias, 4)
    assert inside(frame.setpoint_a, 1e-12, 5e-9)
    assert 1 <= frame.pixels <= LIMITS.frame_pixels_max
    assert 1 <= frame.lines <= LIMITS.frame_pixels_max
    assert duration_s(recipe, LIMITS) <= LIMITS.frame_time_max


@given(x=numbers, y=numbers, speed=st.none() | numbers)
def test_no_accepted_move_lies_outside(x: float, y: float, speed: float | None) -> None:
    """Place and speed are in range."""
    if accepted(Move(x_m=x, y_m=y, speed_m_s=speed)):
        assert inside(x, -EDGE, EDGE)
        assert inside(y, -EDGE, EDGE)
        assert speed is None or 0 < speed <= LIMITS.tip_speed


@given(bias=numbers, width=positive, hold=st.booleans())
def test_no_accepted_pulse_lies_outside(bias: float, width: float, hold: bool) -> None:
    """Height and width are in range; with feedback on the bias does not vanish."""
    if accepted(Pulse(bias_v=bias, width_s=width, hold_z=hold)):
        assert abs(bias) <= LIMITS.pulse_bias_max
        assert 0 < width <= LIMITS.pulse_width_max
        assert hold or abs(bias) >= LIMITS.min_feedback_bias


@given(depth=positive, bias=numbers, dwell=positive)
def test_no_accepted_indentation_lies_outside(depth: float, bias: float, dwell: float) -> None:
    """Depth, bias and time are in range."""
    if accepted(Indentation(depth_m=depth, bias_v=bias, dwell_s=dwell)):
        assert 0 < depth <= LIMITS.indentation_max
        assert inside(bias, -4, 4)
        assert inside(dwell, 0, LIMITS.feedback_off_time_max)


@given(bias=numbers, setpoint=positive, settle=positive)
def test_no_accepted_engage_lies_outside(bias: float, setpoint: float, settle: float) -> None:
    """Bias and setpoint are in range and the bias does not vanish."""
    if accepted(Engage(bias_v=bias, setpoint_a=setpoint, settle_s=settle)):
        assert inside(abs(bias), LIMITS.min_feedback_bias, 4)
        assert inside(setpoint, 1e-12, 5e-9)
        assert inside(settle, 0, LIMITS.settle_time_max)


@pytest.mark.parametrize(
    ("recipe", "limit"),
    [
        (sweep_at(x_m=2e-6), "x_max"),
        (sweep_at(y_m=-2e-6), "y_min"),
        (sweep_at(start_v=-5.0), "bias_min"),
        (sweep_at(stop_v=3.999), "bias_max"),
        (sweep_at(stabilise_bias_v=0.012), "min_feedback_bias"),
        (sweep_at(stabilise_current_a=6e-9), "setpoint_max"),
        (sweep_at(stabilise_current_a=1e-13), "setpoint_min"),
        (sweep_at(z_offset_m=-4e-10), "z_offset_toward_max"),
        (sweep_at(dwell_s=1e-3, points=3), "bias_slew"),
        (sweep_at(dwell_s=1.0, points=61), "feedback_off_time_max"),
        (msgspec.structs.replace(FRAME, centre_x_m=EDGE - 9e-9), "x_max"),
        (msgspec.structs.replace(FRAME, centre_x_m=EDGE - 11e-9, angle_rad=0.78), "x_max"),
        (msgspec.structs.replace(FRAME, line_time_s=0.005), "tip_speed"),
        (msgspec.structs.replace(FRAME, pixels=2000), "frame_pixels_max"),
        (msgspec.structs.replace(FRAME, line_time_s=1000.0), "frame_time_max"),
        (Move(x_m=0, y_m=0, speed_m_s=1.0), "tip_speed"),
        (Pulse(bias_v=5.0, width_s=0.01), "pulse_bias_max"),
        (Pulse(bias_v=1.0, width_s=1.0), "pulse_width_max"),
        (Indentation(depth_m=2e-9, bias_v=0.1, dwell_s=0.1), "indentation_max"),
        (Engage(bias_v=0.001, setpoint_a=1e-10), "min_feedback_bias"),
    ],
)
def test_refusals_name_the_limit_the_value_and_what_is_allowed(recipe: Recipe, limit: str) -> None:
    """Each limit is found by the request that breaks it."""
    with pytest.raises(LimitError) as refused:
        check_recipe(recipe, LIMITS, INFO)
    assert refused.value.details["limit"] == limit
    assert limit in refused.value.text
    assert "allows" in refused.value.text


def test_ordinary_requests_pass() -> None:
    """What a campaign asks is not refused."""
    for recipe in (
        sweep_at(),
        FRAME,
        ReferencePatch(frame=FRAME),
        BiasFrames(frame=FRAME, biases_v=(0.5, -0.5)),
        Move(x_m=1e-8, y_m=0),
        Pulse(bias_v=3.0, width_s=0.05),
        Indentation(depth_m=5e-10, bias_v=0.01, dwell_s=0.1),
        Engage(bias_v=0.5, setpoint_a=1e-10),
        Park(reason="done"),
    ):
        check_recipe(recipe, LIMITS, INFO)
        check_against_state(recipe, LIMITS, INFO, TUNNELING)


def test_drift_limits_the_time_with_feedback_off() -> None:
    """The same sweep passes with little vertical drift and is refused with much."""
    fast = msgspec.structs.replace(INFO, vertical_drift_m_s=1e-9)
    check_recipe(sweep_at(), LIMITS, INFO)
    with pytest.raises(LimitError) as refused:
        check_recipe(sweep_at(), LIMITS, fast)
    assert refused.value.details["limit"] == "feedback_off_drift_max"


def test_a_drift_is_reckoned_with_where_the_electronics_tell_none() -> None:
    """Electronics that do not say how fast Z drifts (0) count with the limits' own assumption."""
    silent = msgspec.structs.replace(INFO, vertical_drift_m_s=0.0)
    check_recipe(sweep_at(), shipped_limits(vertical_drift_assumed=0.0), silent)
    with pytest.raises(LimitError) as refused:
        check_recipe(sweep_at(), shipped_limits(vertical_drift_assumed=1e-9), silent)
    assert refused.value.details["limit"] == "feedback_off_drift_max"


def test_a_polarity_change_costs_time_with_feedback_off() -> None:
    """Going to the other polarity is refused when the ramp would take too long, and free while withdrawn."""
    slow = shipped_limits(bias_slew=0.4, feedback_off_time_max=2.0)
    recipe = msgspec.structs.replace(FRAME, bias_v=-0.5)
    with pytest.raises(LimitError) as refused:
        check_against_state(recipe, slow, INFO, TUNNELING)
    assert refused.value.details["limit"] == "feedback_off_time_max"
    check_against_state(
        recipe, slow, INFO, msgspec.structs.replace(TUNNELING, withdrawn=True, feedback=False)
    )
    check_against_state(recipe, slow, INFO, msgspec.structs.replace(TUNNELING, bias_v=-0.1))


def test_the_offset_is_checked_against_where_z_is() -> None:
    """An offset that would leave the Z range from here is refused."""
    near = msgspec.structs.replace(TUNNELING, z_m=-239.9e-9)
    with pytest.raises(LimitError) as refused:
        check_against_state(sweep_at(z_offset_m=-2e-10), LIMITS, INFO, near)
    assert refused.value.details["limit"] == "z_park_margin"


def test_ramps_count_as_time_with_feedback_off() -> None:
    """Going to the start of a sweep and back is part of the time without control."""
    spectrum = msgspec.structs.replace(SPECTRUM, stabilise_bias_v=0.5, start_v=-0.5, stop_v=0.5)
    assert math.isclose(feedback_off_s(spectrum, LIMITS), spectrum.sweep_duration_s + 1.0 / RAMP_V_S)
