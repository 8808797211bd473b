"""A simulated SR830 lock-in amplifier: its command set, and a sample that answers its modulation.

Commands and ranges as in the SR830 manual (Stanford Research Systems), chapter 5.  The signal is the sine
output through a sample: amplitude x gain at its phase, low-passed by an RC of the wiring; the outputs X and Y
relax with the filter's time constant and order after every change.
"""

from __future__ import annotations

import cmath
import math
import random
from dataclasses import dataclass

from protocols.errors import ConfigError
from protocols.instrument.auxiliary import SR830_AMPLITUDE_STEP_V, SR830_TIME_CONSTANTS_S
from sim_hardware.serial_line.device import Device, OutOfRangeError, within

SENSITIVITIES_V = tuple(digit * 10.0**power for power in range(-9, 1) for digit in (1, 2, 5))[1:28]
"""2 nV to 1 V, by the index of SENS."""
OVER_RANGE = 1.09
"""Of the sensitivity, where the outputs saturate."""
SLOWEST_FAST_S = 30.0
"""Longest time constant above 200 Hz."""
DETECTION_LIMIT_HZ = 102e3
INPUT_NOISE_V = 6e-9
"""Per root Hz, at the input (specification)."""
OUTPUT_OVERLOAD = 4
TIME_CONSTANT_CHANGED = 32


@dataclass
class Sample:
    """What hangs between sine output and input: in-phase gain, its phase, the wiring's RC, and the second
    harmonic it makes (V per V squared)."""

    gain: float = 0.1
    phase_rad: float = -0.35
    rc_s: float = 2e-6
    second_harmonic: float = 0.02


def filter_step(elapsed_s: float, time_constant_s: float, order: int) -> float:
    """Share of a step that ``order`` equal RC filters in a row have followed after ``elapsed_s``:
    1 - exp(-u) sum over k < order of u^k / k! with u = t / tau."""
    u = max(elapsed_s, 0.0) / time_constant_s
    if u > 700:
        return 1.0
    return 1.0 - math.exp(-u) * sum(u**k / math.factorial(k) for k in range(order))


class SimulatedSR830(Device):
    """One SR830.  ``seed`` fixes its noise."""

    name = "sr830"
    terminator = "\r"
    ends = b"\r\n"
    one_line = False

    def __init__(self, seed: int = 0, serial_number: int = 46117, sample: Sample | None = None) -> None:
        super().__init__()
        self.identity = f"Stanford_Research_Systems,SR830,s/n{serial_number},ver1.07 "
        self.sample = sample or Sample()
        self._random = random.Random(seed)
        self._status = 0
        self._errors = 0
        self._from = 0j
        """Outputs X + iY at the last change."""
        self._changed_s = 0.0
        self._choices: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Factory settings (manual, 5-3)."""
        self.amplitude_v, self.frequency_hz, self.phase_deg, self.harmonic = 1.0, 1000.0, 0.0, 1
        self.time_constant, self.sensitivity, self.slope = 8, 26, 1
        self._choices = dict.fromkeys(MOST_CHOICES, 0)
        self._choices |= {"FMOD": 1, "RMOD": 1, "OVRM": 1, "SRAT": 4, "SEND": 1, "KCLK": 1, "ALRM": 1}
        self._displays = {1: (0, 0), 2: (0, 0)}
        self._offsets = {1: (0.0, 0), 2: (0.0, 0), 3: (0.0, 0)}
        self._aux_v = dict.fromkeys(range(1, 5), 0.0)

    # ---- commands ----

    def obey(self, line: str, now_s: float) -> list[str]:
        """Carry out one line; the answers leave by the other interface (GPIB) while OUTX is 1."""
        answers = super().obey(line, now_s)
        return [] if self._choices["OUTX"] else answers

    def command(self, command: str) -> str:
        """Carry out one command of the SR830."""
        text = command.upper().replace(" ", "")
        word, given = text[:4], text[4:]
        query = given.startswith("?")
        parts = [p for p in given.removeprefix("?").split(",") if p]
        if word in self._choices:
            return self._choose(word, query, parts)
        handler = getattr(self, f"_{word.lower()}", None) if word.isalpha() else None
        if handler is None:
            raise ValueError(f"no command {word}")
        found = handler(query, parts)
        return str(found) if found is not None else ""

    def _choose(self, word: str, query: bool, parts: list[str]) -> str:
        if query:
            return str(self._choices[word])
        self._choices[word] = int(within(int(parts[0]), 0, MOST_CHOICES[word]))
        return ""

    def _freq(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return f"{self.frequency_hz:.6g}"
        if self._choices["FMOD"] != 1:
            raise OutOfRangeError("the reference is external")
        wanted = within(float(parts[0]), 1e-3, DETECTION_LIMIT_HZ)
        within(wanted * self.harmonic, 1e-3, DETECTION_LIMIT_HZ)
        step = max(1e-4, 10.0 ** (math.floor(math.log10(wanted)) - 4))  # five digits or 0.1 mHz
        self._change()
        self.frequency_hz = round(wanted / step) * step
        if self.frequency_hz * self.harmonic > 200 and self._tau > SLOWEST_FAST_S:
            self.time_constant, self._status = 12, self._status | TIME_CONSTANT_CHANGED
        return None

    def _slvl(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return f"{self.amplitude_v:.3f}"
        wanted = within(float(parts[0]), 0.004, 5.0)
        self._change()
        self.amplitude_v = round(wanted / SR830_AMPLITUDE_STEP_V) * SR830_AMPLITUDE_STEP_V
        return None

    def _phas(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return f"{self.phase_deg:.2f}"
        wanted = within(float(parts[0]), -360.0, 729.99)
        self._change()
        self.phase_deg = round((wanted + 180.0) % 360.0 - 180.0, 2)
        return None

    def _harm(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return str(self.harmonic)
        wanted = int(within(int(parts[0]), 1, 19999))
        within(wanted * self.frequency_hz, 0, DETECTION_LIMIT_HZ)
        self._change()
        self.harmonic = wanted
        return None

    def _oflt(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return str(self.time_constant)
        wanted = int(within(int(parts[0]), 0, len(SR830_TIME_CONSTANTS_S) - 1))
        if SR830_TIME_CONSTANTS_S[wanted] > SLOWEST_FAST_S and self.frequency_hz * self.harmonic > 200:
            raise OutOfRangeError("over 30 s only below 200 Hz")
        self._change()
        self.time_constant = wanted
        return None

    def _ofsl(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return str(self.slope)
        wanted = int(within(int(parts[0]), 0, 3))
        self._change()
        self.slope = wanted
        return None

    def _sens(self, query: bool, parts: list[str]) -> str | None:
        if query:
            return str(self.sensitivity)
        self.sensitivity = int(within(int(parts[0]), 0, len(SENSITIVITIES_V) - 1))
        return None

    def _outp(self, _query: bool, parts: list[str]) -> str:
        return _number(self._parameter(int(within(int(parts[0]), 1, 4))))

    def _outr(self, _query: bool, parts: list[str]) -> str:
        return _number(self._display(int(within(int(parts[0]), 1, 2))))

    def _snap(self, _query: bool, parts: list[str]) -> str:
        wanted = [int(within(int(p), 1, 11)) for p in parts]
        within(len(wanted), 2, 6)
        output = self._output()
        return ",".join(_number(self._parameter(number, output)) for number in wanted)

    def _oaux(self, _query: bool, parts: list[str]) -> str:
        return _number(self._parameter(4 + int(within(int(parts[0]), 1, 4))))

    def _auxv(self, query: bool, parts: list[str]) -> str | None:
        number = int(within(int(parts[0]), 1, 4))
        if query:
            return f"{self._aux_v[number]:.3f}"
        self._aux_v[number] = within(float(parts[1]), -10.5, 10.5)
        return None

    def _ddef(self, query: bool, parts: list[str]) -> str | None:
        number = int(within(int(parts[0]), 1, 2))
        if query:
            return ",".join(str(v) for v in self._displays[number])
        self._displays[number] = (int(within(int(parts[1]), 0, 4)), int(within(int(parts[2]), 0, 2)))
        return None

    def _oexp(self, query: bool, parts: list[str]) -> str | None:
        number = int(within(int(parts[0]), 1, 3))
        if query:
            percent, expand = self._offsets[number]
            return f"{percent:.2f},{expand}"
        self._offsets[number] = (within(float(parts[1]), -105, 105), int(within(int(parts[2]), 0, 2)))
        return None

    def _lias(self, _query: bool, _parts: list[str]) -> str:
        self._output()  # an overload now shows now
        found, self._status = self._status, 0
        return str(found)

    def _errs(self, _query: bool, _parts: list[str]) -> str:
        found, self._errors = self._errors, 0
        return str(found)

    def _agan(self, _query: bool, _parts: list[str]) -> None:
        """Auto gain: the smallest sensitivity that holds the magnitude."""
        magnitude = abs(self._settled())
        fitting = [n for n, full in enumerate(SENSITIVITIES_V) if magnitude < 0.9 * full]
        self.sensitivity = fitting[0] if fitting else len(SENSITIVITIES_V) - 1

    def _aphs(self, _query: bool, _parts: list[str]) -> None:
        """Auto phase: Y becomes 0."""
        theta = math.degrees(cmath.phase(self._output(noise=False)))
        self._change()
        self.phase_deg = round((self.phase_deg + theta + 180.0) % 360.0 - 180.0, 2)

    # ---- physics ----

    @property
    def _tau(self) -> float:
        return SR830_TIME_CONSTANTS_S[self.time_constant]

    def _settled(self) -> complex:
        """X + iY once the filter has settled (V rms)."""
        sample, frequency = self.sample, self.frequency_hz * self.harmonic
        match self.harmonic:
            case 1:
                size = sample.gain * self.amplitude_v
            case 2:
                size = sample.second_harmonic * self.amplitude_v**2
            case _:
                size = 0.0
        wiring = 1 / (1 + 2j * math.pi * frequency * sample.rc_s)
        return size * wiring * cmath.exp(1j * (sample.phase_rad - math.radians(self.phase_deg)))

    def _output(self, noise: bool = True) -> complex:
        """X + iY now: relaxing from what it was at the last change, with noise, within the full scale."""
        share = filter_step(self.now_s - self._changed_s, self._tau, self.slope + 1)
        value = self._from + (self._settled() - self._from) * share
        if not noise:
            return value
        sigma = INPUT_NOISE_V / math.sqrt(4 * self._tau)
        value += complex(self._random.gauss(0, sigma), self._random.gauss(0, sigma))
        full = OVER_RANGE * SENSITIVITIES_V[self.sensitivity]
        if max(abs(value.real), abs(value.imag)) > full:
            self._status |= OUTPUT_OVERLOAD
        return complex(min(max(value.real, -full), full), min(max(value.imag, -full), full))

    def _change(self) -> None:
        """A setting is about to change: the output goes on from where it is."""
        self._from, self._changed_s = self._output(noise=False), self.now_s

    def _parameter(self, number: int, output: complex | None = None) -> float:
        """Value by its number in SNAP?."""
        value = self._output() if output is None else output
        match number:
            case 1:
                return value.real
            case 2:
                return value.imag
            case 3:
                return abs(value)
            case 4:
                return math.degrees(cmath.phase(value))
            case 9:
                return self.frequency_hz
            case 10 | 11:
                return self._display(number - 9, value)
            case _:
                return round(self._random.gauss(0, 1e-3) * 3000) / 3000  # auxiliary inputs, left open

    def _display(self, number: int, output: complex | None = None) -> float:
        kind = self._displays[number][0]
        shown = {1: {0: 1, 1: 3, 3: 5, 4: 6}, 2: {0: 2, 1: 4, 3: 7, 4: 8}}[number]
        return self._parameter(shown.get(kind, 1), output)

    # ---- for tests ----

    def set_quantity(self, quantity: str, value: float) -> None:
        """Change the sample ("gain", "phase") or what a hand at the front panel changes ("amplitude",
        "frequency").

        Raises:
            ConfigError: no such quantity.
        """
        match quantity:
            case "gain":
                self._change()
                self.sample.gain = value
            case "phase":
                self._change()
                self.sample.phase_rad = value
            case "amplitude":
                self._slvl(False, [str(value)])
            case "frequency":
                self._freq(False, [str(value)])
            case _:
                raise ConfigError(
                    f"a simulated SR830 has gain, phase, amplitude and frequency, not {quantity!r}."
                )

    def quantities(self) -> dict[str, float]:
        """What is true now, without noise."""
        value = self._output(noise=False)
        return {
            "x": value.real,
            "y": value.imag,
            "amplitude": self.amplitude_v,
            "frequency": self.frequency_hz,
            "time_constant": self._tau,
        }


MOST_CHOICES = {
    "FMOD": 1, "RSLP": 2, "ISRC": 3, "IGND": 1, "ICPL": 1, "ILIN": 3, "RMOD": 2, "SYNC": 1, "OUTX": 1,
    "OVRM": 1, "SRAT": 14, "SEND": 1, "TSTR": 1, "KCLK": 1, "ALRM": 1,
}  # fmt: skip
"""Largest value of the settings that are a choice."""


def _number(value: float) -> str:
    return f"{value:.6g}"
