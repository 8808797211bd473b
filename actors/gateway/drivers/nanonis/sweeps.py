"""Bias spectra: what the electronics are told, and what becomes of their answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from actors.gateway.drivers.nanonis.identity import Signals
from actors.gateway.drivers.nanonis.panel import Panel, Setting
from protocols.errors import DriverError
from protocols.messages.data import Channel
from protocols.messages.recipes import SpectrumRecipe
from protocols.nanonis.conventions import SIGNAL_NAMES, channel_name, sweep_channels

Floats = npt.NDArray[np.float64]

SLEW_V_S = 4.0
"""Ramps to the start of a sweep and back: what the interlock on time with feedback off reckons with."""

GRID = 2e-3
"""Electronics round times to their own cycle."""

PROPS = Setting("BiasSpectr.Props")
ADVANCED = Setting("BiasSpectr.AdvProps")
CHANNELS = Setting("BiasSpectr.Chs")
LIMITS = Setting("BiasSpectr.Limits")
TIMING = Setting("BiasSpectr.Timing", tolerance={"integration_time_s": GRID, "settling_time_s": GRID})
MODE = Setting("BiasSpectr.MLSMode")
OTHER_SETPOINT = Setting("BiasSpectr.AltZCtrl")
"""A setpoint of its own for spectra: theirs would go round our limits and the recipe's."""
LINEAR = "Linear"

OUR_CHANNELS = {"current": "current", "lockin_x": "lock-in x", "lockin_y": "lock-in y"}
"""Names in our data, and keys of ``conventions.SIGNAL_NAMES``."""

AT_THE_RAIL = 0.98
"""Fraction of the rail from which a sample counts as saturated."""

_NUMBER = re.compile(r"\d+")


class AveragesOnlyError(DriverError):
    """Several sweeps came back as their average: single ones were asked for."""

    code = "averages-only"


def channels_of(recipe: SpectrumRecipe) -> tuple[str, ...]:
    """What is measured, by our names."""
    return ("current", "lockin_x", "lockin_y") if recipe.lockin is not None else ("current",)


def configure(panel: Panel, signals: Signals, recipe: SpectrumRecipe) -> None:
    """Tell the electronics everything about the sweep; all of it is read back.

    Raises:
        DriverError: a value was not taken, or a signal is missing.
    """
    step_v = abs(recipe.stop_v - recipe.start_v) / max(recipe.points - 1, 1)
    panel.ensure(MODE, sweep_mode=LINEAR)
    panel.ensure(OTHER_SETPOINT, alternate_z_controller_setpoint=False)
    panel.ensure(
        CHANNELS, channel_indexes=[signals.require(OUR_CHANNELS[name]) for name in channels_of(recipe)]
    )
    panel.ensure(LIMITS, start_value_v=recipe.start_v, end_value_v=recipe.stop_v)
    panel.ensure(
        PROPS,
        save_all=recipe.repeats > 1,
        number_of_sweeps=recipe.repeats,
        backward_sweep=recipe.backward,
        number_of_points=recipe.points,
        show_save_dialog=False,
    )
    panel.ensure(
        TIMING,
        z_averaging_time_s=0.0,
        z_offset_m=recipe.z_offset_m,
        initial_settling_time_s=0.0,
        maximum_slew_rate_v_s=max(SLEW_V_S, 1.1 * step_v / recipe.dwell_s),
        settling_time_s=0.0,
        integration_time_s=recipe.dwell_s,
        end_settling_time_s=0.0,
        z_control_time_s=0.0,
    )
    panel.ensure(
        ADVANCED,
        reset_bias=True,
        z_controller_hold=True,
        record_final_z=False,
        lock_in_run=recipe.lockin is not None,
    )


def expected_s(recipe: SpectrumRecipe) -> float:
    """Instrument seconds that a sweep takes at most: its samples, its ramps, and a second for the rest."""
    ramps = abs(recipe.start_v - recipe.stabilise_bias_v) + abs(recipe.stop_v - recipe.stabilise_bias_v)
    ramps += abs(recipe.stop_v - recipe.start_v) * recipe.repeats
    return recipe.sweep_duration_s + ramps / SLEW_V_S + 1.0


def spectrum(
    answer: Mapping[str, Any], recipe: SpectrumRecipe, rail_a: float
) -> tuple[Floats, tuple[Channel, ...], bool]:
    """(bias (points,), channels (repeats, directions, points), saturated) from BiasSpectr.Start's answer.

    Raises:
        DriverError: data are missing, another sweep than was asked for, or one that ended early.
        AveragesOnlyError: the single sweeps are not there.
    """
    rows = sweep_channels(answer["channels"], answer["data"])
    if not rows:
        raise DriverError("the sweep came back without data.", "See whether it was stopped.")
    swept = next(iter(rows.values()))
    bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    _check_swept(swept, bias)
    channels = []
    for name in channels_of(recipe):
        values = _arranged(rows, SIGNAL_NAMES[OUR_CHANNELS[name]], recipe)
        channels.append(Channel(name=name, unit="A", values=values))
    current = np.asarray(channels[0].values)
    saturated = bool(np.any(np.abs(current) >= AT_THE_RAIL * rail_a))
    taken = min(int(np.count_nonzero(np.isfinite(channel.values))) for channel in channels)
    if (taken < current.size or not np.all(np.isfinite(swept))) and not saturated:
        raise DriverError(
            f"the sweep ended after {taken} of {current.size} samples.",
            "It was stopped, or the tip was withdrawn meanwhile.",
            taken=taken,
            of=current.size,
        )
    return bias, tuple(channels), saturated


def _check_swept(swept: Floats, bias: Floats) -> None:
    """The bias of the samples must be what was asked for.

    Raises:
        DriverError: names both.
    """
    if len(swept) > len(bias):
        raise DriverError(f"the sweep came back with {len(swept)} points instead of {len(bias)}.")
    step = abs(bias[-1] - bias[0]) / (len(bias) - 1)
    known = np.isfinite(swept)
    if np.any(np.abs(swept - bias[: len(swept)])[known] > 0.01 * step + 1e-6):
        raise DriverError(
            f"the sweep went from {swept[known][0]:g} V to {swept[known][-1]:g} V in {len(swept)} points; "
            f"{bias[0]:g} V to {bias[-1]:g} V in {len(bias)} were asked for.",
            "See who else sets the spectroscopy.",
        )


def _arranged(rows: Mapping[str, Floats], name: str, recipe: SpectrumRecipe) -> Floats:
    """One channel as (repeats, directions, points); what is missing at the end of a sweep is NaN."""
    directions = 2 if recipe.backward else 1
    values = np.full((recipe.repeats, directions, recipe.points), np.nan)
    for direction in range(directions):
        for repeat, row in enumerate(_sweeps(rows, name, bool(direction), recipe.repeats)):
            values[repeat, direction, : len(row)] = row
    return values


def _sweeps(rows: Mapping[str, Floats], name: str, backward: bool, repeats: int) -> Sequence[Floats]:
    """The single sweeps of a channel in one direction, in order.

    Raises:
        DriverError: there are none.
        AveragesOnlyError: there are not enough of them.
    """
    quantity = channel_name(name).quantity
    single: list[tuple[int, Floats]] = []
    whole: list[Floats] = []
    for text, row in rows.items():
        found = channel_name(text)
        if found.quantity != quantity or found.backward != backward or "filt" in found.tags:
            continue
        number = next((int(tag) for tag in found.tags if _NUMBER.fullmatch(tag)), None)
        if number is None:
            whole.append(row)
        else:
            single.append((number, row))
    if len(single) == repeats:
        return [row for _, row in sorted(single, key=lambda pair: pair[0])]
    if not whole:
        way = " backward" if backward else ""
        raise DriverError(
            f"the sweep came back without{way} {name}; there are: {', '.join(rows)}.",
            "See which channels the spectroscopy records.",
        )
    if repeats > 1:
        raise AveragesOnlyError(
            f"{repeats} sweeps came back as {len(single) or 'an average'} instead of one by one."
        )
    return whole[:1]


def single(recipe: SpectrumRecipe) -> SpectrumRecipe:
    """The recipe with one repeat."""
    return msgspec.structs.replace(recipe, repeats=1)


def together(taken: Sequence[tuple[Channel, ...]]) -> tuple[Channel, ...]:
    """Channels of several single sweeps as those of one with as many repeats."""
    return tuple(
        Channel(name=first.name, unit=first.unit, values=np.concatenate([one[k].values for one in taken]))
        for k, first in enumerate(taken[0])
    )
