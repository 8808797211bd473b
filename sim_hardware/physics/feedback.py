"""The Z-controller as it runs in the electronics: a PID at a fixed rate, on the current or its logarithm.

At tick n the controller sees the current through the preamplifier's low pass and sets the height::

    z_n = z_0 + Kp e_n + Ki dt (e_1 + ... + e_n) + Kd (e_n - e_{n-1}) / dt
    e = ln(|I| / setpoint)   or   e = (|I| - setpoint) / setpoint

so that too much current raises the tip: V. Luzny, Synthetic STM Imaging, slide "Feedback Control"; the closed
loop as K. J. Astrom and R. M. Murray, Feedback Systems, chapters on PID control and transfer functions.
Heights are in m above the surface's origin, positive away from it.  ``scan_lines`` runs many lines at once,
``scan_line_plain`` is the same loop as one writes it down; both give the same numbers to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError

Floats = npt.NDArray[np.float64]

LEAST_SHARE = 1e-6
"""A current below this share of the setpoint counts as this much, as a logarithmic amplifier's floor does."""


@dataclass(frozen=True)
class CurrentTable:
    """ln |I / A| of the pixels of scan lines at equally spaced heights.

    ``log_current`` (lines, pixels, heights), falling with height; ``low_m`` is the lowest height.  Linear in
    between; beyond both ends the last slope goes on.
    """

    low_m: float
    step_m: float
    log_current: Floats

    def __post_init__(self) -> None:
        if self.log_current.ndim != 3 or self.log_current.shape[2] < 2:
            raise UsageError(
                f"a current table has shape (lines, pixels, heights >= 2), not {self.log_current.shape}."
            )
        if not np.all(np.diff(self.log_current, axis=2) < 0.0):
            raise UsageError("the tabulated current does not fall with height everywhere.")

    @property
    def lines(self) -> int:
        """Number of lines."""
        return int(self.log_current.shape[0])

    @property
    def pixels(self) -> int:
        """Pixels in a line."""
        return int(self.log_current.shape[1])

    def log_at(self, z_m: Floats) -> tuple[Floats, Floats]:
        """ln |I / A| and its slope (1/m) with every pixel's tip at ``z_m`` (lines, pixels): same shape."""
        scaled = (z_m - self.low_m) / self.step_m
        left = np.clip(scaled.astype(np.intp), 0, self.log_current.shape[2] - 2)[..., None]
        below = np.take_along_axis(self.log_current, left, 2)[..., 0]
        rise = np.take_along_axis(self.log_current, left + 1, 2)[..., 0] - below
        return below + (scaled - left[..., 0]) * rise, rise / self.step_m


@dataclass(frozen=True)
class PidSettings:
    """The controller.

    ``proportional_m``: m per unit of error; ``integral_m_s``: m/s per unit of error; ``derivative_m_s``: m s
    per unit of error.  ``bandwidth_hz``: first-order low pass of the preamplifier; infinite is none.
    ``rail_a`` limits what the controller sees.  Heights stay within ``z_low_m`` to ``z_high_m``, where the
    integrator stops; ``slew_m_s`` limits the speed.
    """

    setpoint_a: float = 100e-12
    rate_hz: float = 20e3
    proportional_m: float = 2e-12
    integral_m_s: float = 40e-9
    derivative_m_s: float = 0.0
    logarithmic: bool = True
    bandwidth_hz: float = np.inf
    rail_a: float = 10e-9
    z_low_m: float = -250e-9
    z_high_m: float = 250e-9
    slew_m_s: float = np.inf

    @property
    def tick_s(self) -> float:
        """Time between two actions."""
        return 1.0 / self.rate_hz

    @property
    def smoothing(self) -> float:
        """Share of a new sample that passes the preamplifier's low pass within one tick."""
        return -math.expm1(-2.0 * math.pi * self.bandwidth_hz * self.tick_s)


@dataclass(frozen=True)
class LineScan:
    """What the controller recorded, pixel by pixel in scan order, at each pixel's last tick: (lines, pixels).

    ``current_a`` is the magnitude that the controller saw.
    """

    z_m: Floats
    current_a: Floats


def scan_lines(
    table: CurrentTable,
    settings: PidSettings,
    ticks_per_pixel: int,
    start_m: Floats | None = None,
    noise_a: Floats | None = None,
    slope_per_pixel_m: float = 0.0,
) -> LineScan:
    """Scan all lines at once, from pixel 0 to the last.

    The logarithm of the current is interpolated between pixels.  ``start_m`` (lines,): heights at pixel 0, by
    default where the setpoint flows.  ``noise_a`` (lines, pixels * ticks_per_pixel): added to the current.
    ``slope_per_pixel_m``: how much the surface rises from pixel to pixel (tilt, vertical drift).
    """
    s, tick = settings, settings.tick_s
    z = constant_current(table, s.setpoint_a)[:, 0] if start_m is None else np.array(start_m, dtype=float)
    seen = np.minimum(np.exp(_between(table, 0.0, z)), s.rail_a)
    integral = z.copy()
    before = _error(seen, s)
    integral -= s.proportional_m * before
    heights = np.empty((table.lines, table.pixels))
    recorded = np.empty((table.lines, table.pixels))
    # The tip reaches a pixel's centre at the pixel's last tick.
    for n in range(table.pixels * ticks_per_pixel):
        place = (n + 1) / ticks_per_pixel - 1.0
        current = np.exp(_between(table, max(place, 0.0), z - slope_per_pixel_m * place))
        if noise_a is not None:
            current = np.abs(current + noise_a[:, n])
        seen += s.smoothing * (np.minimum(current, s.rail_a) - seen)
        error = _error(seen, s)
        integral = np.clip(integral + s.integral_m_s * tick * error, s.z_low_m, s.z_high_m)
        wanted = integral + s.proportional_m * error + s.derivative_m_s * (error - before) / tick
        wanted = np.clip(wanted, s.z_low_m, s.z_high_m)
        z = np.clip(wanted, z - s.slew_m_s * tick, z + s.slew_m_s * tick)
        before = error
        if (n + 1) % ticks_per_pixel == 0:
            heights[:, n // ticks_per_pixel] = z
            recorded[:, n // ticks_per_pixel] = seen
    return LineScan(heights, recorded)


def _error(seen_a: Floats, settings: PidSettings) -> Floats:
    share = seen_a / settings.setpoint_a
    return np.log(np.maximum(share, LEAST_SHARE)) if settings.logarithmic else share - 1.0


def _between(table: CurrentTable, place: float, z_m: Floats) -> Floats:
    """ln |I| of all lines at a place between pixels: shape (lines,)."""
    left = min(int(place), table.pixels - 2) if table.pixels > 1 else 0
    right = min(left + 1, table.pixels - 1)
    share = place - left
    scaled = (z_m - table.low_m) / table.step_m
    low = np.clip(scaled.astype(np.intp), 0, table.log_current.shape[2] - 2)
    rows = np.arange(table.lines)
    below = _mixed(table, rows, left, right, low, share)
    above = _mixed(table, rows, left, right, low + 1, share)
    return np.asarray(below + (scaled - low) * (above - below))


def _mixed(
    table: CurrentTable,
    rows: npt.NDArray[np.intp],
    left: int,
    right: int,
    low: npt.NDArray[np.intp],
    share: float,
) -> Floats:
    first = table.log_current[rows, left, low]
    if share == 0.0:
        return np.asarray(first)
    return np.asarray(first * (1.0 - share) + table.log_current[rows, right, low] * share)


def scan_line_plain(
    table: CurrentTable,
    line: int,
    settings: PidSettings,
    ticks_per_pixel: int,
    start_m: float | None = None,
    noise_a: Floats | None = None,
    slope_per_pixel_m: float = 0.0,
) -> LineScan:
    """``scan_lines`` for one line as a plain loop of the formulas: shapes (1, pixels), noise (ticks,)."""
    s, tick = settings, settings.tick_s
    columns: list[list[float]] = table.log_current[line].tolist()

    def log_current(place: float, z: float) -> float:
        left = max(min(int(place), len(columns) - 2), 0)
        right = min(left + 1, len(columns) - 1)
        scaled = (z - table.low_m) / table.step_m
        low = min(max(int(scaled), 0), len(columns[0]) - 2)
        share, across = scaled - low, place - left
        here = columns[left][low] + share * (columns[left][low + 1] - columns[left][low])
        there = columns[right][low] + share * (columns[right][low + 1] - columns[right][low])
        return here + across * (there - here)

    def error_of(current: float) -> float:
        share = current / s.setpoint_a
        return math.log(max(share, LEAST_SHARE)) if s.logarithmic else share - 1.0

    one = CurrentTable(table.low_m, table.step_m, table.log_current[line : line + 1])
    z = float(constant_current(one, s.setpoint_a)[0, 0]) if start_m is None else start_m
    seen = min(math.exp(log_current(0.0, z)), s.rail_a)
    before = error_of(seen)
    integral = z - s.proportional_m * before
    heights, recorded = [], []
    for n in range(table.pixels * ticks_per_pixel):
        place = (n + 1) / ticks_per_pixel - 1.0
        current = math.exp(log_current(max(place, 0.0), z - slope_per_pixel_m * place))
        if noise_a is not None:
            current = abs(current + float(noise_a[n]))
        seen += s.smoothing * (min(current, s.rail_a) - seen)
        error = error_of(seen)
        integral = min(max(integral + s.integral_m_s * tick * error, s.z_low_m), s.z_high_m)
        wanted = integral + s.proportional_m * error + s.derivative_m_s * (error - before) / tick
        wanted = min(max(wanted, s.z_low_m), s.z_high_m)
        z = min(max(wanted, z - s.slew_m_s * tick), z + s.slew_m_s * tick)
        before = error
        if (n + 1) % ticks_per_pixel == 0:
            heights.append(z)
            recorded.append(seen)
    return LineScan(np.array([heights]), np.array([recorded]))


def constant_height(table: CurrentTable, z_m: float) -> Floats:
    """|I| (A) of an ideal constant-height image: shape (lines, pixels)."""
    value, _ = table.log_at(np.full(table.log_current.shape[:2], z_m))
    return np.asarray(np.exp(value))


def constant_current(table: CurrentTable, setpoint_a: float) -> Floats:
    """Height (m) of an ideal constant-current image, by Newton's method: shape (lines, pixels)."""
    start = np.full(table.log_current.shape[:2], table.low_m + 0.5 * table.step_m)
    return newton_height(table.log_at, setpoint_a, start)


def newton_height(
    log_at: Callable[[Floats], tuple[Floats, Floats]],
    setpoint_a: float,
    start_m: Floats,
    tolerance: float = 1e-9,
    iterations: int = 60,
) -> Floats:
    """Heights at which |I| is the setpoint, by Newton's method on ln |I|: shape of ``start_m``.

    ``log_at`` gives ln |I / A| and its slope (1/m) at heights; ``tolerance`` is relative to the setpoint.  On
    the logarithm the method converges from any height (on the current itself it creeps from below and jumps
    away from above: V. Luzny, slides "Idealized Constant Current Mode").

    Raises:
        UsageError: not there after so many iterations; the current does not fall with height.
    """
    z = np.array(start_m, dtype=np.float64)
    goal = math.log(setpoint_a)
    for _ in range(iterations):
        value, slope = log_at(z)
        miss = value - goal
        if float(np.abs(miss).max(initial=0.0)) <= tolerance:
            return z
        z -= miss / slope
    raise UsageError(
        f"no height gives {setpoint_a:g} A at {np.count_nonzero(np.abs(miss) > tolerance)} of {z.size} "
        f"places after {iterations} iterations.",
        "Look at the current there: it has to fall with height.",
    )


def loop_filter(settings: PidSettings, kappa: float) -> tuple[Floats, Floats]:
    """The closed loop from the surface's height to the tip's, as a digital filter (b, a) at the loop's rate.

    Over a surface with I ~ exp(-2 kappa d) the loop is linear for the logarithmic error without low pass, and
    for small errors otherwise.  With P(q) = Kp + Ki dt / (1 - 1/q) + Kd (1 - 1/q) / dt, the low pass
    F(q) = a / (1 - (1 - a) / q) and a tick's delay::

        z / surface = 2 kappa P F / (1 + 2 kappa P F / q)
    """
    s, tick, smoothing = settings, settings.tick_s, settings.smoothing
    difference = np.array([1.0, -1.0])
    controller = np.zeros(3)
    controller[:2] += s.proportional_m * difference
    controller[0] += s.integral_m_s * tick
    controller += s.derivative_m_s / tick * np.convolve(difference, difference)
    forward = 2.0 * kappa * smoothing * controller
    backward = np.convolve(difference, [1.0, smoothing - 1.0])
    denominator = np.concatenate([backward, [0.0]]) + np.concatenate([[0.0], forward])
    return forward, denominator


def loop_response(frequency_hz: Floats, settings: PidSettings, kappa: float) -> Floats:
    """|z / surface| of the continuous loop at frequencies well below the rate (any shape).

    L = 2 kappa (Kp + Ki / s + Kd s) / (1 + s / 2 pi B) and T = L / (1 + L), s = 2 pi i f; the delay of a tick
    is left out.  With integral gain alone the loop is a low pass of 2 kappa Ki / 2 pi Hz.
    """
    s = 2j * np.pi * np.asarray(frequency_hz)
    lowpass = 1.0 / (1.0 + s / (2.0 * np.pi * settings.bandwidth_hz))
    pid = settings.proportional_m + settings.integral_m_s / s + settings.derivative_m_s * s
    loop = 2.0 * kappa * pid * lowpass
    return np.asarray(np.abs(loop / (1.0 + loop)))
