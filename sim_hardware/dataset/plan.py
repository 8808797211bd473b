"""The plan of a data set: every image as numbers, before anything is simulated.

A plan is a pure function of its ``Spec``: sample, count, seed, size.  Images come in the order train,
validation, test; an arrangement of defects, and a tip, belong to one of the three only.  Crops of one
arrangement lie apart from each other, turned and sized at random.  Each column is drawn from a stream of its
own, so that 100,000 images are planned in a second.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from sim_hardware.dataset.arrangements import EXTENT_M
from sim_hardware.dataset.ranges import RANGES, Bounds, Ranges
from sim_hardware.tunneling import decay_constant

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)
CROPS = 16
"""Of one arrangement, at most."""
IMAGES_PER_TIP = 100
LEAST_TIPS = 600
"""Tips, unless there are fewer images."""
LARGEST_COUNT = 10_000_000
SIZES = (16, 512)
"""Smallest and largest number of pixels along an edge."""
PLASTIC = 1.32471795724474602596
"""Its powers make the most even sequence of points in a square: M. Roberts, extremelearning.com.au (2018)."""
CONTINUUM_EXTENT_M = 40e-9
"""Edge of the area of a continuum sample that counts as one arrangement."""


@dataclass(frozen=True)
class Spec:
    """What determines a data set, byte by byte."""

    sample: str
    count: int
    seed: int = 0
    size: int = 64
    """Pixels along an edge."""

    def __post_init__(self) -> None:
        if self.sample not in RANGES:
            raise ConfigError(
                f"there are no data sets of {self.sample!r}.", f"There are some of {', '.join(RANGES)}."
            )
        if not 1 <= self.count <= LARGEST_COUNT:
            raise ConfigError(f"a data set has 1 to {LARGEST_COUNT} images, not {self.count}.")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise ConfigError(f"an image has {SIZES[0]} to {SIZES[1]} pixels along an edge, not {self.size}.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"a seed is a whole number from 0 on, not {self.seed}.")

    @property
    def ranges(self) -> Ranges:
        """Bounds of the parameters."""
        return RANGES[self.sample]

    @property
    def extent_m(self) -> float:
        """Edge of an arrangement's area."""
        return CONTINUUM_EXTENT_M if self.sample == "au111" else EXTENT_M


@dataclass(frozen=True)
class ImageRecipe:
    """One image.  SI units; lateral coordinates from the middle of the arrangement's area; angles ccw."""

    index: int
    split: int
    arrangement: int
    tip: int
    centre_x_m: float
    centre_y_m: float
    width_m: float
    angle_rad: float
    bias_v: float
    setpoint_a: float
    work_function_ev: float
    rate_hz: float
    ticks_per_pixel: int
    logarithmic: int
    proportional_m: float
    integral_m_s: float
    derivative_m_s: float
    bandwidth_hz: float
    gain_v_a: float
    voltage_noise_v: float
    """Per sqrt Hz."""
    flicker_share: float
    mains_a: float
    mains_phase_rad: float
    creep_gamma: float
    """0: none; so for those below."""
    approach_x_m: float
    approach_y_m: float
    hysteresis_beta: float
    hysteresis_range_m: float
    resonance_hz: float
    drift_x_m_s: float
    drift_y_m_s: float
    drift_z_m_s: float
    slope_x: float
    slope_y: float


COLUMNS = tuple(field.name for field in fields(ImageRecipe))
_WHOLE = frozenset({"index", "split", "arrangement", "tip", "ticks_per_pixel", "logarithmic"})


@dataclass(frozen=True)
class Plan:
    """``columns`` (name -> (count,)) of all images, how many arrangements and tips there are in each
    split."""

    spec: Spec
    columns: dict[str, npt.NDArray[np.generic]]
    arrangements: tuple[int, int, int]
    tips: tuple[int, int, int]

    def __len__(self) -> int:
        return self.spec.count

    def recipe(self, index: int) -> ImageRecipe:
        """One image."""
        return ImageRecipe(**{name: column[index].item() for name, column in self.columns.items()})

    def images(self, split: int) -> range:
        """Indices of a split's images."""
        ends = np.cumsum([0, *_parted(self.spec.count)])
        return range(int(ends[split]), int(ends[split + 1]))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all columns: two plans with the same are the same."""
        digest = hashlib.sha256(repr(self.spec).encode())
        for name, column in self.columns.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def plan(spec: Spec) -> Plan:
    """The plan of a data set."""
    images = _parted(spec.count)
    # As many crops of each arrangement as of the others, to one.
    arrangements = tuple(math.ceil(n / CROPS) if n > CROPS else n for n in images)
    wanted = max(min(spec.count, LEAST_TIPS), math.ceil(spec.count / IMAGES_PER_TIP))
    tips = tuple(min(n, t) for n, t in zip(images, _parted(wanted), strict=True))
    parts = [_numbered(spec, k, images[k], arrangements, tips) for k in range(len(SPLITS))]
    columns: dict[str, npt.NDArray[np.generic]] = {
        name: np.concatenate([part[name] for part in parts]) for name in ("split", "arrangement", "tip")
    }
    crop = np.concatenate([part["crop"] for part in parts])
    columns["index"] = np.arange(spec.count)
    columns |= _frames(spec, columns["arrangement"].astype(np.int64), crop)
    columns |= _electronics(spec, columns)
    columns |= _distortions(spec, columns["width_m"].astype(np.float64))
    return Plan(spec, {name: columns[name] for name in COLUMNS}, _three(arrangements), _three(tips))


def _three(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    a, b, c = numbers
    return a, b, c


def _parted(count: int) -> tuple[int, int, int]:
    """A count by ``SHARES``; each part has one at least if there are three."""
    least = 1 if count >= len(SPLITS) else 0
    validation, test = (max(least, int(share * count)) for share in SHARES[1:])
    return count - validation - test, validation, test


def _rng(spec: Spec, name: str) -> np.random.Generator:
    """A stream of its own for every column."""
    return np.random.default_rng([spec.seed, zlib.crc32(f"{spec.sample}/{name}".encode())])


def _numbered(
    spec: Spec, split: int, count: int, arrangements: tuple[int, ...], tips: tuple[int, ...]
) -> dict[str, Ints]:
    """Arrangements in turn, so that one shard has many of them; tips at random, each at least once."""
    turn = np.arange(count)
    own = max(arrangements[split], 1)
    tip = np.concatenate(
        [np.arange(tips[split]), _rng(spec, f"tip{split}").integers(max(tips[split], 1), size=count)]
    )
    return {
        "split": np.full(count, split),
        "arrangement": sum(arrangements[:split]) + turn % own,
        "crop": turn // own,
        "tip": sum(tips[:split]) + _rng(spec, f"order{split}").permutation(tip[:count]),
    }


def _uniform(spec: Spec, name: str, bounds: Bounds) -> Floats:
    return _rng(spec, name).uniform(*bounds, size=spec.count)


def _logarithmic(spec: Spec, name: str, bounds: Bounds) -> Floats:
    return np.exp(_rng(spec, name).uniform(np.log(bounds[0]), np.log(bounds[1]), size=spec.count))


def _some(spec: Spec, name: str, share: float) -> npt.NDArray[np.bool_]:
    """True for about ``share`` of the images."""
    return _rng(spec, f"some {name}").uniform(size=spec.count) < share


def _frames(spec: Spec, arrangement: Ints, crop: Ints) -> dict[str, npt.NDArray[np.generic]]:
    """Centres on an even sequence with an offset for each arrangement, so that crops keep apart."""
    width = _uniform(spec, "width", spec.ranges.width_m)
    # A turned frame stays within the arrangement's area.
    room = 0.5 * spec.extent_m - 0.75 * spec.ranges.width_m[1]
    shift = _rng(spec, "shift").uniform(size=(int(arrangement.max()) + 1, 2))[arrangement]
    even = np.mod(shift + crop[:, None] * np.array([1.0 / PLASTIC, 1.0 / PLASTIC**2]), 1.0)
    jitter = _rng(spec, "jitter").uniform(-0.02, 0.02, size=even.shape)
    centre = room * (2.0 * even - 1.0 + jitter)
    return {
        "centre_x_m": centre[:, 0],
        "centre_y_m": centre[:, 1],
        "width_m": width,
        "angle_rad": _uniform(spec, "angle", (0.0, 2.0 * np.pi)),
    }


def _electronics(
    spec: Spec, columns: dict[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Bias, setpoint, controller and noise."""
    ranges, count = spec.ranges, spec.count
    intervals = np.array(ranges.biases_v)[_rng(spec, "interval").integers(len(ranges.biases_v), size=count)]
    bias = intervals[:, 0] + _rng(spec, "bias").uniform(size=count) * (intervals[:, 1] - intervals[:, 0])
    work = _uniform(spec, "work function", ranges.work_function_ev)
    rate = np.array(ranges.rate_hz)[_rng(spec, "rate").integers(len(ranges.rate_hz), size=count)]
    low, high = ranges.ticks_per_pixel
    ticks = _rng(spec, "ticks").integers(low, high + 1, size=count)
    amplifier = _rng(spec, "amplifier").integers(len(ranges.gains_v_a), size=count)
    band = np.array(ranges.bandwidths_hz)[amplifier]
    corner = rate / ticks / (2.0 * np.pi * _logarithmic(spec, "lag", ranges.lag_pixels))
    corner = np.minimum(corner, np.minimum(ranges.tightest * band, 0.05 * rate))
    twice_kappa = np.array([2.0 * decay_constant(w) for w in work])
    proportional = np.where(
        _some(spec, "proportional", 0.5), _uniform(spec, "proportional", ranges.proportional), 0.0
    )
    derivative = np.where(
        _some(spec, "derivative", 0.2), _uniform(spec, "derivative", ranges.derivative), 0.0
    )
    return {
        "bias_v": bias,
        "setpoint_a": _logarithmic(spec, "setpoint", ranges.setpoint_a),
        "work_function_ev": work,
        "rate_hz": rate,
        "ticks_per_pixel": ticks,
        "logarithmic": _some(spec, "logarithmic", ranges.logarithmic_share).astype(np.int64),
        "proportional_m": proportional / twice_kappa,
        "integral_m_s": 2.0 * np.pi * corner / twice_kappa,
        "derivative_m_s": derivative / twice_kappa / rate,
        "bandwidth_hz": band,
        "gain_v_a": np.array(ranges.gains_v_a)[amplifier],
        "voltage_noise_v": 4e-9 * _logarithmic(spec, "noise", ranges.noise_factor),
        "flicker_share": _logarithmic(spec, "flicker", ranges.flicker_share),
        "mains_a": _logarithmic(spec, "mains", ranges.mains_a),
        "mains_phase_rad": _uniform(spec, "mains phase", (0.0, 2.0 * np.pi)),
    }


def _distortions(spec: Spec, width_m: Floats) -> dict[str, npt.NDArray[np.generic]]:
    ranges = spec.ranges

    def given(name: str, values: Floats) -> Floats:
        return np.where(_some(spec, name, 1.0 - ranges.without), values, 0.0)

    way = (-ranges.approach_m, ranges.approach_m)
    speed = given("drift", ranges.drift_m_s * np.sqrt(_uniform(spec, "speed", (0.0, 1.0))))
    heading = _uniform(spec, "heading", (0.0, 2.0 * np.pi))
    slopes = (-ranges.slope, ranges.slope)
    return {
        "creep_gamma": given("creep", _uniform(spec, "gamma", ranges.creep_gamma)),
        "approach_x_m": _uniform(spec, "approach x", way),
        "approach_y_m": _uniform(spec, "approach y", way),
        "hysteresis_beta": given("hysteresis", _uniform(spec, "beta", ranges.hysteresis_beta)),
        "hysteresis_range_m": _logarithmic(spec, "hysteresis range", ranges.hysteresis_range_m),
        "resonance_hz": _logarithmic(spec, "resonance", ranges.resonance_hz),
        "drift_x_m_s": speed * np.cos(heading),
        "drift_y_m_s": speed * np.sin(heading),
        "drift_z_m_s": 0.2 * speed * _uniform(spec, "vertical", (-1.0, 1.0)),
        "slope_x": given("tilt", _uniform(spec, "slope x", slopes)),
        "slope_y": given("tilt", _uniform(spec, "slope y", slopes)),
    }
