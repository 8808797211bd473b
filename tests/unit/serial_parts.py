"""A serial line in virtual time: simulated instruments behind what looks like a port of pyserial."""

from __future__ import annotations

from typing import Any

import serial

from actors.gateway.drivers.serial.adapter import READ_SHARE, CarefulSerialAdapter
from actors.gateway.drivers.serial.instruments import SerialInstrument, careful_adapter, instrument_on
from protocols.messages.campaign import AuxiliarySection
from sim_hardware.serial_line.device import Device
from sim_hardware.serial_line.lakeshore import SimulatedLakeShore
from sim_hardware.serial_line.line import Line
from sim_hardware.serial_line.sr830 import SimulatedSR830

TIMEOUT_S = 1.0


class VirtualClock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s

    def pause(self, seconds: float) -> None:
        """Wait."""
        self.now_s += seconds


class VirtualPort(serial.SerialBase):
    """The near end of a line; ``gone`` raises as an unplugged USB adapter does."""

    def __init__(self, line: Line, clock: VirtualClock, timeout_s: float) -> None:
        super().__init__()
        self.line, self.clock, self.wait_s = line, clock, timeout_s
        self.buffer = bytearray()
        self.written: list[bytes] = []
        self.gone = False
        self.closed_times = 0

    def _look(self) -> None:
        if self.gone:
            raise serial.SerialException("device reports readiness to read but returned no data")
        self.buffer += self.line.due(self.clock())

    @property
    def in_waiting(self) -> int:
        """Bytes that have come."""
        self._look()
        return len(self.buffer)

    def read(self, size: int = 1) -> bytes:
        """As pyserial: up to ``size`` bytes, or what has come when the time-out is over."""
        until = self.clock() + self.wait_s
        self._look()
        while len(self.buffer) < size and self.clock() < until:
            due = self.line.next_s()
            self.clock.now_s = until if due is None else min(max(due, self.clock.now_s), until)
            self._look()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def write(self, data: bytes) -> int:
        """Send."""
        self._look()
        self.written.append(data)
        self.line.receive(data, self.clock())
        return len(data)

    def reset_input_buffer(self) -> None:
        """Forget what has come."""
        self._look()
        self.buffer.clear()

    def close(self) -> None:
        """Count."""
        self.closed_times += 1


class Scripted(Device):
    """A device that answers each command with what a test has put there."""

    name = "scripted"
    terminator = "\r\n"
    ends = b"\n"

    def __init__(self, **answers: str) -> None:
        super().__init__()
        self.answers = answers

    def obey(self, line: str, now_s: float) -> list[str]:
        """The answer on the list."""
        found = self.answers.get(line.removesuffix("?"))
        return [found] if found is not None else []


class Bench:
    """A device, its line, a port in virtual time and the careful adapter on it."""

    def __init__(self, device: Device, timeout_s: float = TIMEOUT_S, byte_s: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.device = device
        self.line = Line(device, byte_s=byte_s)
        self.port = VirtualPort(self.line, self.clock, READ_SHARE * timeout_s)
        self.timeout_s = timeout_s

    @property
    def faults(self) -> Any:
        """Of the next answers."""
        return self.line.faults

    def adapter(self, **changes: Any) -> CarefulSerialAdapter:
        """An adapter as for a Lake Shore."""
        fields = {
            "instrument": "thermometer",
            "port": "/dev/ttyX",
            "write_termination": "\n",
            "read_termination": "\r\n",
            "timeout_s": self.timeout_s,
            "clock": self.clock,
            "pause": self.clock.pause,
            **changes,
        }
        return CarefulSerialAdapter(self.port, **fields)

    def instrument(self, section: AuxiliarySection) -> SerialInstrument:
        """The instrument of that section on this line."""
        adapter = careful_adapter(section, self.port, "/dev/ttyX", clock=self.clock, pause=self.clock.pause)
        return instrument_on(section, adapter)


def thermometer(**fields: Any) -> AuxiliarySection:
    """An [auxiliary.temperature]."""
    return AuxiliarySection(name="temperature", **{"model": "lakeshore335", "inputs": ("A", "B"), **fields})


def lockin(**fields: Any) -> AuxiliarySection:
    """An [auxiliary.lockin]."""
    return AuxiliarySection(name="lockin", model="sr830", **fields)


def thermometer_bench(model: int = 335, temperature_k: float = 4.3, **fields: Any) -> Bench:
    """A simulated Lake Shore on a bench."""
    return Bench(SimulatedLakeShore(model, seed=1, temperature_k=temperature_k), **fields)


def lockin_bench(**fields: Any) -> Bench:
    """A simulated SR830 on a bench."""
    return Bench(SimulatedSR830(seed=1), **fields)
