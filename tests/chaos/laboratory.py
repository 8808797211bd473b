"""One laboratory with a simulated microscope: starts daemon and runs, and does what an operator would."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

import actors.gateway
from actors.console.daemon_link import DaemonLink
from actors.console.daemon_process import ensure_daemon, shut_down
from actors.journal.reader import JournalReader, RunSummary
from protocols.errors import TunnelpilotError
from protocols.files.state_directory import write_durably
from protocols.files.truth_log import truth_path
from protocols.messages.base import Message
from protocols.messages.daemon import (
    AcknowledgeAlarm,
    OperatorResult,
    PauseRun,
    ResumeRun,
    RunAccepted,
    RunAnswer,
    StartRun,
)
from protocols.states.run import FINAL_RUN_STATES
from tests.chaos.phases import TruthTail
from tests.chaos.victims import is_alive, left_behind, status

CAMPAIGN = Path(__file__).parent / "campaign.toml"
SIMULATOR_LIMITS = Path(str(actors.gateway.__file__)).parent / "limits" / "simulator.toml"

TIP_SPEED = "500nm/s"
"""Slow, so that travelling can be hit: a hop of 30 nm takes 15 ms of wall time at time scale 4."""

DAEMON_S = 120.0
ANSWER_S = 60.0
LOOK_S = 0.1

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class StuckError(AssertionError):
    """Something that must happen by itself did not, within its deadline."""


@dataclass(frozen=True)
class Intervention:
    """What an operator had to do because the laboratory waited for a person."""

    monotonic_s: float
    reason: str
    did: str


def campaign_text(points: int | None = None) -> str:
    """The campaign, with another number of spectra per window if ``points`` is given."""
    text = CAMPAIGN.read_text(encoding="utf-8")
    if points is None:
        return text
    head, section, tail = text.partition("[planner]")
    return head + section + re.sub(r"(?m)^points = \d+$", f"points = {points}", tail, count=1)


def prepare_limits(state: Path, **changes: str) -> None:
    """Put a limits file into the state directory: the simulator's, with a slow tip and these ``changes``."""
    text = SIMULATOR_LIMITS.read_text(encoding="utf-8")
    for key, value in {"tip_speed": f'"{TIP_SPEED}"', **changes}.items():
        text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        if found != 1:
            raise KeyError(f"{SIMULATOR_LIMITS} has no key {key}")
    write_durably(state / "gateway" / "limits.toml", text.encode())


class Laboratory:
    """The state directory ``state`` and everything that runs with it."""

    def __init__(self, state: Path, text: str, say: Callable[[str], None]) -> None:
        self.state = state
        self.text = text
        self.say = say
        self.tail = TruthTail(truth_path(state))
        self.runs: list[str] = []
        self.interventions: list[Intervention] = []

    # The daemon

    def start_daemon(self) -> float:
        """Start it, or wait for the one that runs; returns the seconds that it took."""
        began = time.monotonic()
        ensure_daemon(self.state, options=("--quiet",), deadline_s=DAEMON_S)
        return time.monotonic() - began

    def shut_down(self) -> list[str]:
        """End everything in order; what stood against it."""
        try:
            shut_down(self.state, deadline_s=DAEMON_S)
        except TunnelpilotError as problem:
            return [f"it does not shut down: {problem}"]
        return []

    def clear_away(self) -> dict[int, str]:
        """Kill what still belongs to this laboratory, by process id; what that was."""
        left = left_behind(self.state)
        until = time.monotonic() + 5.0
        while left and time.monotonic() < until:  # processes of Ray end a moment after their daemon
            time.sleep(LOOK_S)
            left = left_behind(self.state)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended in between
        return left

    def ask(self, message: Message, expected: type[M], timeout_s: float = ANSWER_S) -> M:
        """Ask the daemon, again while it is being replaced.

        Raises:
            StuckError: no answer in all that time.
            TunnelpilotError: its last refusal.
        """
        until = time.monotonic() + timeout_s
        while True:
            try:
                with DaemonLink(self.state) as link:
                    return link.ask(message, expected, min(15.0, timeout_s))
            except TunnelpilotError as problem:
                if time.monotonic() >= until:
                    raise StuckError(
                        f"{type(message).__name__} was not taken up within {timeout_s:g} s: {problem}"
                    ) from problem
            time.sleep(LOOK_S)

    # Runs

    @property
    def run(self) -> str:
        """The latest run."""
        return self.runs[-1]

    def start_run(self) -> str:
        """Start the next run; each has a seed of its own."""
        seed = len(self.runs) + 1
        token = f"chaos-{seed}-{os.getpid()}"
        request = StartRun(campaign_text=self.text, file_name="chaos.toml", seed=seed, token=token)
        self.runs.append(self.ask(request, RunAccepted, DAEMON_S).run)
        self.say(f"    run {self.run} begins")
        return self.run

    def summary(self) -> RunSummary | None:
        """How the latest run stands, from its journal; None while that cannot be read."""
        try:
            with JournalReader(self.state / "runs" / self.run) as reader:
                return reader.summary()
        except TunnelpilotError:
            return None

    @property
    def run_is_over(self) -> bool:
        """Whether the latest run has concluded."""
        found = self.summary()
        return found is not None and found.state in FINAL_RUN_STATES and bool(found.outcome)

    def keep_running(self) -> None:
        """Start the next run if there is none under way; do what an operator must if it waits for one."""
        if not self.runs or self.run_is_over:
            self.start_run()
            return
        found = self.summary()
        if found is not None and found.state == "held":
            self.help(found.reason)
        elif found is not None and found.state == "paused":
            self.resume()

    def help(self, reason: str) -> None:
        """Acknowledge and resume, as an operator does after looking."""
        did = []
        self.say(f"    {self.run} holds: {reason}")
        known = status(self.state)
        if known is not None and known.guard is not None and known.guard.latch != "open":
            self.ask(AcknowledgeAlarm(who="chaos"), OperatorResult)
            did.append("ack")
        answer = self.resume()
        did.append("resume")
        self.interventions.append(
            Intervention(time.monotonic(), f"{reason} (then {answer.state})", " and ".join(did))
        )

    def pause(self) -> RunAnswer:
        """Pause at the next safe point."""
        return self.ask(PauseRun(), RunAnswer)

    def resume(self) -> RunAnswer:
        """Go on."""
        return self.ask(ResumeRun(), RunAnswer)

    def await_that(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """Look until there is something; the truth log is followed meanwhile.

        Raises:
            StuckError: nothing within the deadline; the text says how run and daemon stand.
        """
        until = time.monotonic() + timeout_s
        while True:
            self.tail.poll()
            found = look()
            if found:
                return found
            if time.monotonic() >= until:
                raise StuckError(f"{what} did not come within {timeout_s:g} s; {self.describe()}")
            time.sleep(0.02)

    def await_completion(self, timeout_s: float) -> None:
        """Wait until the latest run is over, helping where it holds."""

        def over() -> bool:
            if self.run_is_over:
                return True
            self.keep_running()
            time.sleep(0.2)
            return False

        self.await_that(f"the end of {self.run}", over, timeout_s)

    def describe(self) -> str:
        """Run and daemon in a sentence, for errors."""
        summary, found = self.summary() if self.runs else None, status(self.state)
        run = f"{self.run} is {summary.state} ({summary.reason})" if summary else "no run"
        if found is None:
            return f"{run}; the daemon does not answer; tip: {self.tail.tip.phase} {self.tail.tip.job_id}"
        bad = [a for a in found.actors if a.state not in ("up", "alive")]
        return (
            f"{run}; tip: {self.tail.tip.phase} {self.tail.tip.job_id}; lease {found.lease}; alarms "
            f"{found.alarms}; guard {found.guard.park if found.guard else found.guard_fault}; not up: "
            f"{msgspec.to_builtins(bad)}"
        )


def await_gone(pid: int, timeout_s: float = 10.0) -> None:
    """Wait until a killed process has ended.

    Raises:
        StuckError: it still runs.
    """
    until = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() >= until:
            raise StuckError(f"process {pid} still runs {timeout_s:g} s after its SIGKILL")
        time.sleep(0.002)
