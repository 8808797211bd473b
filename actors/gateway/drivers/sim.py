"""Driver of the simulated microscope, over its ZeroMQ door.

Every thread that calls it gets a link of its own, so that ``withdraw`` and ``state`` are never behind a
sweep.  Long actions are started and then awaited with bounded waits; what is not answered in time is a
``DriverError`` that says what was awaited, from whom and for how long.  Nothing is repeated by itself: an
action whose answer was lost may have been carried out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from protocols.errors import DeadlineError, DriverError, LinkLostError, MalformedMessageError
from protocols.instrument.driver import DriverInfo
from protocols.links.client import CommandClient
from protocols.messages import simdoor as m
from protocols.messages.base import Message
from protocols.messages.control import Done
from protocols.messages.data import FrameLines, InstrumentState, SweepData
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe

ANSWER_S = 2.0
"""Wall seconds for any answer that needs no waiting."""
STOP_ANSWER_S = 0.5
POLL_S = 0.3
"""Longest wait in one request for a long action; also the heartbeat by which the world knows its client."""
GRACE_S = 5.0
"""Wall seconds that a long action may take beyond what it said."""
LINES_AT_ONCE = 16
PEER = "the simulated microscope"

_Answer = TypeVar("_Answer", bound=Message)


class SimDriver:
    """Implements ``protocols.instrument.driver.Driver``.

    ``endpoint`` is the door, or a function that tells where the door is now (asked again whenever a link
    broke, so that a restarted microscope is found).  ``role`` names us to it: "worker", "guard", ...
    ``answer_s``: wall seconds for any answer that needs no waiting.
    """

    def __init__(self, endpoint: str | Callable[[], str], role: str, answer_s: float = ANSWER_S) -> None:
        self._where = endpoint if callable(endpoint) else lambda: endpoint
        self.role = role
        self.answer_s = answer_s
        self._links: dict[int, CommandClient] = {}
        self._lock = threading.Lock()
        self._info: DriverInfo | None = None
        self._activity = 0

    # -- reading ---------------------------------------------------------------------------------------------

    def info(self) -> DriverInfo:
        """Ranges and identity; asked once."""
        if self._info is None:
            status = self._ask(m.SimQuery(), m.SimStatus)
            self._info = DriverInfo(
                name=f"stmsim {status.sample} seed {status.seed}",
                simulated=True,
                time_scale=status.time_scale,
                x_range_m=status.x_range_m,
                y_range_m=status.y_range_m,
                z_range_m=status.z_range_m,
                bias_range_v=status.bias_range_v,
                preamplifier_rail_a=status.preamplifier_rail_a,
                vertical_drift_m_s=status.vertical_drift_m_s,
            )
        return self._info

    def status(self) -> m.SimStatus:
        """What only a simulated microscope can tell of itself."""
        return self._ask(m.SimQuery(), m.SimStatus)

    def state(self) -> InstrumentState:
        """Read everything back."""
        return self._ask(m.SimReadState(), InstrumentState)

    # -- jobs ------------------------------------------------------------------------------------------------

    def begin_job(self, job_id: str, kind: str) -> None:
        """Written to the truth log."""
        self._ask(m.SimBeginJob(job_id=job_id, kind=kind), Done)

    def end_job(self, job_id: str, outcome: str) -> None:
        """Written to the truth log."""
        self._ask(m.SimEndJob(job_id=job_id, outcome=outcome), Done)

    # -- settings --------------------------------------------------------------------------------------------

    def set_bias(self, bias_v: float, slew_v_s: float) -> None:
        """Ramp the bias; returns when it is there."""
        self._carry_out(m.SimStartRamp(bias_v=bias_v, slew_v_s=slew_v_s), f"the bias to reach {bias_v:g} V")

    def set_setpoint(self, setpoint_a: float) -> None:
        """Setpoint of |I|."""
        self._ask(m.SimSetSetpoint(setpoint_a=setpoint_a), Done)

    def set_feedback(self, on: bool) -> None:
        """Z-controller on or off."""
        self._ask(m.SimSetFeedback(on=on), Done)

    def set_lockin(self, settings: LockIn | None) -> None:
        """Modulation on or off."""
        self._ask(m.SimSetLockIn(settings=settings), Done)

    # -- actions ---------------------------------------------------------------------------------------------

    def settle(self, seconds: float) -> None:
        """Let instrument time pass."""
        self._carry_out(m.SimStartSettle(seconds=seconds), f"{seconds:g} s of settling")

    def move(self, x_m: float, y_m: float, speed_m_s: float) -> None:
        """Move laterally; returns on arrival."""
        action = m.SimStartMove(x_m=x_m, y_m=y_m, speed_m_s=speed_m_s)
        self._carry_out(action, f"arrival at ({x_m * 1e9:g}, {y_m * 1e9:g}) nm")

    def sweep(self, recipe: SpectrumRecipe) -> SweepData:
        """One bias spectrum at the present position; stabilised before (bias, setpoint, ``settle``) by the
        caller.

        Raises:
            DriverError: also when it was stopped or the tip was withdrawn meanwhile.
        """
        data = self._carry_out(m.SimStartSweep(recipe=recipe), "the end of a sweep").sweep
        if data is None:
            raise DriverError(f"{PEER} finished a sweep without data.", "Look at its log.")
        return data

    def frame(self, recipe: Frame) -> Iterator[FrameLines]:
        """Scan; yields lines as they are complete.  Closing the iterator stops the scan."""
        started = self._ask(m.SimStartFrame(recipe=recipe), m.SimStarted)
        over = False
        following, last_progress = 0, time.monotonic()
        silence_s = (
            2.0 * recipe.line_time_s / self.info().time_scale + 60.0 / self.info().time_scale + GRACE_S
        )
        try:
            while not over:
                asked = m.SimReadLines(
                    activity=started.activity, after=following, wait_s=POLL_S, limit=LINES_AT_ONCE
                )
                answer = self._ask(asked, m.SimLines, POLL_S + self.answer_s)
                over = answer.over
                if answer.lines is not None:
                    following, last_progress = answer.following, time.monotonic()
                    yield answer.lines
                elif not over and time.monotonic() - last_progress > silence_s:
                    raise DriverError(
                        f"awaited line {following} of a frame from {PEER} for {silence_s:.1f} s.",
                        "Look at its log.",
                    )
                if over and answer.state != "finished":
                    raise DriverError(f"the frame ended after {following} lines: {answer.reason}.")
        finally:
            if not over:
                self._stop_quietly()

    def pulse(self, bias_v: float, width_s: float, hold_z: bool) -> None:
        """One bias pulse."""
        action = m.SimStartPulse(bias_v=bias_v, width_s=width_s, hold_z=hold_z)
        self._carry_out(action, f"the end of a pulse of {bias_v:g} V")

    def indent(self, depth_m: float, bias_v: float, dwell_s: float) -> None:
        """Controlled contact."""
        action = m.SimStartIndent(depth_m=depth_m, bias_v=bias_v, dwell_s=dwell_s)
        self._carry_out(action, f"the end of an indentation by {depth_m * 1e9:g} nm")

    # -- at any time, from any thread ------------------------------------------------------------------------

    def withdraw(self) -> None:
        """Controller off and Z on its way up when this returns; also during anything else."""
        self._ask(m.SimWithdraw(reason=self.role), Done, STOP_ANSWER_S)

    def stop(self) -> None:
        """Stop a running sweep or scan."""
        self._ask(m.SimStop(), Done, STOP_ANSWER_S)

    def close(self) -> None:
        """Drop the links; the microscope goes on as it is."""
        with self._lock:
            links, self._links = self._links, {}
        for link in links.values():
            link.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _stop_quietly(self) -> None:
        try:
            self.stop()
        except DriverError:
            pass  # the iterator is closed because of another error, which is the one to be told

    def _link(self) -> CommandClient:
        """This thread's own link; those of threads that have ended are closed."""
        here = threading.get_ident()
        link = self._links.get(here)
        if link is None:
            link = CommandClient(self._where(), self.role, PEER)
            alive = {thread.ident for thread in threading.enumerate()}
            with self._lock:
                for gone in [ident for ident in self._links if ident not in alive]:
                    self._links.pop(gone).close()
                self._links[here] = link
        return link

    def _ask(self, message: Message, answer: type[_Answer], timeout_s: float = 0.0) -> _Answer:
        timeout_s = timeout_s or self.answer_s
        try:
            found = self._link().request(message, timeout_s)
        except (DeadlineError, LinkLostError, MalformedMessageError) as lost:
            self._forget_link()
            raise DriverError(
                f"awaited an answer to {type(message).__name__} from {PEER} for {timeout_s:g} s: {lost.text}",
                lost.advice,
                **{"awaited": type(message).__name__, "waited_s": timeout_s, **lost.details},
            ) from lost
        if not isinstance(found, answer):
            raise DriverError(
                f"{PEER} answered {type(message).__name__} with {type(found).__name__}, "
                f"not {answer.__name__}."
            )
        return found

    def _forget_link(self) -> None:
        """The next request opens a fresh link to where the door then is."""
        with self._lock:
            link = self._links.pop(threading.get_ident(), None)
        if link is not None:
            link.close()

    def _carry_out(self, action: Message, awaited: str) -> m.SimProgress:
        """Start an action and wait until it is over."""
        started = self._ask(action, m.SimStarted)
        began = time.monotonic()
        limit_s = 1.5 * started.expected_s / self.info().time_scale + GRACE_S
        while True:
            asked = m.SimAwait(activity=started.activity, wait_s=POLL_S)
            progress = self._ask(asked, m.SimProgress, POLL_S + self.answer_s)
            if progress.state == "finished":
                return progress
            if progress.state != "running":
                raise DriverError(f"while awaiting {awaited}: {progress.reason or progress.state}.")
            waited = time.monotonic() - began
            if waited > limit_s:
                raise DriverError(
                    f"awaited {awaited} from {PEER} for {waited:.1f} s; it is still running.",
                    "Look at its log.",
                    awaited=awaited,
                    waited_s=waited,
                )
