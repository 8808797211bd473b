"""Lines on pseudo-terminals: what a person or a program opens like any serial port."""

from __future__ import annotations

import contextlib
import os
import select
import time
import tty
from collections.abc import Callable

from sim_hardware.serial_line.line import Line

CHUNK = 4096
FULL_S = 0.005
"""Before another try to send to a client that does not read."""


class PtyPort:
    """One line on one pseudo-terminal; ``path`` is the device file that clients open."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._master, self._slave = os.openpty()
        # Raw, and kept open here: so it needs no settings by who opens it, and outlives every client.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._out = bytearray()

    def fileno(self) -> int:
        """To be polled for reading."""
        return self._master

    def read(self, now_s: float) -> None:
        """Take in what clients have written."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._master, CHUNK):
                self.line.receive(data, now_s)

    def write(self, now_s: float) -> None:
        """Send what is due, as far as there is room; a client that does not read loses nothing but time."""
        if not self._out:
            self._out += self.line.due(now_s)
        if self._out:
            with contextlib.suppress(BlockingIOError):
                del self._out[: os.write(self._master, bytes(self._out[:CHUNK]))]

    def next_s(self, now_s: float) -> float | None:
        """When to call ``write`` again; None: nothing to send."""
        return now_s + FULL_S if self._out else self.line.next_s()

    def close(self) -> None:
        """Give the pseudo-terminal back; safe to repeat."""
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1


class SerialRack:
    """Several ports, served from one thread."""

    def __init__(self, ports: dict[str, PtyPort], clock: Callable[[], float] = time.monotonic) -> None:
        self.ports = ports
        self._clock = clock

    def serve_once(self, wait_s: float, others: tuple[int, ...] = ()) -> bool:
        """Wait for at most ``wait_s`` and do what there is; True when one of the ``others`` is ready."""
        now = self._clock()
        due = [t for p in self.ports.values() if (t := p.next_s(now)) is not None]
        left_s = max(min([wait_s, *(t - now for t in due)]), 0.0)
        masters = [port.fileno() for port in self.ports.values()]
        ready, _, _ = select.select([*masters, *others], [], [], left_s)
        now = self._clock()
        for port in self.ports.values():
            if port.fileno() in ready:
                port.read(now)
            port.write(now)
        return any(other in ready for other in others)

    def close(self) -> None:
        """Give everything back."""
        for port in self.ports.values():
            port.close()
