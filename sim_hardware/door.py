"""The ZeroMQ door of the simulated microscope: translates messages into commands of the world, and nothing
else.

Everything it does takes well under a millisecond; long actions are awaited by keeping the request open until
the world wakes the door.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocols.errors import ConfigError, DriverError, TunnelpilotError, UsageError
from protocols.links.reactor import Reactor, Waker
from protocols.links.server import CommandServer, Request
from protocols.messages import simdoor as m
from protocols.messages.base import Message
from protocols.messages.control import Done
from protocols.messages.data import Channel, FrameLines
from sim_hardware import defects, motions, scanning, sweeping
from sim_hardware.faults import AnswerFaults
from sim_hardware.situation import Activity
from sim_hardware.world import World

LONGEST_WAIT_S = 5.0
CLIENT_SILENCE_S = 3.0
"""A client that has a job under way and says nothing for this long (wall) has vanished."""


@dataclass
class _Open:
    """A request that waits for the world."""

    request: Request
    until_s: float
    answer: Callable[[bool], Message | None]
    """Given whether the time is over; None: keep waiting."""


class Door:
    """Serves one world at one endpoint, in the thread that calls ``serve_once``."""

    def __init__(self, world: World, endpoint: str, seed: int, truth: Path, waker: Waker) -> None:
        self.world = world
        self.server = CommandServer(endpoint, "stmsim", ("simdoor",), maximum_unanswered=4096)
        self.reactor = Reactor()
        self.reactor.add_commands(self.server, self._handle)
        self.reactor.add_waker(waker)
        self.faults = AnswerFaults(seed=seed)
        self._truth = truth
        self._open: list[_Open] = []
        self._late: list[tuple[float, Request, Message]] = []
        self._job_client = ""
        self._heard_s = 0.0
        self._handlers: dict[type[Message], Callable[[Any], Message]] = {
            m.SimQuery: self._query,
            m.SimReadState: lambda _: world.state(),
            m.SimBeginJob: self._begin_job,
            m.SimEndJob: self._end_job,
            m.SimSetSetpoint: self._set_setpoint,
            m.SimSetFeedback: self._set_feedback,
            m.SimSetLockIn: self._set_lockin,
            m.SimWithdraw: self._withdraw,
            m.SimStop: self._stop,
            m.SimStartRamp: self._start_ramp,
            m.SimStartSettle: self._start_settle,
            m.SimStartMove: self._start_move,
            m.SimStartSweep: self._start_sweep,
            m.SimStartFrame: self._start_frame,
            m.SimStartPulse: self._start_pulse,
            m.SimStartIndent: self._start_indent,
            m.SimFault: self._fault,
            m.SimTruthQuery: self._ground_truth,
            m.SimSpectrumQuery: self._true_spectrum,
        }

    def serve_once(self, timeout_s: float = 0.2) -> None:
        """Wait for messages or for the world, at most ``timeout_s``, and answer what can be answered."""
        stalled = self.faults.stalled_until_s - time.monotonic()
        if stalled > 0.0:
            time.sleep(min(stalled, timeout_s))
            return
        now = time.monotonic()
        due = [o.until_s for o in self._open] + [t for t, _, _ in self._late]
        self.reactor.run_once(max(0.0, min([timeout_s, *(t - now for t in due)])))
        self._answer_open()
        self._watch_client()

    def close(self) -> None:
        """Stop listening."""
        self.server.close()

    # -- answering -------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> None:
        if request.peer == self._job_client:
            self._heard_s = time.monotonic()
        message = request.message
        try:
            if isinstance(message, m.SimAwait | m.SimReadLines):
                self._keep(request, message)
                return
            handler = self._handlers.get(type(message))
            if handler is None:
                raise UsageError(f"the simulated microscope does not answer {type(message).__name__}.")
            if isinstance(message, m.SimBeginJob):
                self._job_client, self._heard_s = request.peer, time.monotonic()
            self._answer(request, handler(message))
        except TunnelpilotError as refused:
            request.refuse(refused)

    def _keep(self, request: Request, message: m.SimAwait | m.SimReadLines) -> None:
        activity = self.world.activity(message.activity)
        until = time.monotonic() + min(max(message.wait_s, 0.0), LONGEST_WAIT_S)
        if isinstance(message, m.SimAwait):
            self._open.append(_Open(request, until, lambda late: self._progress(activity, late)))
        else:
            self._open.append(_Open(request, until, lambda late: self._lines(activity, message, late)))

    def _answer_open(self) -> None:
        now = time.monotonic()
        waiting, self._open = self._open, []
        for kept in waiting:
            try:
                answer = kept.answer(now >= kept.until_s)
            except TunnelpilotError as failed:
                kept.request.refuse(failed)
                continue
            if answer is None:
                self._open.append(kept)
            else:
                self._answer(kept.request, answer)
        late, self._late = self._late, []
        for due, request, answer in late:
            if due <= now:
                request.reply(answer)
            else:
                self._late.append((due, request, answer))

    def _answer(self, request: Request, message: Message) -> None:
        """Answer, or do what a fault says instead."""
        kind, seconds = self.faults.next_for(type(request.message).__name__)
        if kind == "drop":
            return
        if kind == "delay":
            self._late.append((time.monotonic() + seconds, request, message))
        elif kind == "garbage":
            self.server.socket.send_multipart([request._incoming.identity, self.faults.garbage()])
        else:
            request.reply(message)

    def _watch_client(self) -> None:
        silent = time.monotonic() - self._heard_s
        if self._job_client and silent > CLIENT_SILENCE_S:
            if self.world.job_id:
                self.world.client_lost(self._job_client, silent)
            self._job_client = ""

    @staticmethod
    def _progress(activity: Activity, late: bool) -> Message | None:
        if activity.done.is_set():
            if activity.state == "failed":
                raise activity.error or DriverError(f"the {activity.kind} failed: {activity.reason}")
            return m.SimProgress(
                activity=activity.number,
                state=activity.state,  # type: ignore[arg-type]
                reason=activity.reason,
                sweep=activity.sweep,
            )
        return m.SimProgress(activity=activity.number, state="running") if late else None

    @staticmethod
    def _lines(activity: Activity, asked: m.SimReadLines, late: bool) -> Message | None:
        over = activity.done.is_set()
        have = len(activity.lines)
        if over and activity.state == "failed":
            raise activity.error or DriverError(f"the frame failed: {activity.reason}")
        if have <= asked.after and not over and not late:
            return None
        taken = activity.lines[asked.after : min(have, asked.after + max(1, asked.limit))]
        following = asked.after + len(taken)
        return m.SimLines(
            activity=activity.number,
            lines=joined(taken) if taken else None,
            following=following,
            over=over and following >= len(activity.lines),
            state=activity.state,  # type: ignore[arg-type]
            reason=activity.reason,
        )

    # -- translating -----------------------------------------------------------------------------------------

    def _query(self, _: m.SimQuery) -> Message:
        world, settings, clock = self.world, self.world.settings, self.world.clock
        counts = self.server.statistics
        with world.lock:
            state = world.state()
            activity = world.busy
            tip_changes, lost, job = world.junction.tip.changes, world.situation.lost, world.job_id
        return m.SimStatus(
            pid=os.getpid(),
            sample=world.surface.name,
            seed=world.seed,
            time_scale=clock.scale,
            stepped=clock.stepped,
            time_s=state.time_s,
            x_range_m=settings.lateral_range_m,
            y_range_m=settings.lateral_range_m,
            z_range_m=(settings.feedback.z_low_m, settings.feedback.z_high_m),
            bias_range_v=settings.bias_range_v,
            preamplifier_rail_a=world.electronics.rail_a,
            vertical_drift_m_s=2.0 * world.settings.drift.vertical_m_s,
            job_id=job,
            activity=activity,
            crashed=state.crashed,
            tip_changes=tip_changes,
            lost_surface=lost,
            truth=str(self._truth),
            requests=counts["messages"],
            malformed=counts["malformed"],
            faults=tuple(kind for kind, _ in self.faults.planned)[:100],
        )

    def _begin_job(self, message: m.SimBeginJob) -> Message:
        self.world.begin_job(message.job_id, message.kind)
        return Done()

    def _end_job(self, message: m.SimEndJob) -> Message:
        self.world.end_job(message.job_id, message.outcome)
        self._job_client = ""
        return Done()

    def _set_setpoint(self, message: m.SimSetSetpoint) -> Message:
        self.world.set_setpoint(message.setpoint_a)
        return Done()

    def _set_feedback(self, message: m.SimSetFeedback) -> Message:
        self.world.set_feedback(message.on)
        return Done()

    def _set_lockin(self, message: m.SimSetLockIn) -> Message:
        self.world.set_lockin(message.settings)
        return Done()

    def _withdraw(self, message: m.SimWithdraw) -> Message:
        self.world.withdraw(message.reason)
        return Done(note="the retraction has begun")

    def _stop(self, _: m.SimStop) -> Message:
        self.world.stop()
        return Done()

    def _started(self, kind: str, expected_s: float, run: motions.Run) -> Message:
        activity = self.world.submit(kind, expected_s, run)
        return m.SimStarted(activity=activity.number, expected_s=expected_s)

    def _start_ramp(self, message: m.SimStartRamp) -> Message:
        low, high = self.world.settings.bias_range_v
        if not low <= message.bias_v <= high or not message.slew_v_s > 0.0:
            raise DriverError(
                f"a bias of {message.bias_v:g} V at {message.slew_v_s:g} V/s is outside {low:g} to "
                f"{high:g} V."
            )
        seconds = abs(message.bias_v - self.world.situation.bias_v) / message.slew_v_s
        return self._started("ramp", seconds, motions.ramp(message.bias_v, message.slew_v_s))

    def _start_settle(self, message: m.SimStartSettle) -> Message:
        if not 0.0 <= message.seconds <= 1e5:
            raise DriverError(f"settling for {message.seconds:g} s is none.")
        return self._started("settle", message.seconds, motions.settle(message.seconds))

    def _start_move(self, message: m.SimStartMove) -> Message:
        seconds = motions.move_duration(self.world, message.x_m, message.y_m, message.speed_m_s)
        return self._started("move", seconds, motions.move(message.x_m, message.y_m, message.speed_m_s))

    def _start_sweep(self, message: m.SimStartSweep) -> Message:
        seconds = sweeping.sweep_duration(self.world, message.recipe)
        return self._started("sweep", seconds, sweeping.sweep(message.recipe))

    def _start_frame(self, message: m.SimStartFrame) -> Message:
        scanning.check(self.world, message.recipe)
        seconds = scanning.frame_duration(message.recipe)
        return self._started("frame", seconds, scanning.frame(message.recipe))

    def _start_pulse(self, message: m.SimStartPulse) -> Message:
        run = motions.pulse(message.bias_v, message.width_s, message.hold_z)
        return self._started("pulse", message.width_s, run)

    def _start_indent(self, message: m.SimStartIndent) -> Message:
        seconds = 2.0 * message.depth_m / motions.INDENT_SPEED_M_S + message.dwell_s
        return self._started(
            "indentation", seconds, motions.indent(message.depth_m, message.bias_v, message.dwell_s)
        )

    def _fault(self, message: m.SimFault) -> Message:
        self.world.note(
            "fault",
            kind=message.kind,
            count=message.count,
            seconds=message.seconds,
            metres=message.metres,
        )
        match message.kind:
            case "exit":
                os._exit(70)
            case "tip_crash":
                self.world.crash_now("a fault on demand")
            case "lose_surface":
                self.world.recede(message.metres or 1e-6)
            case "bring_sample":
                defects.bring_sample(self.world, message.metres, message.seconds)
            case "rail":
                defects.saturate_preamplifier(self.world, message.count > 0)
            case "wrong_sign":
                defects.reverse_controller(self.world, message.count > 0)
            case _:
                self.faults.plan(message, time.monotonic())
        return Done()

    def _ground_truth(self, _: m.SimTruthQuery) -> Message:
        world = self.world
        now = world.clock.now()
        return m.SimTruth(
            sample=world.surface.name,
            seed=world.seed,
            extent_m=world.surface.extent_m,
            objects=tuple(
                m.SimObject(
                    kind=o.kind,
                    form=o.form,
                    x_m=o.x_m,
                    y_m=o.y_m,
                    size_m=o.size_m,
                    height_m=o.height_m,
                    footprint_m=o.footprint_m,
                    spectrum=o.spectrum,
                )
                for o in world.surface.objects
            ),
            time_s=now,
            drift_m=world.lateral(now),
            drift_m_s=tuple(float(v) for v in world.stage.drift.velocity(now)),  # type: ignore[arg-type]
        )

    def _true_spectrum(self, message: m.SimSpectrumQuery) -> Message:
        energy = np.asarray(message.energy_v, dtype=np.float64)
        if energy.size > 100_000:
            raise ConfigError(f"{energy.size} energies are more than 100000.")
        if self.world.recorded is not None:
            raise DriverError("a recorded sample has no true density of states; take its spectra.")
        return m.SimSpectrum(
            density=self.world.surface.true_density(message.sample_x_m, message.sample_y_m, energy)
        )


def joined(lines: list[FrameLines]) -> FrameLines:
    """Several single lines as one message."""
    if len(lines) == 1:
        return lines[0]
    channels = tuple(
        Channel(
            name=first.name,
            unit=first.unit,
            values=np.concatenate([line.channels[i].values for line in lines]),
        )
        for i, first in enumerate(lines[0].channels)
    )
    rows = tuple(row for line in lines for row in line.rows)
    return FrameLines(rows=rows, channels=channels, time_s=lines[0].time_s)
