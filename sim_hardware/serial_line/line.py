"""A device on a line: bytes in, bytes out, each answer when it is due.  No file descriptors here."""

from __future__ import annotations

import heapq

from sim_hardware.serial_line.device import LONGEST_COMMAND, Device
from sim_hardware.serial_line.faults import LineFaults

MOST_WAITING = 64 * 1024
"""Bytes of answers that nobody has taken; more are lost, as on a real line without handshake."""


class Line:
    """Splits what comes into commands, has them carried out, and keeps the answers until they are due.

    ``byte_s`` is the time a character takes on the line; 0 sends at once.
    """

    def __init__(self, device: Device, faults: LineFaults | None = None, byte_s: float = 0.0) -> None:
        self.device = device
        self.faults = faults or LineFaults()
        self.byte_s = byte_s
        self.lost = 0
        """Bytes that found no room."""
        self.commands = 0
        self._got = bytearray()
        self._due: list[tuple[float, int, bytes]] = []
        self._number = 0
        self._waiting = 0
        self._free_s = 0.0
        """When the line has sent what it has been given."""

    def receive(self, data: bytes, now_s: float) -> None:
        """Take in bytes as they come, however they are split."""
        for byte in data:
            if byte in self.device.ends:
                line, self._got = bytes(self._got), bytearray()
                if line.strip():
                    self._obey(line, now_s)
            elif len(self._got) <= LONGEST_COMMAND:
                self._got.append(byte)

    def due(self, now_s: float) -> bytes:
        """What leaves the instrument now."""
        out = bytearray()
        while self._due and self._due[0][0] <= now_s:
            out += heapq.heappop(self._due)[2]
        self._waiting -= len(out)
        return bytes(out)

    def next_s(self) -> float | None:
        """When something leaves next; None: nothing waits."""
        return self._due[0][0] if self._due else None

    def _obey(self, line: bytes, now_s: float) -> None:
        self.commands += 1
        terminator = self.device.terminator.encode("ascii")
        for answer in self.device.obey(line.decode("latin-1").strip("\r\n"), now_s):
            for delay_s, data in self.faults.apply(answer.encode("ascii"), terminator):
                self._send(now_s + delay_s, data)

    def _send(self, at_s: float, data: bytes) -> None:
        if self._waiting + len(data) > MOST_WAITING:
            self.lost += len(data)
            return
        begin_s = max(at_s, self._free_s) if self.byte_s else at_s
        self._free_s = begin_s + len(data) * self.byte_s
        self._number += 1
        self._waiting += len(data)
        heapq.heappush(self._due, (self._free_s if self.byte_s else at_s, self._number, data))
