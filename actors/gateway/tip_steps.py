"""The steps that jobs are made of: set bias and setpoint, travel, settle, end a modulation.

Every call that can move or switch something passes the gate; between calls a cancellation, a deadline or a
park is noticed.
"""

from __future__ import annotations

import math

from actors.gateway.job_run import JobRun
from protocols.errors import DriverError
from protocols.files.quantities import format_quantity
from protocols.messages.data import InstrumentState

FEEDBACK_SLEW_V_S = 5.0
"""Fastest ramp of the bias with feedback on: the controller must be able to follow."""


def require_set(run: JobRun, bias_v: float, setpoint_a: float) -> None:
    """Bias and setpoint read back as they were set.

    Raises:
        DriverError: they do not.
    """
    limits = run.apparatus.limits
    found = run.apparatus.read()
    off = abs(found.bias_v - bias_v) > limits.bias_tolerance
    if off or abs(found.setpoint_a - setpoint_a) > limits.setpoint_tolerance * setpoint_a:
        raise DriverError(
            f"bias and setpoint were set to {format_quantity(bias_v, 'V')}, "
            f"{format_quantity(setpoint_a, 'A')} and read back as {format_quantity(found.bias_v, 'V')}, "
            f"{format_quantity(found.setpoint_a, 'A')}."
        )


def go_to_bias(run: JobRun, bias_v: float, setpoint_a: float, state: InstrumentState) -> None:
    """Bias and setpoint with the tip tunneling; another polarity with feedback off in between.

    ``state`` is the last reading before it.

    Raises:
        DriverError: they do not read back as set, or the electronics refuse.
        TipParkedError, JobCutError: the job ends here.
    """
    driver, limits = run.apparatus.driver(), run.apparatus.limits
    run.go_on()
    run.acted = True
    run.expected.bias_v, run.expected.setpoint_a = bias_v, setpoint_a
    if state.feedback and state.bias_v * bias_v <= 0.0:
        with run.acting():
            driver.set_feedback(False)
            driver.set_bias(bias_v, limits.bias_slew)
            driver.set_setpoint(setpoint_a)
        require_set(run, bias_v, setpoint_a)
        with run.acting():
            driver.set_feedback(True)
        return
    with run.acting():
        driver.set_bias(bias_v, min(limits.bias_slew, FEEDBACK_SLEW_V_S))
    with run.acting():
        driver.set_setpoint(setpoint_a)


def travel(run: JobRun, x_m: float, y_m: float, speed_m_s: float, state: InstrumentState) -> InstrumentState:
    """Move in slices, from where ``state`` says; the outcome's travel time grows.  The reading at the end.

    Raises:
        DriverError: the electronics refuse, or do not answer.
        TipParkedError, JobCutError: the job ends here.
    """
    length = math.hypot(x_m - state.x_m, y_m - state.y_m)
    slices = max(1, math.ceil(length / speed_m_s / max(run.apparatus.slice_s, 1e-9)))
    for k in range(1, slices + 1):
        run.go_on()
        share = k / slices
        with run.acting():
            run.acted = True
            run.apparatus.driver().move(
                state.x_m + share * (x_m - state.x_m) if k < slices else x_m,
                state.y_m + share * (y_m - state.y_m) if k < slices else y_m,
                speed_m_s,
            )
    arrived = run.apparatus.read()
    run.outcome.travel_s += arrived.time_s - state.time_s
    run.expected.x_m, run.expected.y_m = x_m, y_m
    return arrived


def settle(run: JobRun, seconds: float) -> None:
    """Wait so many instrument seconds, in slices; the outcome's settling time grows.

    Raises:
        TipParkedError, JobCutError: the job ends here.
    """
    left = seconds
    while left > 0.0:
        run.go_on()
        part = min(left, run.apparatus.slice_s)
        run.apparatus.driver().settle(part)
        left -= part
    run.outcome.settle_s += seconds


def end_modulation(run: JobRun, state: InstrumentState) -> None:
    """Lock-in off, if ``state`` says that it is on.

    Raises:
        TipParkedError: the tip was parked meanwhile.
    """
    if state.lockin_on:
        with run.acting():
            run.apparatus.driver().set_lockin(None)
