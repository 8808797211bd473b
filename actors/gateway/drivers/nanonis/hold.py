"""The hold on electronics over two ports: who answers, readings, stops, settings lent and given back.

Everything that both halves of the gateway do; what the worker does beside it is in ``driver``.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from actors.gateway.drivers.nanonis import lockin
from actors.gateway.drivers.nanonis.channel import ANSWER_S, Channel
from actors.gateway.drivers.nanonis.clock import InstrumentClock, RunningClock, SteppedClock
from actors.gateway.drivers.nanonis.identity import Identity, rail_a, recognise, z_range
from actors.gateway.drivers.nanonis.link import Link
from actors.gateway.drivers.nanonis.original import OriginalSettings
from actors.gateway.drivers.nanonis.panel import Panel, Setting
from actors.gateway.drivers.nanonis.readings import read_state
from actors.gateway.drivers.nanonis.trip import FastTrip
from protocols.errors import DriverError
from protocols.instrument.driver import DriverInfo
from protocols.messages.data import InstrumentState
from protocols.nanonis.address import Address
from protocols.nanonis.conventions import timeout_ms

log = structlog.get_logger(__name__)

STOP_ANSWER_S = 1.0
"""Wall seconds for the answer to a stop or a withdrawal."""
GRACE_S = 10.0
"""Wall seconds that a long action may take beyond what was expected of it."""
TRY_AGAIN_S, TRY_S = 1.0, 0.3
"""Wall seconds between questions whether a port that broke serves again, and for each answer."""

INFO_S = 1.0
"""Wall seconds for which ranges are believed."""

LATER = frozenset({lockin.ON_OFF.stem})
"""A parked tip has no modulation: whether there was one before is restored at the very end."""

WINDOWS = ("BiasSpectr.Open",)
"""Modules whose commands fail until their window is open."""


class Hold:
    """Two ports of the electronics.  Connects by itself whenever it has to.

    ``role``: "guard" or anything else, for the choice of ports.  ``answer_s``: wall seconds for any answer
    that needs no waiting.
    """

    def __init__(
        self, address: Address, role: str, originals: OriginalSettings, answer_s: float = ANSWER_S
    ) -> None:
        self.address, self.role, self.answer_s = address, role, answer_s
        commands, urgent = address.pair(role)
        self._commands = Channel(Link(address.host, commands, f"{role}: commands"))
        self._urgent = Channel(Link(address.host, urgent, f"{role}: stop"))
        self._originals = originals
        self._panel = Panel(self._commands, self._keep, originals.knows)
        self._identity: Identity | None = None
        self._identifying = threading.Lock()
        self._clock: InstrumentClock = RunningClock()
        self._z_range: tuple[float, float] = (0.0, 0.0)
        self._trip = FastTrip(math.inf)
        self._info_s = -math.inf
        self._tried_s = self._stop_port_tried_s = -math.inf

    # -- reading ---------------------------------------------------------------------------------------------

    def info(self) -> DriverInfo:
        """Ranges and identity.  What others may set (gain, Z's limits) is asked again now and then."""
        who = self._who()
        if time.monotonic() - self._info_s < INFO_S:
            return who.info
        channel = self._reading()
        self._z_range, rail = z_range(channel), rail_a(channel, who.signals)
        self._info_s = time.monotonic()
        info = msgspec.structs.replace(who.info, z_range_m=self._z_range, preamplifier_rail_a=rail)
        self._identity = dataclasses.replace(who, info=info)
        return info

    def state(self) -> InstrumentState:
        """Read everything back; over the second port while the first is busy or broken."""
        who = self._who()
        channel = self._reading()

        def ask(name: str, **arguments: Any) -> dict[str, Any]:
            return channel.ask(name, **{"answer_s": self.answer_s, **arguments})

        found = read_state(ask, who.signals, self._z_range, self._clock.now)
        if not found.feedback and not found.withdrawn:
            limits = z_range(channel)
            if limits != self._z_range:  # somebody has moved Z's limits
                self._z_range = limits
                found = read_state(ask, who.signals, limits, self._clock.now)
        self._keep_stop_port()
        return found

    # -- at any time, from any thread ------------------------------------------------------------------------

    def withdraw(self) -> None:
        """Controller off and Z on its way up when this returns; also during anything else."""
        self._urgent.ask(
            "ZCtrl.Withdraw",
            answer_s=STOP_ANSWER_S,
            repeat=True,
            urgency=2,
            wait=False,
            timeout_ms=timeout_ms(None),
        )

    def stop(self) -> None:
        """Stop a running sweep, scan or move; one that is not answered keeps none from being tried.

        Raises:
            DriverError: one was not answered, or all were refused.
        """
        problems = []
        unanswered = None
        stops: tuple[tuple[str, dict[str, Any]], ...] = (
            ("BiasSpectr.Stop", {}),
            ("Scan.Action", {"action": "stop", "direction": "up"}),
            ("FolMe.Stop", {}),
        )
        for name, arguments in stops:
            try:
                self._urgent.ask(name, answer_s=STOP_ANSWER_S, repeat=True, urgency=1, **arguments)
            except DriverError as problem:
                problems.append(problem)  # nothing of that kind runs, or its window is not open
                if problem.details.get("outcome") != "refused":
                    unanswered = unanswered or problem
        if unanswered is not None:
            raise unanswered
        if len(problems) == 3:
            raise problems[0]

    def restore_settings(self) -> tuple[str, ...]:
        """Set what we changed as it was, if the tip is withdrawn; what went wrong, in words.

        Raises:
            DriverError: nothing answers.
        """
        return self._restore(LATER)

    def close(self) -> None:
        """Restore what is left to restore if the tip is withdrawn, and drop the connections."""
        self._clock.end()
        try:
            if self.role == "guard" and self._identity is not None and self._originals.kept:
                self._restore(frozenset())
        except DriverError as problem:
            log.warning("original settings are not restored", problem=str(problem))
        self._commands.link.close()
        self._urgent.link.close()

    # -- for the driver --------------------------------------------------------------------------------------

    def _ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self._commands.ask(name, **{"answer_s": self.answer_s, **arguments})

    def _who(self) -> Identity:
        """Who answers; asked again after the first time never."""
        if self._identity is None:
            with self._identifying:
                if self._identity is None:
                    found = recognise(self._commands, self.address)
                    self._urgent.release = found.release
                    self._urgent.ask("Bias.Get", answer_s=STOP_ANSWER_S)  # whoever comes later is not served
                    self._clock = self._clock_of(found)
                    self._z_range, self._info_s = found.info.z_range_m, time.monotonic()
                    self._trip = FastTrip(found.info.preamplifier_rail_a)
                    self._identity = found
                    log.info("electronics", name=found.info.name, release=found.release, role=self.role)
        return self._identity

    def _open_windows(self) -> None:
        """Somebody may have closed them, or the electronics were started anew."""
        for name in WINDOWS:
            self._ask(name)

    def _reading(self) -> Channel:
        """The channel for readings: the port for stops stays free whenever it can."""
        link = self._commands.link
        if link.in_doubt and time.monotonic() - self._tried_s > TRY_AGAIN_S:
            self._tried_s = time.monotonic()
            try:
                self._commands.ask("Bias.Get", answer_s=TRY_S)
            except DriverError as problem:
                log.debug("the port for commands does not serve yet", problem=str(problem))
        return self._commands if link.free else self._urgent

    def _keep_stop_port(self) -> None:
        """The port for stops is connected before it is needed: a stranger who has it may keep it."""
        now = time.monotonic()
        if self._urgent.link.held or now - self._stop_port_tried_s < TRY_AGAIN_S:
            return
        self._stop_port_tried_s = now
        try:
            self._urgent.ask("Bias.Get", answer_s=TRY_S)
        except DriverError as problem:
            log.warning("the port for stops does not serve", problem=str(problem))

    def _read_place(self, newest: bool) -> tuple[float, float]:
        """Where the tip is (m); ``newest``: as measured after this question."""
        found = self._ask("FolMe.XYPosGet", wait_for_newest_data=newest)
        return float(found["x_m"]), float(found["y_m"])

    def _wall_s(self, seconds: float) -> float:
        return seconds / self._clock.scale

    # -- inside ----------------------------------------------------------------------------------------------

    def _clock_of(self, who: Identity) -> InstrumentClock:
        """The instrument's time: its own where it is simulated, else this computer's."""
        if not who.simulated or "time" not in who.signals.places:
            return RunningClock(who.time_scale)
        if who.stepped:
            return SteppedClock(self._ask_time, self._let_pass)
        began = time.monotonic()
        found = self._ask_time(who)
        return RunningClock(who.time_scale, found - 0.5 * (began + time.monotonic()) * who.time_scale)

    def _ask_time(self, who: Identity | None = None) -> float:
        place = (who or self._who()).signals.places["time"]
        found = self._reading().ask("Signals.ValGet", signal_index=place, wait_for_newest_data=0)
        return float(found["signal_value"])

    def _let_pass(self, seconds: float) -> None:
        """On a stepped clock time passes while somebody waits, for example for a line of no scan."""
        self._ask(
            "Scan.WaitEndOfLine", answer_s=GRACE_S + self._wall_s(seconds), timeout_ms=timeout_ms(seconds)
        )

    def _keep(self, setting: Setting, found: Mapping[str, Any]) -> None:
        self._originals.keep(self._panel, setting, found)

    def _restore(self, but: frozenset[str]) -> tuple[str, ...]:
        if not self._originals.kept:
            return ()
        found = self.state()
        if not found.withdrawn or found.feedback:
            return ("the tip is not withdrawn: nothing is restored",)
        self._open_windows()
        return self._originals.restore(self._panel, but)
