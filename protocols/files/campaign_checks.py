"""What a campaign may not contradict: obvious physics, and keys that must fit each other.

The gateway's limits are the gateway's; here stands only what is wrong on any microscope.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from protocols.errors import ConfigError, UsageError
from protocols.files.quantities import format_quantity
from protocols.instrument.auxiliary import MODELS, SR830_AMPLITUDE_STEP_V, SR830_TIME_CONSTANTS_S
from protocols.messages.campaign import Campaign
from protocols.nanonis.address import LOOPBACK, parse_address
from protocols.nanonis.conventions import check_pixels

_LONGEST_OVERSHOOT = 1e-9
"""V by which a window may pass the sweep's end, for rounding."""

SAMPLES = ("vacancy", "terraces")
"""Simulated samples by name, beside "recorded:..."."""

MOST_CANDIDATES = 100_000
"""Raster candidates of one window: what a planner can still look through between two spectra."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    section: str
    key: str
    text: str
    given: Any = None


def contradictions(campaign: Campaign) -> list[Problem]:
    """Everything about the campaign that cannot be meant."""
    return [
        problem
        for check in (
            *(_sample, _electronics, _imaging, _biases, _lockin, _scalar, _planner, _windows, _drift),
            *(_auxiliary, _lockins_beside, _waits),
        )
        for problem in check(campaign)
    ]


def _volts(value: float) -> str:
    return format_quantity(value, "V")


def _sample(campaign: Campaign) -> Iterator[Problem]:
    sample = campaign.instrument.sample
    if sample not in SAMPLES and not sample.startswith("recorded:"):
        known = ", ".join(f'"{s}"' for s in SAMPLES)
        yield Problem(
            "instrument",
            "sample",
            f'no such sample; known are {known}, "recorded:demo", "recorded:FILE.3ds"',
            sample,
        )


def _electronics(campaign: Campaign) -> Iterator[Problem]:
    """What electronics that speak the Nanonis protocol need, and keys that mean nothing without them."""
    instrument = campaign.instrument
    if instrument.driver != "nanonis":
        if instrument.simulated:
            yield Problem("instrument", "simulated", 'means nothing without driver = "nanonis"', True)
        return
    try:
        address = parse_address(instrument.address)
    except ConfigError as wrong:
        yield Problem("instrument", "address", str(wrong), instrument.address)
    else:
        if instrument.simulated and address.host not in LOOPBACK:
            yield Problem(
                "instrument", "address", "a simulated microscope is on this computer", instrument.address
            )
    if not instrument.simulated and instrument.time_scale != 1.0:
        yield Problem(
            "instrument",
            "time_scale",
            "real electronics run at 1; 'simulated = true' starts a simulated microscope",
            instrument.time_scale,
        )
    imaging = campaign.imaging
    for key, pixels in (("pixels", imaging.pixels), ("reference_pixels", imaging.reference_pixels)):
        try:
            check_pixels(pixels)
        except UsageError as wrong:
            yield Problem("imaging", key, str(wrong), pixels)


def _imaging(campaign: Campaign) -> Iterator[Problem]:
    imaging, spectrum = campaign.imaging, campaign.spectrum
    for section, key, bias in (
        ("imaging", "bias", imaging.bias_v),
        ("spectrum", "stabilise_bias", spectrum.stabilise_bias_v),
    ):
        if bias == 0:
            yield Problem(section, key, "with feedback on, 0 V drives the tip into the surface", _volts(bias))
    if imaging.bias_v * spectrum.stabilise_bias_v < 0:
        yield Problem(
            "spectrum",
            "stabilise_bias",
            f"has the other sign than the imaging bias ({_volts(imaging.bias_v)}): with feedback on the bias "
            "would pass through 0 V and the tip would crash; use the same sign (the sweep may cross 0 V)",
            _volts(spectrum.stabilise_bias_v),
        )


def _biases(campaign: Campaign) -> Iterator[Problem]:
    spectrum = campaign.spectrum
    if not spectrum.start_v < spectrum.stop_v:
        yield Problem(
            "spectrum",
            "stop",
            f"must be above start ({_volts(spectrum.start_v)}); 'backward = true' adds the way back",
            _volts(spectrum.stop_v),
        )


def _lockin(campaign: Campaign) -> Iterator[Problem]:
    spectrum, lockin = campaign.spectrum, campaign.spectrum.lockin
    if lockin is None:
        if campaign.scalar.channel != "current" and not campaign.instrument.sample.startswith("recorded:"):
            yield Problem(
                "scalar",
                "channel",
                'needs the lock-in, but there is no table [spectrum.lockin]; add it, or use "current"',
                campaign.scalar.channel,
            )
        return
    least = 3 * lockin.time_constant_s
    if spectrum.dwell_s < least * (1 - 1e-9):
        yield Problem(
            "spectrum",
            "dwell",
            f"is under three lock-in time constants (3 x {format_quantity(lockin.time_constant_s, 's')}): "
            f"the signal would lag behind the bias; allowed: at least {format_quantity(least, 's')}",
            format_quantity(spectrum.dwell_s, "s"),
        )
    period = 1 / lockin.frequency_hz
    if lockin.time_constant_s < period * (1 - 1e-9):
        yield Problem(
            "spectrum.lockin",
            "time_constant",
            f"is shorter than one period of the modulation ({format_quantity(period, 's')}); "
            "raise it or the frequency",
            format_quantity(lockin.time_constant_s, "s"),
        )
    span = spectrum.stop_v - spectrum.start_v
    if 0 < span < lockin.amplitude_v:
        yield Problem(
            "spectrum.lockin",
            "amplitude",
            f"is larger than the whole sweep ({_volts(span)})",
            _volts(lockin.amplitude_v),
        )


def _scalar(campaign: Campaign) -> Iterator[Problem]:
    scalar, spectrum = campaign.scalar, campaign.spectrum
    if spectrum.start_v >= spectrum.stop_v:
        return
    windows = []
    if scalar.kind in ("integral", "ratio"):
        windows.append(("window", scalar.window_v))
    if scalar.kind == "ratio":
        windows.append(("reference", scalar.reference_v))
    step = (spectrum.stop_v - spectrum.start_v) / (spectrum.points - 1)
    for key, (low, high) in windows:
        given = f"{_volts(low)} to {_volts(high)}"
        if low < spectrum.start_v - _LONGEST_OVERSHOOT or high > spectrum.stop_v + _LONGEST_OVERSHOOT:
            yield Problem(
                "scalar",
                key,
                f"lies outside the sweep (allowed: {_volts(spectrum.start_v)} to {_volts(spectrum.stop_v)})",
                given,
            )
        elif high - low < 2 * step:
            yield Problem(
                "scalar", key, f"holds fewer than three points of the sweep (a step is {_volts(step)})", given
            )
    if scalar.kind == "onset" and scalar.threshold <= 0:
        yield Problem("scalar", "threshold", "an onset needs a threshold above 0")


def _planner(campaign: Campaign) -> Iterator[Problem]:
    planner, pixels = campaign.planner, campaign.imaging.pixels
    if planner.seed_points > planner.points:
        yield Problem(
            "planner", "seed_points", f"is more than points ({planner.points})", planner.seed_points
        )
    if planner.beta_end > planner.beta_start:
        yield Problem(
            "planner", "beta_end", f"is above beta_start ({planner.beta_start:g})", planner.beta_end
        )
    if planner.candidate_step > pixels:
        yield Problem(
            "planner", "candidate_step", f"is more than the frame's pixels ({pixels})", planner.candidate_step
        )
        return
    if planner.kernel != "matern_xy" and planner.patch_pixels > pixels:
        yield Problem(
            "planner", "patch_pixels", f"is more than the frame's pixels ({pixels})", planner.patch_pixels
        )
    raster = (pixels // planner.candidate_step) ** 2
    if raster < planner.points:
        yield Problem(
            "planner",
            "points",
            f"is more than there are candidates: {pixels} pixels at a step of {planner.candidate_step} give "
            f"{raster}; use a smaller candidate_step or more pixels",
            planner.points,
        )
    if raster > MOST_CANDIDATES:
        yield Problem(
            "planner",
            "candidate_step",
            f"gives {raster} candidates in {pixels} x {pixels} pixels (allowed: at most {MOST_CANDIDATES})",
            planner.candidate_step,
        )


def _windows(campaign: Campaign) -> Iterator[Problem]:
    widths = campaign.zoom.widths_m
    for wider, narrower in itertools.pairwise(widths):
        if not narrower < wider:
            yield Problem(
                "zoom",
                "widths",
                f"each window must be smaller than the one before: {format_quantity(narrower, 'm')} follows "
                f"{format_quantity(wider, 'm')}",
                [format_quantity(w, "m") for w in widths],
            )
            return
    reference = campaign.imaging.reference_width_m
    if reference > widths[0]:
        yield Problem(
            "imaging",
            "reference_width",
            f"is wider than the first window ({format_quantity(widths[0], 'm')})",
            format_quantity(reference, "m"),
        )


def _drift(campaign: Campaign) -> Iterator[Problem]:
    if campaign.drift.every and campaign.instrument.sample.startswith("recorded:"):
        yield Problem(
            "drift",
            "every",
            "a recorded sample does not drift; write every = 0",
            campaign.drift.every,
        )


def _auxiliary(campaign: Campaign) -> Iterator[Problem]:
    if campaign.auxiliary and campaign.lockstep:
        yield Problem(
            "",
            "lockstep",
            "cannot be exactly repeated with auxiliary instruments, whose readings come by the wall clock; "
            "leave out lockstep or the [auxiliary] tables",
            True,
        )
    taken: dict[str, str] = {}
    for section in campaign.auxiliary:
        path = f"auxiliary.{section.name}"
        if section.journal_period_s < section.period_s:
            yield Problem(
                path,
                "journal_period",
                f"is shorter than the period ({format_quantity(section.period_s, 's')})",
                format_quantity(section.journal_period_s, "s"),
            )
        if section.port not in ("", "simulated"):
            if section.port in taken:
                yield Problem(path, "port", f"is that of {taken[section.port]} already", section.port)
            taken[section.port] = section.name


def _lockins_beside(campaign: Campaign) -> Iterator[Problem]:
    """What an auxiliary lock-in amplifier would not take as it is written."""
    for section in campaign.auxiliary:
        path, settable = f"auxiliary.{section.name}", MODELS[section.model].settable
        given = {
            "amplitude": section.amplitude_v,
            "frequency": section.frequency_hz,
            "time_constant": section.time_constant_s,
        }
        for key, value in given.items():
            if value is not None and key not in settable:
                yield Problem(path, key, f"a {MODELS[section.model].title} has no such setting")
        amplitude, constant = section.amplitude_v, section.time_constant_s
        if amplitude is not None:
            steps = amplitude / SR830_AMPLITUDE_STEP_V
            if abs(steps - round(steps)) > 1e-6:
                yield Problem(path, "amplitude", "the SR830 takes steps of 2 mV", _volts(amplitude))
        if constant is not None and not any(
            math.isclose(constant, c, rel_tol=1e-9) for c in SR830_TIME_CONSTANTS_S
        ):
            yield Problem(
                path,
                "time_constant",
                "the SR830 has 10us, 30us, 100us, 300us, 1ms ... 10ks, 30ks",
                format_quantity(constant, "s"),
            )


def _waits(campaign: Campaign) -> Iterator[Problem]:
    for number, wait in enumerate(campaign.wait_on, start=1):
        path = f"wait_on[{number}]"
        if not wait.low < wait.high:
            yield Problem(path, "high", "must be above low")
        elif wait.hysteresis and not 2 * wait.hysteresis < wait.high - wait.low:
            yield Problem(path, "hysteresis", "leaves no room inside the band: use less than half its width")
