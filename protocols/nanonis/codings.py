"""What the numbers in arguments and results mean: switches, choices, and "leave it as it is".

Many settings are coded in one way when they are set and in another when they are read, because only setting
has a "no change".  ``to_codes`` and ``to_meanings`` translate the values of one message; in ours, a switch is
a bool, a choice is a short word, and None is "leave it as it is".  Fields without an entry stay as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from protocols.errors import MalformedMessageError, UsageError
from protocols.nanonis.commands import RELEASE
from protocols.nanonis.types import Value

Meaning: TypeAlias = bool | str | None


class Choice(msgspec.Struct, frozen=True):
    """A switch or a choice: the code of each meaning in requests, and in answers."""

    in_request: dict[Meaning, int]
    in_answer: dict[Meaning, int]

    def code(self, meaning: Any, *, answer: bool, what: str) -> int:
        """The code of a meaning.

        Raises:
            UsageError: there is no such meaning on this way.
        """
        codes = self.in_answer if answer else self.in_request
        if not isinstance(meaning, bool | str | None) or meaning not in codes:
            raise UsageError(f"{what}: {meaning!r} is not possible; possible: {', '.join(map(str, codes))}.")
        return codes[meaning]

    def meaning(self, code: Any, *, answer: bool, what: str) -> Meaning:
        """The meaning of a code.

        Raises:
            MalformedMessageError: the code is not defined on this way.
        """
        codes = self.in_answer if answer else self.in_request
        for meaning, its_code in codes.items():
            if its_code == code:
                return meaning
        known = ", ".join(f"{number} ({meaning})" for meaning, number in codes.items())
        raise MalformedMessageError(f"{what}: {code!r} has no meaning; known: {known}.", value=code)


class Keep(msgspec.Struct, frozen=True):
    """A plain value, one of which means "no change" in requests."""

    no_change: float | int | str

    def code(self, meaning: Any, *, answer: bool, what: str) -> Any:
        """The value to send: None becomes "no change".

        Raises:
            UsageError: the value itself is the one that means "no change", or None in an answer.
        """
        if meaning is None and not answer:
            return self.no_change
        if meaning is None or (not answer and self._is_no_change(meaning)):
            raise UsageError(
                f"{what}: {meaning!r} cannot be said here: it means no change.", "Use None for that."
            )
        return meaning

    def meaning(self, code: Any, *, answer: bool, what: str) -> Any:
        """The value, or None for "no change"."""
        return None if not answer and self._is_no_change(code) else code

    def _is_no_change(self, value: Any) -> bool:
        if isinstance(self.no_change, float) and math.isnan(self.no_change):
            return isinstance(value, float) and math.isnan(value)
        return bool(value == self.no_change)


def _same(codes: dict[Meaning, int]) -> Choice:
    return Choice(codes, codes)


def _with_no_change(*meanings: Meaning) -> Choice:
    """Requests count from 1 after "no change", answers from 0."""
    return Choice(
        {None: 0} | {meaning: place + 1 for place, meaning in enumerate(meanings)},
        {meaning: place for place, meaning in enumerate(meanings)},
    )


SWITCH = Choice({None: 0, True: 1, False: 2}, {False: 0, True: 1})
"""On or off, with "no change" when set."""

PLAIN_SWITCH = _same({False: 0, True: 1})
"""On or off, coded alike both ways."""

SAVING = _with_no_change("all", "next", "off")
"""Which of the coming frames are saved."""

PASTING = Choice(
    {None: 0, "all": 1, "next": 2, "off": 3},
    {"no change": 0, "all": 1, "next": 2, "off": 3},
)
"""Which of the coming frames are pasted into the background.  The manual codes answers like requests."""

KEPT_SPEED = _with_no_change("linear speed", "time per line")
HOME = _with_no_change("absolute", "relative")
PULSE_HOLD = Choice({None: 0, True: 1, False: 2}, {})
PULSE_MODE = Choice({None: 0, "relative": 1, "absolute": 2}, {})
SYNCHRONISATION = _with_no_change("off", "ttl", "pulse sequence")
TTL_LINE = _with_no_change("1", "2", "3", "4")
TTL_POLARITY = _with_no_change("low", "high")

SCAN_ACTION = _same({"start": 0, "stop": 1, "pause": 2, "resume": 3, "freeze": 4, "unfreeze": 5, "centre": 6})
"""The last three exist since release 13742."""

SCAN_DIRECTION = _same({"down": 0, "up": 1})
DATA_DIRECTION = _same({"backward": 0, "forward": 1})
LINE_MOVEMENT = _same({"forward": 0, "backward": 1, "to centre": 2, "to start": 3})
"""Which movement has just ended; "to start" happens right before a scan."""

Z_STATUS = _same({"off": 1, "on": 2, "hold": 3, "switching off": 4, "safe tip": 5, "withdrawing": 6})
MOTOR_DIRECTION = _same({"x+": 0, "x-": 1, "y+": 2, "y-": 3, "z+": 4, "z-": 5})
"""In the vendor's approach example "z-" goes toward the sample; a laboratory's wiring may differ."""

ATOM_TRACKING = _same({"modulation": 0, "controller": 1, "drift": 2})
PATTERN = Choice({None: 0, "grid": 1, "line": 2, "cloud": 3}, {})
DEMODULATED = _same({"x/y": 0, "r/phi": 1})

COMPARISON = Choice({">": 0, "<": 1, None: 2}, {">": 0, "<": 1})
SECOND_CONDITION = _with_no_change("none", "or", "and", "then")
HELD_DURING_SWEEP = Choice({None: 0, True: 1, False: 2}, {})
"""Whether the Z-controller is off during a sweep; None: as it was the last time."""

SLOPE = _with_no_change("positive", "negative")
GENERIC_SLOPE = Choice({None: 0, "positive": 1, "negative": 2}, {"negative": 0, "positive": 1})
"""Of the generic controller, whose answers count the other way."""

POLARITY = Choice({None: 0, "negative": 1, "positive": 2}, {"positive": 0, "negative": 1})
TIME_DIRECTION = Choice({None: 0, "backward": 1, "forward": 2}, {"forward": 0, "backward": 1})
ADD_OR_ZERO = Choice({None: 0, "add": 1, "zero": 2}, {"zero": 0, "add": 1})
"""Of the function generators, whose answers count the other way."""

KEEP_NAN = Keep(math.nan)
KEEP_ZERO = Keep(0)
KEEP_MINUS_ONE = Keep(-1)
KEEP_EMPTY = Keep("")


def drift_compensation(release: int) -> Choice:
    """The switch of Piezo.DriftComp, whose coding has changed twice."""
    if release >= 14718:
        return SWITCH
    if release >= 13742:
        return Choice({None: -1, False: 0, True: 1}, {False: 0, True: 1})
    return PLAIN_SWITCH


_TIMING = (
    "z_averaging_time_s z_offset_m initial_settling_time_s maximum_slew_rate_v_s settling_time_s"
    " integration_time_s end_settling_time_s z_control_time_s"
)

_CODINGS: dict[str, dict[str, Choice | Keep]] = {
    "Bias.Pulse": {"wait": PLAIN_SWITCH, "z_hold": PULSE_HOLD, "absolute_relative": PULSE_MODE},
    "BiasSwp.Start": {
        "get_data": PLAIN_SWITCH,
        "status": HELD_DURING_SWEEP,
        "basename": KEEP_EMPTY,
        "reset_bias": PLAIN_SWITCH,
    },
    "BiasSwp.Props": {
        "number_of_steps": KEEP_ZERO,
        "period_ms": KEEP_ZERO,
        "autosave": SWITCH,
        "save_dialog_box": SWITCH,
    },
    "BiasSpectr.Start": {"get_data": PLAIN_SWITCH, "basename": KEEP_EMPTY},
    "BiasSpectr.Status": {"status": PLAIN_SWITCH},
    "BiasSpectr.Props": {
        "save_all": SWITCH,
        "number_of_sweeps": KEEP_ZERO,
        "backward_sweep": SWITCH,
        "number_of_points": KEEP_ZERO,
        "z_offset_m": KEEP_NAN,
        "autosave": SWITCH,
        "show_save_dialog": SWITCH,
    },
    "BiasSpectr.AdvProps": {
        "reset_bias": SWITCH,
        "z_controller_hold": SWITCH,
        "record_final_z": SWITCH,
        "lock_in_run": SWITCH,
    },
    "BiasSpectr.Timing": dict.fromkeys(_TIMING.split(), KEEP_NAN),
    "BiasSpectr.DigSync": {"digital_sync": SYNCHRONISATION},
    "BiasSpectr.TTLSync": {"ttl_line": TTL_LINE, "ttl_polarity": TTL_POLARITY},
    "ZSpectr.DigSync": {"digital_sync": SYNCHRONISATION},
    "ZSpectr.TTLSync": {"ttl_line": TTL_LINE, "ttl_polarity": TTL_POLARITY},
    "BiasSpectr.AltZCtrl": {"alternate_z_controller_setpoint": SWITCH},
    "BiasSpectr.ZOffRevert": {"z_offset_revert": SWITCH},
    "BiasSpectr.MLSLockinPerSeg": {"lock_in_per_segment": PLAIN_SWITCH},
    "BiasSpectr.SafeCond1": {"threshold": KEEP_NAN},
    "BiasSpectr.SafeCond2": {"threshold": KEEP_NAN},
    "Current.Gain": {"gain_index": KEEP_MINUS_ONE, "filter_index": KEEP_MINUS_ONE},
    "ZCtrl.OnOff": {"status": PLAIN_SWITCH},
    "ZCtrl.Status": {"status": Z_STATUS},
    "ZCtrl.HomeProps": {"absolute_relative": HOME},
    "ZCtrl.LimitsEnabled": {"status": PLAIN_SWITCH},
    "ZCtrl.Withdraw": {"wait": PLAIN_SWITCH},
    "SafeTip.OnOff": {"status": SWITCH},
    "SafeTip.Props": {"auto_recovery": PLAIN_SWITCH, "auto_pause_scan": PLAIN_SWITCH},
    "AutoApproach.OnOff": {"status": PLAIN_SWITCH},
    "ZSpectr.Start": {"get_data": PLAIN_SWITCH, "basename": KEEP_EMPTY},
    "ZSpectr.Status": {"status": PLAIN_SWITCH},
    "ZSpectr.Props": {
        "backward_sweep": SWITCH,
        "number_of_points": KEEP_ZERO,
        "number_of_sweeps": KEEP_ZERO,
        "autosave": SWITCH,
        "show_save_dialog": SWITCH,
        "save_all": SWITCH,
    },
    "ZSpectr.AdvProps": {"record_final_z": SWITCH, "lock_in_run": SWITCH, "reset_z": SWITCH},
    "ZSpectr.Retract": {"enable": SWITCH, "signal_index": KEEP_MINUS_ONE, "comparison": COMPARISON},
    "ZSpectr.Retract2nd": {
        "condition": SECOND_CONDITION,
        "signal_index": KEEP_MINUS_ONE,
        "comparison": COMPARISON,
    },
    "BiasSpectr.PulseSeqSync": {"pulse_sequence_nr": KEEP_ZERO},
    "ZSpectr.PulseSeqSync": {"pulse_sequence_nr": KEEP_ZERO},
    "Piezo.XYZLimits": {"enable_limits": SWITCH},
    "Piezo.HystOnOff": {"on_off": PLAIN_SWITCH},
    "Scan.Action": {"action": SCAN_ACTION, "direction": SCAN_DIRECTION},
    "Scan.Status": {"status": PLAIN_SWITCH},
    "Scan.WaitEndOfScan": {"timed_out": PLAIN_SWITCH},
    "Scan.WaitEndOfLine": {"timed_out": PLAIN_SWITCH, "movement": LINE_MOVEMENT},
    "Scan.Props": {
        "continuous_scan": SWITCH,
        "bouncy_scan": SWITCH,
        "autosave": SAVING,
        "autopaste": PASTING,
    },
    "Scan.Speed": {"keep_constant": KEPT_SPEED},
    "FolMe.XYPos": {"wait": PLAIN_SWITCH, "wait_for_newest_data": PLAIN_SWITCH},
    "FolMe.Speed": {"custom_speed": PLAIN_SWITCH},
    "FolMe.PSOnOff": {"point_shoot_status": PLAIN_SWITCH},
    "FolMe.PSProps": {"auto_resume": SWITCH, "use_own_basename": SWITCH},
    "Pattern.ExpStart": {"pattern": PATTERN},
    "Pattern.ExpPause": {"pause_resume": _same({"resume": 0, "pause": 1})},
    "Pattern.ExpStatus": {"status": PLAIN_SWITCH},
    "Pattern.Grid": {"set_active_pattern": PLAIN_SWITCH, "grid_scan_frame": PLAIN_SWITCH},
    "Pattern.Line": {"set_active_pattern": PLAIN_SWITCH, "line_scan_frame": PLAIN_SWITCH},
    "Pattern.Cloud": {"set_active_pattern": PLAIN_SWITCH},
    "Pattern.Props": {"save_scan_channels": PLAIN_SWITCH},
    "Marks.PointsVisible": {"show_hide": Choice({True: 0, False: 1}, {})},
    "Marks.LinesVisible": {"show_hide": Choice({True: 0, False: 1}, {})},
    "TipShaper.Start": {"wait": PLAIN_SWITCH},
    "TipShaper.Props": {"change_bias": SWITCH, "restore_feedback": SWITCH},
    "Motor.StartMove": {"direction": MOTOR_DIRECTION, "wait": PLAIN_SWITCH},
    "AtomTrack.Ctrl": {"at_control": ATOM_TRACKING, "status": PLAIN_SWITCH},
    "AtomTrack.Status": {"at_control": ATOM_TRACKING, "status": PLAIN_SWITCH},
    "LockIn.ModOnOff": {"on_off": PLAIN_SWITCH},
    "LockIn.DemodHPFilter": {
        "hp_filter_order": KEEP_MINUS_ONE,
        "hp_filter_cutoff_frequency_hz": KEEP_ZERO,
    },
    "LockIn.DemodLPFilter": {
        "lp_filter_order": KEEP_MINUS_ONE,
        "lp_filter_cutoff_frequency_hz": KEEP_ZERO,
    },
    "LockIn.DemodSyncFilter": {"sync_filter": PLAIN_SWITCH},
    "LockIn.DemodRTSignals": {"rt_signals": DEMODULATED},
    "LockInFreqSwp.Props": {"number_of_steps": KEEP_ZERO},
    "GenSwp.Start": {
        "get_data": PLAIN_SWITCH,
        "basename": KEEP_EMPTY,
        "reset_signal": PLAIN_SWITCH,
        "z_controller": HELD_DURING_SWEEP,
    },
    "GenSwp.Props": {
        "number_of_steps": KEEP_ZERO,
        "period_ms": KEEP_ZERO,
        "autosave": SWITCH,
        "save_dialog_box": SWITCH,
    },
    "GenPICtrl.DemodCh": {"input_index": KEEP_MINUS_ONE, "ac_mode": SWITCH},
    "GenPICtrl.Props": {"slope": GENERIC_SLOPE},
    "PICtrl.Props": {"slope": SLOPE},
    "FunGen1Ch.Props": {"polarity": POLARITY, "direction": TIME_DIRECTION},
    "FunGen2Ch.Props": {"polarity": POLARITY, "direction": TIME_DIRECTION, "add_zero": ADD_OR_ZERO},
}
"""By command, without Set or Get: the fields whose numbers stand for something else."""

_GRAB_ARGUMENTS: dict[str, Choice | Keep] = {"direction": DATA_DIRECTION}
_GRAB_RESULT: dict[str, Choice | Keep] = {"direction": SCAN_DIRECTION}


@functools.cache
def codings(command: str, release: int = RELEASE, *, result: bool = False) -> Mapping[str, Choice | Keep]:
    """The coded fields of a command's arguments, or of its result.

    ``command`` is its name as in the table.
    """
    if command == "Scan.FrameDataGrab":
        return _GRAB_RESULT if result else _GRAB_ARGUMENTS
    if command in ("Piezo.DriftCompSet", "Piezo.DriftCompGet"):
        return {"on_off": drift_compensation(release)}
    stem = command if command in _CODINGS else command.removesuffix("Set").removesuffix("Get")
    return _CODINGS.get(stem, {})


def to_codes(
    command: str, values: Mapping[str, Any], release: int = RELEASE, *, result: bool = False
) -> dict[str, Any]:
    """Values as they are sent, from what they mean; of a command's arguments, or of its result.

    Raises:
        UsageError: a meaning that does not exist there.
    """
    known = codings(command, release, result=result)
    return {
        name: known[name].code(value, answer=result, what=f"{command}, {name}") if name in known else value
        for name, value in values.items()
    }


def to_meanings(
    command: str, values: Mapping[str, Value], release: int = RELEASE, *, result: bool = False
) -> dict[str, Any]:
    """What the values of a command's arguments, or of its result, mean.

    Raises:
        MalformedMessageError: a number without a meaning.
    """
    known = codings(command, release, result=result)
    return {
        name: known[name].meaning(value, answer=result, what=f"{command}, {name}") if name in known else value
        for name, value in values.items()
    }
