"""Recipes: what the tip is asked to do, in piezo coordinates and SI units.

Conventions: bias is sample against tip (V); setpoint is |I| (A); positive z is away from the sample;
angles counter-clockwise (rad); arrays are [row, col] with row 0 at the lowest y and col 0 at the lowest x
of the frame's own axes, for both scan directions and senses.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from protocols.messages.base import Message


class LockIn(msgspec.Struct, frozen=True, kw_only=True):
    """Lock-in settings: amplitude (V, peak), frequency (Hz), time constant (s)."""

    amplitude_v: float
    frequency_hz: float
    time_constant_s: float


class SpectrumRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """The whole recipe of one bias spectrum, apart from where it is taken.

    The tip is stabilised with feedback on at (stabilise_bias_v, stabilise_current_a) for ``settle_s``,
    the controller is held, the tip moves by ``z_offset_m`` (positive away from the sample), the bias is
    swept from start to stop in ``points`` samples of ``dwell_s`` each (``repeats`` times, back again if
    ``backward``), the bias returns to the stabilisation value and the controller is switched on again.
    """

    stabilise_bias_v: float
    stabilise_current_a: float
    settle_s: float
    z_offset_m: float
    start_v: float
    stop_v: float
    points: int
    dwell_s: float
    repeats: int = 1
    backward: bool = False
    lockin: LockIn | None = None

    @property
    def sweep_duration_s(self) -> float:
        """Seconds with the controller held: all samples of all repeats, both ways if backward."""
        return self.points * self.dwell_s * self.repeats * (2 if self.backward else 1)


class Sweep(Message, frozen=True, kw_only=True):
    """Move to (x_m, y_m) in piezo coordinates and take one spectrum there."""

    x_m: float
    y_m: float
    spectrum: SpectrumRecipe


class Frame(Message, frozen=True, kw_only=True):
    """One constant-current frame, forward and backward, line by line.

    Pixels are measured at their centres: pixel j of a line lies at
    ``-width_m / 2 + (j + 0.5) * width_m / pixels`` along the fast axis of the frame, line i at the same
    expression with height and lines.  ``width_m`` is along the fast axis; ``line_time_s`` is one forward
    line; ``angle_rad`` turns the frame about its centre, counter-clockwise.  ``upward`` starts at the lowest
    row.  A reference patch is a small frame taken for registration: ``purpose = "reference"``.
    """

    centre_x_m: float
    centre_y_m: float
    width_m: float
    height_m: float
    angle_rad: float = 0.0
    pixels: int
    lines: int
    bias_v: float
    setpoint_a: float
    line_time_s: float
    upward: bool = True
    purpose: str = "survey"


class BiasFrames(Message, frozen=True, kw_only=True):
    """The same frame at several biases, one after the other."""

    frame: Frame
    biases_v: tuple[float, ...]


class ReferencePatch(Message, frozen=True, kw_only=True):
    """A small frame for registration (drift, or after an engage)."""

    frame: Frame


class Move(Message, frozen=True, kw_only=True):
    """Move the tip laterally with feedback on, at ``speed_m_s`` (None: the limits' tip speed)."""

    x_m: float
    y_m: float
    speed_m_s: float | None = None


class Pulse(Message, frozen=True, kw_only=True):
    """One bias pulse at the present position."""

    bias_v: float
    width_s: float
    hold_z: bool = True


class Indentation(Message, frozen=True, kw_only=True):
    """Push the tip ``depth_m`` toward the sample (positive number) and lift it again."""

    depth_m: float
    bias_v: float
    dwell_s: float


class Engage(Message, frozen=True, kw_only=True):
    """From withdrawn to tunneling: bias and setpoint first, then feedback, then ``settle_s``.

    With ``withdrawal_mark`` (as in ``GuardStatus``) it is refused if a person has withdrawn the tip since.
    """

    bias_v: float
    setpoint_a: float
    settle_s: float = 0.5
    withdrawal_mark: str = ""


class Park(Message, frozen=True, kw_only=True):
    """Withdraw and bring lock-in and bias to rest, with read-back."""

    reason: str


Recipe: TypeAlias = Sweep | Frame | BiasFrames | ReferencePatch | Move | Pulse | Indentation | Engage | Park
"""Every kind of job there is."""
