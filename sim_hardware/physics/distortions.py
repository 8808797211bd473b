"""What bends an image: piezo creep and hysteresis, tilt, thermal drift, and how fast the scanner is driven.

- Creep y = y0 [1 + gamma ln(t / t0)] after a step (V. Luzny, Synthetic STM Imaging, slide "Lateral
  Distortions"; H. Jung and D.-G. Gweon, Rev. Sci. Instrum. 71, 1896 (2000)), superposed over the drive's
  history with ln(1 + t / t0), which begins at 0 and is the same from t >> t0 on.
- Hysteresis y = alpha V + beta H, dH/dt = A dV/dt - B |dV/dt| H - C dV/dt |H| (same source, slide
  "Hysteresis", with the fourth-order Runge-Kutta method of its supplement; T. S. Low and W. Guo,
  J. Microelectromech. Syst. 4, 230 (1995)).
- Drift whose velocity wanders about a mean: an Ornstein-Uhlenbeck process, integrated exactly
  (G. E. Uhlenbeck and L. S. Ornstein, Phys. Rev. 36, 823 (1930)).
- The scanner as a driven oscillator behind an amplifier: lag, and ringing after each turn of a fast line.

Coordinates in m, x and y in the sample's plane, z away from it; times in s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg import expm
from scipy.signal import fftconvolve

from protocols.errors import UsageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CreepSettings:
    """``gamma``: share of a step that follows per factor e in time; ``onset_s``: t0."""

    gamma: float = 0.006
    """1.4 % per decade, of a typical soft PZT."""
    onset_s: float = 0.1


def creep_after_step(step_m: float, times_s: Floats, settings: CreepSettings) -> Floats:
    """Position (m) at times after a step of the drive, any shape; 0 before it."""
    after = np.maximum(times_s, 0.0)
    moved = step_m * (1.0 + settings.gamma * np.log1p(after / settings.onset_s))
    return np.asarray(np.where(times_s >= 0.0, moved, 0.0))


def creeping(drive_m: Floats, step_s: float, settings: CreepSettings) -> Floats:
    """Position (m) for a drive (..., n) sampled every ``step_s`` that rested at its first value before.

    The superposition of the answers to all the drive's steps; each sample's step has just been made, so it
    has not yet crept.
    """
    jumps = np.diff(drive_m, axis=-1, prepend=drive_m[..., :1])
    count = drive_m.shape[-1]
    memory = settings.gamma * np.log1p(step_s * np.arange(count) / settings.onset_s)
    memory = memory.reshape((1,) * (drive_m.ndim - 1) + (count,))
    return np.asarray(drive_m + fftconvolve(jumps, memory, axes=-1)[..., :count])


@dataclass(frozen=True)
class BoucWen:
    """Position per drive ``alpha``, hysteretic part ``beta`` (negative: the position lags, as in a piezo).

    ``a``, ``b`` (1/V) and ``c`` (1/V) are the A, B and C above, with the drive in any unit in place of V.
    """

    alpha: float = 1.08
    beta: float = -0.16
    a: float = 1.0
    b: float = 4.0
    c: float = -1.0

    def saturation(self) -> float:
        """|H| that a long way in one direction approaches: A / (B + C)."""
        return self.a / (self.b + self.c)

    def monotone(self, start: float, way: Floats) -> Floats:
        """H after a way (any shape) without turning: the closed form, as long as H keeps its sign.

        Toward +V with H >= 0, H = S - (S - H0) exp(-(B + C) V) with S = A / (B + C); the other three cases
        have B - C where H opposes the way.
        """
        sign = np.where(way >= 0.0, 1.0, -1.0)
        rate = np.where(start * sign >= 0.0, self.b + self.c, self.b - self.c)
        level = sign * self.a / rate
        return np.asarray(level - (level - start) * np.exp(-rate * np.abs(way)))

    def state(self, drive: Floats, substeps: int = 4, start: float | Floats = 0.0) -> Floats:
        """H along a drive (..., n), linear between its samples, by classical Runge-Kutta: same shape.

        It does not depend on how fast the drive moves, so steps of the drive take the place of time.
        ``start``: H at the first sample, shape (...).  The error of a step is (B + |C|)^5 |dV|^5 / 120.
        """
        steps = np.moveaxis(np.diff(drive, axis=-1), -1, 0) / substeps
        out = np.empty(drive.shape)
        h = np.broadcast_to(np.asarray(start, dtype=np.float64), drive.shape[:-1]).copy()
        out[..., 0] = h
        for n, dv in enumerate(steps, start=1):
            forced, length = self.a * dv, np.abs(dv)
            for _ in range(substeps):
                k1 = forced - self.b * length * h - self.c * dv * np.abs(h)
                h2 = h + 0.5 * k1
                k2 = forced - self.b * length * h2 - self.c * dv * np.abs(h2)
                h3 = h + 0.5 * k2
                k3 = forced - self.b * length * h3 - self.c * dv * np.abs(h3)
                h4 = h + k3
                k4 = forced - self.b * length * h4 - self.c * dv * np.abs(h4)
                h = h + (k1 + 2.0 * k2 + 2.0 * k3 + k4) / 6.0
            out[..., n] = h
        return out

    def position(self, drive: Floats, substeps: int = 4, start: float | Floats = 0.0) -> Floats:
        """alpha V + beta H along a drive (..., n): same shape."""
        return self.alpha * drive + self.beta * self.state(drive, substeps, start)


def tilt(x_m: Floats, y_m: Floats, slope_x: float, slope_y: float) -> Floats:
    """Height (m) of a plane with slopes dz/dx and dz/dy, any shape."""
    return np.asarray(slope_x * x_m + slope_y * y_m)


@dataclass(frozen=True)
class DriftSettings:
    """Of x, y, z: mean velocity and rms of its wander (m/s), correlation time (s), jitter (m)."""

    mean_m_s: tuple[float, float, float] = (1e-12, 0.5e-12, 0.2e-12)
    wander_m_s: tuple[float, float, float] = (0.5e-12, 0.5e-12, 0.1e-12)
    correlation_s: float = 1800.0
    jitter_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


def wandering_drift(
    times_s: Floats, settings: DriftSettings, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Offset (m) since the first time and velocity (m/s) at ascending times (n,): both (n, 3).

    Exact at any spacing: over a step the wander w and the way it covers are jointly Gaussian.  With
    r = exp(-dt / tau) and rms s, var w = s^2 (1 - r^2), var x = s^2 tau^2 (2 dt / tau - 3 + 4 r - r^2) and
    cov = s^2 tau (1 - r)^2.  The jitter is added to the offset alone.
    """
    mean, rms = np.array(settings.mean_m_s), np.array(settings.wander_m_s)
    tau = settings.correlation_s
    wander = rms * rng.normal(size=3)
    offset = np.zeros(3)
    offsets, velocities = np.empty((len(times_s), 3)), np.empty((len(times_s), 3))
    gaps = np.diff(times_s, prepend=times_s[:1])
    if np.any(gaps < 0.0):
        raise UsageError("the times of a drift have to ascend.")
    for n, gap in enumerate(gaps):
        if gap > 0.0:
            way, kick = _wander_step(gap / tau, rng)
            decay = np.exp(-gap / tau)
            offset = offset + mean * gap + tau * (wander * (1.0 - decay) + rms * way)
            wander = wander * decay + rms * kick
        offsets[n], velocities[n] = offset, mean + wander
    return offsets + rng.normal(size=offsets.shape) * np.array(settings.jitter_m), velocities


def _wander_step(ratio: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Random parts of way (in s tau) and wander (in s) over ``ratio`` correlation times: each (3,)."""
    r = np.exp(-ratio)
    kick_variance = -np.expm1(-2.0 * ratio)
    # 2 x - 3 + 4 r - r^2 loses all digits at small x, where it is 2 x^3 / 3.
    exact = 2.0 * ratio - 3.0 + 4.0 * r - r * r
    way_variance = exact if ratio > 1e-3 else 2.0 / 3.0 * ratio**3 * (1.0 - 0.75 * ratio)
    covariance = np.expm1(-ratio) ** 2
    kick = np.sqrt(kick_variance) * rng.normal(size=3)
    rest = max(way_variance - covariance**2 / kick_variance, 0.0)
    return covariance / kick_variance * kick + np.sqrt(rest) * rng.normal(size=3), kick


@dataclass(frozen=True)
class ScannerSettings:
    """Lowest resonance (Hz) and its quality factor, and the high-voltage amplifier's time constant (s)."""

    resonance_hz: float = 1500.0
    quality: float = 20.0
    amplifier_s: float = 50e-6

    def response(self, frequency_hz: Floats) -> npt.NDArray[np.complex128]:
        """Position over drive, any shape: w0^2 / (w0^2 - w^2 + i w w0 / Q) / (1 + i w tau)."""
        w, w0 = 2.0 * np.pi * np.asarray(frequency_hz), 2.0 * np.pi * self.resonance_hz
        oscillator = w0**2 / (w0**2 - w**2 + 1j * w * w0 / self.quality)
        return np.asarray(oscillator / (1.0 + 1j * w * self.amplifier_s))

    def lag_s(self) -> float:
        """How late the position is on a steady ramp: 1 / (Q w0) + tau.  Image shift is speed times this."""
        return 1.0 / (self.quality * 2.0 * np.pi * self.resonance_hz) + self.amplifier_s


def scanned(drive_m: Floats, step_s: float, settings: ScannerSettings) -> Floats:
    """Position (m) for a drive (..., n), linear between samples ``step_s`` apart, at rest before: same shape.

    Exact: the matrix exponential of the oscillator, the amplifier and the ramp of the drive.
    """
    w0, tau = 2.0 * np.pi * settings.resonance_hz, settings.amplifier_s
    # State: position, speed / w0, amplifier, drive, ramp of the drive over a step.
    flow = np.zeros((5, 5))
    flow[0, 1] = w0
    flow[1, :3] = -w0, -w0 / settings.quality, w0
    flow[2, 2:4] = -1.0 / tau, 1.0 / tau
    flow[3, 4] = 1.0 / step_s
    step = expm(flow * step_s)
    rows = drive_m.reshape(-1, drive_m.shape[-1])
    state = np.stack([rows[:, 0], np.zeros(len(rows)), rows[:, 0]])
    out = np.empty(rows.shape)
    out[:, 0] = rows[:, 0]
    ramps = np.diff(rows, axis=-1)
    for n in range(rows.shape[1] - 1):
        state = step[:3, :3] @ state + step[:3, 3, None] * rows[:, n] + step[:3, 4, None] * ramps[:, n]
        out[:, n + 1] = state[0]
    return out.reshape(drive_m.shape)


@dataclass(frozen=True)
class Raster:
    """A frame as the scanner is driven: lines forward and backward, from the lowest to the highest.

    ``line_s`` is the time of one direction of a line; ``turn_s`` that at each end, in which the next line's y
    is reached.
    """

    centre_m: tuple[float, float] = (0.0, 0.0)
    width_m: float = 10e-9
    height_m: float = 10e-9
    pixels: int = 64
    lines: int = 64
    angle_rad: float = 0.0
    line_s: float = 0.2
    turn_s: float = 0.01
    samples_per_pixel: int = 4

    @property
    def sample_s(self) -> float:
        """Time between samples of the drive."""
        return self.line_s / (self.pixels * self.samples_per_pixel)

    @property
    def turn_samples(self) -> int:
        """Samples in one turn."""
        return max(1, round(self.turn_s / self.sample_s))

    def drive(self) -> tuple[Floats, Floats, Floats]:
        """Times (s) and drive (m) along the frame's own axes from its centre: fast and slow, each (n,)."""
        run, turn = self.pixels * self.samples_per_pixel, self.turn_samples
        # A sample stands for the middle of its time, so that forward and backward are mirror images.
        across = self.width_m * ((np.arange(run) + 0.5) / run - 0.5)
        beyond = self.width_m * (0.5 - 0.5 / run)
        fast = np.concatenate([across, np.full(turn, beyond), across[::-1], np.full(turn, -beyond)])
        levels = self.height_m * ((np.arange(self.lines) + 0.5) / self.lines - 0.5)
        climb = np.linspace(0.0, 1.0, turn)
        slow = np.repeat(levels[:, None], 2 * run + 2 * turn, axis=1)
        slow[:-1, -turn:] += np.diff(levels)[:, None] * climb
        fast_all = np.tile(fast, self.lines)
        times = self.sample_s * (np.arange(fast_all.size, dtype=np.float64) + 0.5)
        return np.asarray(times), fast_all, np.asarray(slow.ravel())

    def pixel_samples(self) -> npt.NDArray[np.intp]:
        """Where in the drive the pixels' middles are: (2, lines, pixels), forward and backward.

        Columns ascend in x for both.
        """
        run, turn = self.pixels * self.samples_per_pixel, self.turn_samples
        middle = np.arange(self.pixels) * self.samples_per_pixel + self.samples_per_pixel // 2
        back = run + turn + run - 1 - middle
        starts = np.arange(self.lines)[:, None] * (2 * run + 2 * turn)
        return np.stack([starts + middle, starts + back])


@dataclass(frozen=True)
class Distortions:
    """Everything that bends a frame; None leaves an effect out."""

    creep: CreepSettings | None = None
    hysteresis: BoucWen | None = None
    hysteresis_range_m: float = 100e-9
    """The drive that counts as 1 in the hysteresis: what the scanner's full range would be."""
    scanner: ScannerSettings | None = None
    drift: DriftSettings | None = None
    slope_x: float = 0.0
    slope_y: float = 0.0
    approach_m: tuple[float, float] = field(default=(0.0, 0.0))
    """From where (x, y in m from the frame's centre) the tip came right before: it makes creep."""


@dataclass(frozen=True)
class TruePlaces:
    """Where the tip really was over the sample at every pixel: four arrays (2, lines, pixels), forward first.

    ``lift_m`` is what tilt and vertical drift add to the surface's height; ``times_s`` count from the frame's
    start.
    """

    x_m: Floats
    y_m: Floats
    lift_m: Floats
    times_s: Floats


def true_places(raster: Raster, distortions: Distortions, rng: np.random.Generator) -> TruePlaces:
    """Follow the tip through a frame.

    The drive passes hysteresis, creep and the scanner's dynamics on each of the tube's axes; then the sample
    drifts away below it.  Without any of them the places are the raster's.
    """
    times, fast, slow = raster.drive()
    cos, sin = np.cos(raster.angle_rad), np.sin(raster.angle_rad)
    drives = np.stack([cos * fast - sin * slow, sin * fast + cos * slow])
    moved = drives
    if distortions.hysteresis is not None:
        scale = distortions.hysteresis_range_m
        moved = scale * distortions.hysteresis.position(moved / scale, substeps=1)
    if distortions.creep is not None:
        from_there = np.array(distortions.approach_m)[:, None]
        padded = np.concatenate([from_there, moved], axis=1)
        moved = creeping(padded, raster.sample_s, distortions.creep)[:, 1:]
    if distortions.scanner is not None:
        moved = scanned(moved, raster.sample_s, distortions.scanner)
    at = raster.pixel_samples()
    x, y = (axis[at] + centre for axis, centre in zip(moved, raster.centre_m, strict=True))
    lift = tilt(x, y, distortions.slope_x, distortions.slope_y)
    when = times[at]
    if distortions.drift is not None:
        order = np.argsort(when, axis=None)
        offsets = np.empty((when.size, 3))
        offsets[order], _ = wandering_drift(when.ravel()[order], distortions.drift, rng)
        dx, dy, dz = (offsets[:, k].reshape(when.shape) for k in range(3))
        x, y, lift = x - dx, y - dy, lift + dz
    return TruePlaces(x, y, lift, when)
