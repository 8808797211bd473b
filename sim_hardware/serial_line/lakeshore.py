"""A simulated Lake Shore 335 or 336: its command set, and a small cryostat that it heats.

Commands as in the manuals of the Models 335 and 336 (Lake Shore Cryotronics), chapter 6.  The cryostat: a
stage of heat capacity C on a link of conductance G to a bath, heated by output 1; further inputs follow the
stage with a lag.  In closed loop the heater brings the stage to the setpoint with a time constant of its own,
as far as its range allows.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from protocols.errors import ConfigError
from sim_hardware.serial_line.device import Device, OutOfRangeError, within

HIGHEST_K = 1500.0
INVALID = 1
LONGEST_STEP_S = 0.05
"""Of the integration, in time constants of the fastest part."""
STEPS = 400
"""Most steps for one look: after a long time nobody has asked, only the last of them matter."""


@dataclass
class Cryostat:
    """Bath and stage in K, J/K, W/K; ``loop_s`` is the closed loop's time constant, ``lag_s`` that of input n
    behind the stage (times n)."""

    bath_k: float = 4.2
    capacity_j_k: float = 0.5
    link_w_k: float = 0.05
    loop_s: float = 2.0
    lag_s: float = 1.0
    noise_k: float = 2e-4

    @property
    def open_loop_s(self) -> float:
        """Time constant towards the bath."""
        return self.capacity_j_k / self.link_w_k


@dataclass
class Output:
    """One heater output."""

    setpoint_k: float = 4.2
    range: int = 0
    """0 off, 1 low, 2 medium, 3 high."""
    pid: tuple[float, float, float] = (50.0, 20.0, 0.0)
    ramp: tuple[int, float] = (0, 0.1)
    """On or off, K per minute."""
    manual_percent: float = 0.0
    mode: tuple[int, int, int] = (1, 1, 0)
    aim_k: float = 4.2
    """Where the ramp has arrived."""


POWER_W = {0: 0.0, 1: 0.5, 2: 5.0, 3: 50.0}
"""Of output 1 by range, into 50 ohm."""


class SimulatedLakeShore(Device):
    """One controller.  ``seed`` fixes its noise."""

    terminator = "\r\n"
    ends = b"\n"
    one_line = True

    def __init__(
        self,
        model: int = 335,
        seed: int = 0,
        temperature_k: float = 4.2,
        serial_number: str = "3350137",
        cryostat: Cryostat | None = None,
    ) -> None:
        super().__init__()
        self.name = f"lakeshore{model}"
        self.identity = f"LSCI,MODEL{model},{serial_number}/0000000,1.6"
        self.inputs = ("A", "B") if model == 335 else ("A", "B", "C", "D")
        self.cryostat = cryostat or Cryostat(bath_k=temperature_k)
        self._random = random.Random(seed)
        self._sensors = dict.fromkeys(self.inputs, temperature_k)
        self._power_w = 0.0
        self._at_s = 0.0
        self.broken: set[str] = set()
        """Inputs whose sensor gives nothing."""
        self._names = {i: f"Input {i}" for i in self.inputs}
        self._tlimits = dict.fromkeys(self.inputs, 0.0)
        self._plain = {"BRIGT": "2", "MODE": "1", "LEDS": "1", "LOCK": "0,123"}
        self.outputs: dict[int, Output] = {}
        self.reset()

    def reset(self) -> None:
        """Power-up settings; the cryostat stays as cold as it is."""
        count = 2 if len(self.inputs) == 2 else 4
        self.outputs = {
            n: Output(setpoint_k=self._sensors["A"], aim_k=self._sensors["A"]) for n in range(1, count + 1)
        }

    # ---- commands ----

    def command(self, command: str) -> str:
        """Carry out one command of the Model 335."""
        self._advance(self.now_s)
        word, _, rest = command.upper().partition(" ")
        query = word.endswith("?")
        word = word.removesuffix("?")
        parts = [p.strip() for p in rest.split(",")] if rest.strip() else []
        if word in self._plain:
            if query:
                return self._plain[word]
            self._plain[word] = ",".join(parts)
            return ""
        if query:
            return self._query(word, parts)
        self._set(word, parts)
        return ""

    def _query(self, word: str, parts: list[str]) -> str:  # one line per command
        match word:
            case "KRDG":
                return _reading(self._measured(self._input(parts)))
            case "CRDG":
                name = self._input(parts)
                return _reading(self._measured(name) - 273.15 if name not in self.broken else 0.0)
            case "SRDG":
                return _reading(self._sensor_units(self._input(parts)))
            case "RDGST":
                return f"{INVALID if self._input(parts) in self.broken else 0:03d}"
            case "SETP":
                return _reading(self._output(parts).setpoint_k)
            case "RANGE":
                return str(self._output(parts).range)
            case "HTR":
                return f"{self._heater_percent(parts):+06.1f}"
            case "HTRST":
                self._output(parts)
                return "0"
            case "PID":
                return ",".join(f"{v:+07.1f}" for v in self._output(parts).pid)
            case "RAMP":
                on, rate = self._output(parts).ramp
                return f"{on},{rate:+06.2f}"
            case "RAMPST":
                output = self._output(parts)
                return str(int(bool(output.ramp[0]) and output.aim_k != output.setpoint_k))
            case "MOUT":
                return f"{self._output(parts).manual_percent:+.2f}"
            case "OUTMODE":
                return ",".join(str(v) for v in self._output(parts).mode)
            case "INNAME":
                return f"{self._names[self._input(parts)]:<15}"
            case "TLIMIT":
                return f"{self._tlimits[self._input(parts)]:+08.2f}"
            case "INTYPE":
                self._input(parts)
                return "1,0,0,0,1"
            case "DIOCUR":
                self._input(parts)
                return "0"
            case "FILTER":
                self._input(parts)
                return "0,10,02"
            case "ALARMST":
                self._input(parts)
                return "0,0"
            case _:
                raise ValueError(f"no query {word}")

    def _set(self, word: str, parts: list[str]) -> None:
        match word:
            case "SETP":
                output = self._output(parts)
                if not output.ramp[0]:
                    output.aim_k = within(float(parts[1]), 0.0, HIGHEST_K)
                output.setpoint_k = within(float(parts[1]), 0.0, HIGHEST_K)
            case "RANGE":
                self._output(parts).range = int(within(int(parts[1]), 0, 3))
            case "PID":
                p, i, d = (float(v) for v in parts[1:4])
                self._output(parts).pid = within(p, 0, 1000), within(i, 0, 1000), within(d, 0, 200)
            case "RAMP":
                output = self._output(parts)
                output.ramp = int(within(int(parts[1]), 0, 1)), within(float(parts[2]), 0, 100)
                output.aim_k = self._sensors["A"] if output.ramp[0] else output.setpoint_k
            case "MOUT":
                self._output(parts).manual_percent = within(float(parts[1]), 0, 100)
            case "OUTMODE":
                mode, source, powerup = (int(v) for v in parts[1:4])
                self._output(parts).mode = int(within(mode, 0, 5)), int(within(source, 0, 4)), powerup
            case "INNAME":
                self._names[self._input(parts)] = parts[1].strip('"')[:15].title()
            case "TLIMIT":
                self._tlimits[self._input(parts)] = within(float(parts[1]), 0, 9999)
            case _:
                raise ValueError(f"no command {word}")

    def _input(self, parts: list[str]) -> str:
        if parts[0] not in self.inputs:
            raise OutOfRangeError(f"no input {parts[0]}")
        return parts[0]

    def _output(self, parts: list[str]) -> Output:
        number = int(parts[0])
        if number not in self.outputs:
            raise OutOfRangeError(f"no output {number}")
        return self.outputs[number]

    # ---- physics ----

    def _measured(self, name: str) -> float:
        """What the input shows (K): 0 where its sensor gives nothing."""
        if name in self.broken:
            return 0.0
        return max(self._sensors[name] + self._random.gauss(0.0, self.cryostat.noise_k), 0.0)

    def _sensor_units(self, name: str) -> float:
        """Volts of a silicon diode: about 1.6 V at 4.2 K, falling with 2.3 mV/K above 30 K."""
        kelvin = self._measured(name)
        cold, warm = 1.7 - 0.026 * kelvin, 1.1 - 2.3e-3 * (kelvin - 30)
        return max(cold, warm) if kelvin < 30 else warm

    def _heater_percent(self, parts: list[str]) -> float:
        number = int(parts[0]) if parts else 1
        output = self._output([str(number)])
        most = POWER_W[output.range]
        return 100 * self._power_w / most if number == 1 and most else 0.0

    def _advance(self, now_s: float) -> None:
        """Let the cryostat follow until now; each step is exact while heater and setpoint stand still."""
        span = now_s - self._at_s
        self._at_s = now_s
        if span <= 0:
            return
        cryostat = self.cryostat
        fastest = min(cryostat.loop_s, cryostat.lag_s, cryostat.open_loop_s)
        steps = min(max(math.ceil(span / (LONGEST_STEP_S * fastest)), 1), STEPS)
        for _ in range(steps):
            self._step(span / steps)

    def _step(self, dt: float) -> None:
        cryostat, stage = self.cryostat, self._sensors["A"]
        output = self.outputs[1]
        self._ramp(output, dt)
        most = POWER_W[output.range]
        wanted = cryostat.link_w_k * (output.aim_k - cryostat.bath_k)
        wanted += (
            cryostat.capacity_j_k * (output.aim_k - stage) * (1 / cryostat.loop_s - 1 / cryostat.open_loop_s)
        )
        if output.mode[0] == 3:  # open loop
            wanted = most * output.manual_percent / 100
        self._power_w = min(max(wanted, 0.0), most)
        rest = cryostat.bath_k + self._power_w / cryostat.link_w_k
        if 0 < wanted < most and output.mode[0] != 3:
            stage = output.aim_k + (stage - output.aim_k) * math.exp(-dt / cryostat.loop_s)
        else:
            stage = rest + (stage - rest) * math.exp(-dt / cryostat.open_loop_s)
        self._sensors["A"] = stage
        for number, name in enumerate(self.inputs[1:], start=1):
            lag = math.exp(-dt / (number * cryostat.lag_s))
            self._sensors[name] = stage + (self._sensors[name] - stage) * lag

    def _ramp(self, output: Output, dt: float) -> None:
        on, rate = output.ramp
        if not on or not rate:
            output.aim_k = output.setpoint_k
            return
        step = rate * dt / 60
        output.aim_k += min(max(output.setpoint_k - output.aim_k, -step), step)

    # ---- for tests ----

    def set_quantity(self, quantity: str, value: float) -> None:
        """Change the world: an input's name jumps to ``value`` K (A takes the bath with it), "bath" changes
        the bath alone, "broken A" with 1 or 0 breaks or mends that input's sensor.

        Raises:
            ConfigError: no such quantity.
        """
        self._advance(self.now_s)
        word, _, name = quantity.partition(" ")
        if quantity in self.inputs:
            self._sensors[quantity] = value
            if quantity == "A":
                self.cryostat.bath_k = value
        elif quantity == "bath":
            self.cryostat.bath_k = value
        elif word == "broken" and name in self.inputs:
            (self.broken.add if value else self.broken.discard)(name)
        else:
            raise ConfigError(
                f"a simulated {self.name} has {', '.join(self.inputs)}, bath, 'broken A', not {quantity!r}."
            )

    def quantities(self) -> dict[str, float]:
        """Temperatures (K) at the last look, without noise."""
        return dict(self._sensors)


def _reading(value: float) -> str:
    """Six digits with a sign, as the controller shows them: +4.20012, +77.3500, +293.150."""
    before = len(str(int(abs(value))))
    return f"{value:+.{max(6 - before, 0)}f}"
