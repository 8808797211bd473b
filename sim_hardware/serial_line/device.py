"""What a simulated instrument is to the line it hangs on, and the IEEE 488.2 commands that all have."""

from __future__ import annotations

from protocols.errors import ConfigError

COMMAND_ERROR = 32
"""Bit of the standard event register: unknown command."""
EXECUTION_ERROR = 16
"""Bit of the standard event register: a parameter out of its range."""
POWER_ON = 128
LONGEST_COMMAND = 255
"""Characters an instrument takes in one line; more are lost with a command error."""


class OutOfRangeError(ConfigError):
    """A parameter that the instrument does not take."""

    code = "simulated-range"


class Device:
    """One instrument: commands in, answers out, time from outside (s).

    Several commands may stand in one line, separated by semicolons; each query has its own answer, with its
    own terminator, as on the SR830, or they share one line, as on the Lake Shore (``one_line``).
    """

    name = ""
    identity = ""
    terminator = "\r\n"
    ends = b"\n"
    """Characters that end a command."""
    one_line = True

    def __init__(self) -> None:
        self.events = POWER_ON
        self.event_enable = 0
        self.service_enable = 0
        self.now_s = 0.0

    def obey(self, line: str, now_s: float) -> list[str]:
        """Carry out one line; the answers, each to be followed by the terminator."""
        self.now_s = max(now_s, self.now_s)
        if len(line) > LONGEST_COMMAND:
            self.events |= COMMAND_ERROR
            return []
        answers = []
        for part in line.split(";"):
            command = part.strip()
            if not command:
                continue
            try:
                answer = self._common(command.upper())
                if answer is None:
                    answer = self.command(command)
            except OutOfRangeError:
                self.events |= EXECUTION_ERROR
            except (ValueError, KeyError, IndexError):
                self.events |= COMMAND_ERROR
            else:
                if answer:
                    answers.append(answer)
        return [";".join(answers)] if self.one_line and answers else answers

    def command(self, command: str) -> str:
        """Carry out one command; its answer, empty for none.

        Raises:
            OutOfRangeError: a parameter is out of its range.
            ValueError, KeyError, IndexError: there is no such command, or it lacks parameters.
        """
        raise NotImplementedError  # not abstract: who answers whole lines overrides obey instead

    def reset(self) -> None:
        """``*RST``."""

    def set_quantity(self, quantity: str, value: float) -> None:
        """Change the world that is measured, for tests.

        Raises:
            ConfigError: no such quantity.
        """
        raise ConfigError(f"a simulated {self.name} has no {quantity!r} to be set.")

    def quantities(self) -> dict[str, float]:
        """What is true now."""
        return {}

    def _common(self, command: str) -> str | None:
        """Answer to an IEEE 488.2 command; None: it is none."""
        word, _, given = command.partition(" ")
        match word:
            case "*IDN?":
                return self.identity
            case "*RST":
                self.reset()
            case "*CLS":
                self.events = 0
            case "*ESR?":
                found, self.events = self.events, 0
                return str(found)
            case "*ESE":
                self.event_enable = _byte(given)
            case "*ESE?":
                return str(self.event_enable)
            case "*SRE":
                self.service_enable = _byte(given)
            case "*SRE?":
                return str(self.service_enable)
            case "*STB?":
                return str(32 if self.events & self.event_enable else 0)
            case "*OPC?":
                return "1"
            case "*TST?":
                return "0"
            case "*OPC" | "*WAI":
                pass
            case _:
                return None
        return ""


def _byte(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 255:
        raise OutOfRangeError(f"{value} is no byte.")
    return value


def within(value: float, low: float, high: float) -> float:
    """``value``, if it lies in the range.

    Raises:
        OutOfRangeError: it does not.
    """
    if not low <= value <= high:
        raise OutOfRangeError(f"{value:g} is outside {low:g} to {high:g}.")
    return value
