"""Numbers and sentences in the words of an STM scientist: nm, pA, mV, and what was sought."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from actors.journal.reader import Measurement
from protocols.messages.campaign import ScalarSection
from protocols.messages.records import Decision

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
_CHANNELS = {
    "lockin_x": "the lock-in X signal (dI/dV)",
    "lockin_y": "the lock-in Y signal",
    "current": "the tunneling current",
    "z": "the height",
}


def scale_for(values: npt.ArrayLike, unit: str) -> tuple[float, str]:
    """(factor, unit with prefix) so that ``values * factor`` are handy numbers; "1" and "" take no prefix."""
    data = np.abs(np.asarray(values, dtype=float))
    data = data[np.isfinite(data) & (data > 0)]
    if not data.size:
        return 1.0, _spelled(unit)
    power = min(max(3 * math.floor(math.log10(float(data.max())) / 3), -15), 9)
    if unit in ("", "1", "V V"):  # a prefix would mean nothing, or be squared too
        name = _spelled(unit)
        return (1.0, name) if -3 <= power <= 3 else (10.0**-power, f"\u00d7 10^{power} {name}".rstrip())
    return 10.0**-power, _PREFIXES[power] + _spelled(unit)


def si(value: float, unit: str, digits: int = 3) -> str:
    """A number with ``digits`` significant digits and a prefixed unit, such as "1.24 pA·V"."""
    if not math.isfinite(value):
        return "no value"
    factor, name = scale_for([value], unit)
    return f"{_plain(value * factor, digits)} {name}".rstrip()


def exact(value: float, unit: str) -> str:
    """A number that somebody set: as ``si``, without padding zeros."""
    factor, name = scale_for([value], unit)
    return f"{float(f'{value * factor:.6g}'):g} {name}".rstrip()


def nm(metres: float, decimals: int = 2) -> str:
    """A length in nm with its unit."""
    return f"{metres * 1e9:.{decimals}f} nm" if math.isfinite(metres) else "unknown"


def place(x_m: float, y_m: float) -> str:
    """A position in the sample's frame."""
    return f"x = {nm(x_m)}, y = {nm(y_m)}"


def duration(seconds: float) -> str:
    """A time span in the largest fitting units."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def scalar_unit(section: ScalarSection, channel_unit: str) -> str:
    """SI unit of the scalar; ``channel_unit`` is that of its channel."""
    match section.kind:
        case "integral":
            return f"{channel_unit} V".strip()
        case "ratio":
            return "1"
        case _:
            return "V"


def scalar_words(section: ScalarSection) -> str:
    """What was sought, in a sentence without its full stop."""
    end = "largest" if section.sign > 0 else "smallest"
    signal = _CHANNELS.get(section.channel, f"channel {section.channel}")
    low, high = section.window_v
    span = f"from {exact(low, 'V')} to {exact(high, 'V')}"
    match section.kind:
        case "integral":
            return f"the place where the integral of {signal} {span} is {end}"
        case "ratio":
            reference = f"from {exact(section.reference_v[0], 'V')} to {exact(section.reference_v[1], 'V')}"
            return (
                f"the place where the share of {signal} {span} in the whole ({reference}) is {end}: "
                "the ratio of the two integrals"
            )
        case "bandgap":
            return f"the place where the band gap, read from the flanks of {signal}, is {end}"
        case "onset":
            return (
                f"the place where the bias at which {signal} first exceeds {section.threshold:.3g} "
                f"({span}) is {end}"
            )


def scalar_name(section: ScalarSection) -> str:
    """A short name for axes and tables."""
    low, high = section.window_v
    names = {"lockin_x": "dI/dV", "current": "I"}
    signal = names.get(section.channel, section.channel)
    match section.kind:
        case "integral":
            return f"∫{signal} dV, {low:g} to {high:g} V"
        case "ratio":
            return f"{signal} ratio, {low:g} to {high:g} V"
        case "bandgap":
            return "band gap"
        case "onset":
            return "onset bias"


def explain(decision: Decision, measurement: Measurement | None, unit: str, sign: int = 1) -> str:
    """Why a spectrum was taken where it was, what was expected and what came out.

    ``unit`` is the scalar's; ``sign`` that of the campaign's scalar section.
    """
    reason = decision.reason.strip().rstrip(".")
    parts = [f"{reason[:1].upper()}{reason[1:]}."]
    if decision.kind != "seed" and math.isfinite(decision.mean):
        parts.append(
            f"Fitted on {decision.observed} points, the model expected {si(sign * decision.mean, unit)} "
            f"± {si(decision.std, unit, 2)} here."
        )
    if decision.pending:
        parts.append(f"{_count(len(decision.pending), 'spectrum was', 'spectra were')} still under way.")
    if measurement is not None:
        parts.append(_outcome(decision, measurement, unit, sign))
    return " ".join(parts)


def _outcome(decision: Decision, measurement: Measurement, unit: str, sign: int) -> str:
    spectrum = measurement.spectrum
    if not measurement.counts:
        why = ", ".join(spectrum.quality) or "it gave no number"
        if measurement.validity is not None and not measurement.valid:
            why = f"{measurement.validity.reason} (said {measurement.validity.by})"
        return f"The spectrum does not count: {why}."
    text = f"Measured: {si(sign * spectrum.scalar, unit)}"
    if decision.kind != "seed" and decision.std > 0 and math.isfinite(decision.std):
        away = abs(spectrum.scalar - decision.mean) / decision.std
        text += f", {away:.1f} standard deviations from what was expected"
    return text + "."


def _count(number: int, one: str, many: str) -> str:
    return f"{('One', 'Two', 'Three')[number - 1] if number <= 3 else number} {one if number == 1 else many}"


def _spelled(unit: str) -> str:
    return {"1": "", "V V": "V²"}.get(unit, unit.replace(" ", "·"))


def _plain(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"
