"""Who the electronics are: release, ranges, where the signals are, whether they are simulated."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from actors.gateway.drivers.nanonis.channel import Channel
from protocols.errors import DriverError, UsageError
from protocols.instrument.driver import DriverInfo
from protocols.nanonis import conventions
from protocols.nanonis.address import Address
from protocols.nanonis.commands import KNOWN_RELEASES, RELEASE

SIMULATED = re.compile(
    r"Tunnelpilot simulated microscope(?:.*?;\s*time scale\s+(?P<scale>[0-9.eE+-]+))?"
    r"(?:.*?;\s*stepped\s+(?P<stepped>[01]))?"
)
"""What our simulated door says of itself in Util.VersionGet; no real product does."""

SIGNALS_SINCE = 11798
"""Older releases number the signals by the 24 slots they were assigned to."""

OUTPUT_V = 10.0
"""Full scale of the electronics' inputs and outputs, where they do not say otherwise."""

TIME = "Time (s)"
"""A signal of our simulated door alone: the instrument's clock."""

_GAIN = re.compile(r"10\s*\^\s*(?P<power>\d+)|(?P<number>\d+(?:\.\d+)?[eE]\+?\d+)")


@dataclass(frozen=True)
class Signals:
    """Places of the signals we read, by the keys of ``conventions.SIGNAL_NAMES``; without absent ones."""

    places: dict[str, int]

    def require(self, key: str) -> int:
        """The place of a signal.

        Raises:
            DriverError: these electronics do not list it.
        """
        if key not in self.places:
            raise DriverError(
                f"the electronics list no signal {conventions.SIGNAL_NAMES[key]!r}.",
                "Open its module, or give the signal its usual name.",
            )
        return self.places[key]


@dataclass(frozen=True)
class Identity:
    """What is asked once."""

    product: str
    version: str
    release: int
    simulated: bool
    time_scale: float
    stepped: bool
    signals: Signals
    info: DriverInfo


def recognise(channel: Channel, address: Address) -> Identity:
    """Ask who answers; sets the channel's release.

    Raises:
        DriverError: nothing answers, or nonsense.
    """
    product, version = _version(channel, address)
    found = SIMULATED.search(product)
    scale = float(found["scale"] or 1.0) if found else 1.0
    stepped = bool(found and found["stepped"] == "1")
    names = _signal_names(channel)
    signals = Signals(_places(names))
    return Identity(
        product=product,
        version=version,
        release=channel.release,
        simulated=found is not None,
        time_scale=scale,
        stepped=stepped,
        signals=signals,
        info=_info(channel, address, signals, f"{product} {version}".strip(), found is not None, scale),
    )


def _version(channel: Channel, address: Address) -> tuple[str, str]:
    """Product and version; the release is what was configured, what they say, or the oldest one known."""
    channel.release = RELEASE
    try:
        found = channel.ask("Util.VersionGet")
    except DriverError as problem:
        if problem.details.get("outcome") != "refused":
            raise
        channel.release = address.release or KNOWN_RELEASES[0]
        return "Nanonis", f"before {KNOWN_RELEASES[1]}"
    release = int(found["host_release"])
    channel.release = address.release or (release if release > 0 else RELEASE)
    return str(found["product_line"]), f"{found['version']} R{release}".strip()


def _signal_names(channel: Channel) -> Sequence[str]:
    slots = channel.release < SIGNALS_SINCE and channel.knows("Signals.InSlotsGet")
    names: Sequence[str] = channel.ask("Signals.InSlotsGet" if slots else "Signals.NamesGet")["names"]
    return names


def _places(names: Sequence[str]) -> dict[str, int]:
    places = {}
    for key, name in conventions.SIGNAL_NAMES.items():
        try:
            places[key] = conventions.signal_index(names, name)
        except UsageError:
            continue  # a lock-in that is not there is told when it is needed
    if TIME in names:
        places["time"] = list(names).index(TIME)
    return places


def _info(
    channel: Channel, address: Address, signals: Signals, name: str, simulated: bool, scale: float
) -> DriverInfo:
    ranges = channel.ask("Piezo.RangeGet")
    low, high = z_range(channel)
    return DriverInfo(
        name=f"{name} at {address}",
        simulated=simulated,
        time_scale=scale,
        x_range_m=conventions.piezo_limits(ranges["range_x_m"]),
        y_range_m=conventions.piezo_limits(ranges["range_y_m"]),
        z_range_m=(low, high),
        bias_range_v=_signal_range(channel, signals, "bias") or (-OUTPUT_V, OUTPUT_V),
        preamplifier_rail_a=rail_a(channel, signals),
        pixel_step=conventions.PIXEL_STEP,
    )


def z_range(channel: Channel) -> tuple[float, float]:
    """Lowest and highest Z (m) as the limits are now.

    Raises:
        DriverError: they make no sense.
    """
    found = channel.ask("ZCtrl.LimitsGet")
    low, high = sorted((float(found["z_low_limit_m"]), float(found["z_high_limit_m"])))
    if not low < high:
        raise DriverError(f"{channel.link}: the limits of Z are {low:g} to {high:g} m.", "Set Z's limits.")
    return low, high


def _signal_range(channel: Channel, signals: Signals, key: str) -> tuple[float, float] | None:
    """(low, high) of a signal; None if the electronics do not tell."""
    if key not in signals.places:
        return None
    try:
        found = channel.ask("Signals.RangeGet", signal_index=signals.places[key])
    except DriverError as problem:
        if problem.details.get("outcome") != "refused":
            raise
        return None
    low, high = sorted((float(found["minimum_limit"]), float(found["maximum_limit"])))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def rail_a(channel: Channel, signals: Signals) -> float:
    """Where the measured current saturates (A): the smaller of what the signal and the gain say.

    Raises:
        DriverError: neither says anything.
    """
    told = []
    limits = _signal_range(channel, signals, "current")
    if limits is not None:
        told.append(min(abs(limits[0]), abs(limits[1])) or max(abs(limits[0]), abs(limits[1])))
    gain = _gain_v_a(channel)
    if gain:
        told.append(OUTPUT_V / gain)
    if not told:
        raise DriverError(
            f"{channel.link}: neither the current's range nor the preamplifier's gain can be read.",
            "Choose the preamplifier and its gain in the electronics.",
        )
    return min(told)


def _gain_v_a(channel: Channel) -> float | None:
    """The preamplifier's gain (V/A) from its name, like "LN 10^9" or "1E+9 V/A"; None if it tells none."""
    try:
        found = channel.ask("Current.GainsGet")
    except DriverError as problem:
        if problem.details.get("outcome") != "refused":
            raise
        return None
    gains, index = found["gains"], int(found["gain_index"])
    if not 0 <= index < len(gains):
        return None
    match = _GAIN.search(gains[index])
    if match is None:
        return None
    gain = 10.0 ** int(match["power"]) if match["power"] else float(match["number"])
    return gain if gain > 0.0 else None
