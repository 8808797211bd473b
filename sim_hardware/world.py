"""The simulated microscope: one surface, one tip, one set of electronics, one clock.

The world does one activity at a time (move, ramp, settle, sweep, frame, pulse, indentation) in a thread of
its own; commands come from other threads and are short.  ``withdraw`` acts during anything: it takes the tip
away from whatever it does and only then tells the activity.  What the tip did is written to the truth log.

``World`` knows nothing of messages and sockets, and the activities (``motions``, ``sweeping``, ``scanning``)
reach it through ``Activity.play`` and ``World.situation`` alone.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError, TunnelpilotError
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import LockIn
from sim_hardware.clock import Clock
from sim_hardware.damage import Crater
from sim_hardware.electronics import measurement_noise
from sim_hardware.situation import Activity, InterruptedActivityError
from sim_hardware.surfaces.base import Surface
from sim_hardware.tip import tip_after
from sim_hardware.tip_at_surface import TipAtSurface, WorldSettings
from sim_hardware.trajectory import Instant, Trajectory
from sim_hardware.truth import TruthPen

Floats = npt.NDArray[np.float64]

IDLE_TICK_S = 0.1
"""Wall seconds between looks at an idle tip: a crash while nobody asks is noticed within this."""
KEPT_ACTIVITIES = 8
SAFE_TIP = "safe tip"


class World(TipAtSurface):
    """See the module's text."""

    def __init__(
        self,
        surface: Surface,
        clock: Clock,
        pen: TruthPen,
        seed: int,
        settings: WorldSettings | None = None,
        tip_changes: int = 0,
        on_change: Callable[[], None] = lambda: None,
        tip_cause: str = "crash",
        craters: tuple[Crater, ...] = (),
    ) -> None:
        tip = tip_after(seed, tip_changes, tip_cause)
        super().__init__(surface, clock, pen, seed, settings or WorldSettings(), tip, craters)
        self.on_change = on_change
        """Called from any thread when an activity progressed or ended; must return at once."""
        self._job_counts = 0
        self._strays = 0
        self._activities: OrderedDict[int, Activity] = OrderedDict()
        self._current: Activity | None = None
        self._number = 0
        self._tasks: queue.SimpleQueue[Activity | object | None] = queue.SimpleQueue()
        self._never = threading.Event()
        self._rng = np.random.default_rng([seed, 0x57A7E])
        self._thread = threading.Thread(target=self._work, name="world", daemon=True)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to live."""
        self._thread.start()

    def close(self) -> None:
        """Withdraw, let the retraction end, and stop."""
        self.withdraw("the simulated microscope exits")
        self._tasks.put(None)
        self._thread.join(10.0)

    # -- commands, short, from any thread --------------------------------------------------------------------

    def begin_job(self, job_id: str, kind: str) -> None:
        """A job starts.  One that was left open ends here, "abandoned"."""
        with self.lock:
            if self.job_id:
                self.note("end_job", outcome="abandoned")
            self.job_id = job_id
            self._job_counts = 0
            self.note("begin_job", kind=kind)

    def end_job(self, job_id: str, outcome: str) -> None:
        """The job is over; another id than the running one is ignored (its job was abandoned before)."""
        with self.lock:
            if self.job_id == job_id:
                self.note("end_job", outcome=outcome)
                self.job_id = ""

    def client_lost(self, peer: str, silent_s: float) -> None:
        """The client of the running job has vanished: the electronics go on, the job is nobody's."""
        with self.lock:
            self.note("client_lost", peer=peer, silent_s=silent_s)
            if self.job_id:
                self.note("end_job", outcome="client lost")
                self.job_id = ""

    def withdraw(self, reason: str) -> None:
        """Controller off and Z on its way up when this returns; then whatever runs is stopped."""
        with self.lock:
            stamp = time.monotonic()
            now = self.clock.now()
            self._freeze(now)
            s = self.situation
            already = s.retracting or s.withdrawn
            s.feedback = False
            if not already:
                s.retracting, s.since_s = True, now
            activity = self._current
            if activity is not None:
                activity.stop("withdrawn")
        self.pen.note(
            "retraction",
            now,
            self.job_id,
            stamp,
            reason=reason,
            during=activity.kind if activity else "",
            moved=not already,
        )
        self._tasks.put(_WAKE)

    def stop(self) -> None:
        """Stop the running activity, whatever it is; sweeps re-enable the controller."""
        with self.lock:
            if self._current is not None:
                self._current.stop("stopped")

    def set_setpoint(self, setpoint_a: float) -> None:
        """Setpoint of |I| (A).

        Raises:
            DriverError: outside the preamplifier's range.
        """
        rail = self.electronics.rail_a
        if not 0.0 < setpoint_a < rail:
            raise DriverError(f"the setpoint {setpoint_a:g} A is outside 0 to {rail:g} A.")
        with self.lock:
            self.advance()
            if setpoint_a != self.situation.setpoint_a:
                self.note("setpoint", previous=self.situation.setpoint_a, setpoint_a=setpoint_a)
            self.situation.setpoint_a = setpoint_a

    def set_feedback(self, on: bool) -> None:
        """Z-controller on (from withdrawn: the approach begins) or off (Z holds)."""
        with self.lock:
            self._refuse_if_busy("switch the Z-controller")
            self.advance()
            s = self.situation
            if on and s.retracting:
                raise DriverError("the tip is being withdrawn.", "Wait until it has arrived.")
            if on and s.shorted:
                raise DriverError("the tip is in contact after a crash.", "Withdraw first.")
            if s.feedback != on:
                self.note("feedback", on=on, bias_v=s.bias_v)
            if on and s.withdrawn:
                s.crashed = False
            if on and not s.feedback:
                s.loop.switch_on(s.z_m, abs(self._current_at(self.clock.now())), self.loop())
                s.withdrawn = False
                self.controls.safe_tip.tripped = False
            if not on and s.feedback and not s.withdrawn:
                s.z_m = min(s.z_m + self.controls.controller.tip_lift_m, self.z_range()[1])
            s.feedback = on

    def resume_feedback(self, on: bool) -> None:
        """The controller takes over again after something held it, without a jump; with the lock held."""
        s = self.situation
        if on and not s.feedback:
            s.loop.switch_on(s.z_m, abs(self._current_at(self.clock.now())), self.loop())
        s.feedback = on

    def set_lockin(self, settings: LockIn | None) -> None:
        """Modulation on with these settings, or off."""
        with self.lock:
            if settings != self.situation.lockin:
                self.note("lockin", on=settings is not None)
            self.situation.lockin = settings

    def submit(self, kind: str, expected_s: float, run: Callable[[World, Activity], None]) -> Activity:
        """Begin an activity.

        Raises:
            DriverError: another one runs, or the tip is being withdrawn.
        """
        with self.lock:
            self._refuse_if_busy(f"begin a {kind}")
            if self.situation.retracting:
                raise DriverError(f"cannot begin a {kind}: the tip is being withdrawn.")
            self._number += 1
            activity = Activity(self._number, kind, self.job_id, expected_s, run)
            self._activities[activity.number] = activity
            while len(self._activities) > KEPT_ACTIVITIES:
                self._activities.popitem(last=False)
            self._current = activity
        self._tasks.put(activity)
        return activity

    def activity(self, number: int) -> Activity:
        """An activity of late.

        Raises:
            DriverError: unknown, for example because the world was restarted.
        """
        with self.lock:
            if number not in self._activities:
                raise DriverError(
                    f"activity {number} is unknown (the last is {self._number}).",
                    "The simulated microscope was restarted, or many activities ran since.",
                )
            return self._activities[number]

    def state(self) -> InstrumentState:
        """One reading."""
        with self.lock:
            now = self.clock.now()
            if self._live is None:
                self.advance(now)
            s = self.situation
            here = self._instant(now)
            kind = self._current.kind if self._current else ""
            noise = float(self._rng.normal(0.0, 0.3e-12)) * self.junction.tip.noise_factor
            current = here.current_a + noise + self.junction.tip.current_offset_a
            rail = self.electronics.rail_a
            return InstrumentState(
                time_s=now,
                bias_v=here.bias_v,
                setpoint_a=s.setpoint_a,
                current_a=float(np.clip(current, -rail, rail)),
                feedback=s.feedback,
                withdrawn=s.withdrawn,
                x_m=here.x_m,
                y_m=here.y_m,
                z_m=here.z_m,
                scanning=kind == "frame",
                sweeping=kind == "sweep",
                lockin_on=s.lockin is not None,
                crashed=s.crashed,
            )

    @property
    def busy(self) -> str:
        """Kind of the running activity; empty: none."""
        current = self._current
        return current.kind if current is not None else ""

    def crash_now(self, cause: str) -> None:
        """The tip crashes (a fault on demand)."""
        with self.lock:
            self._freeze(self.clock.now())
            self._crash(cause)
            activity = self._current
            if activity is not None and activity.kind != "frame":
                activity.stop("crash")

    # -- the electronics as they are set ---------------------------------------------------------------------

    # -- for activities --------------------------------------------------------------------------------------

    def noise(self) -> np.random.Generator:
        """The noise of the next measurement, keyed by the seed and the job's id (without a job: counted).

        The run's name in front of the id is left out: it holds a date, and two runs of one campaign shall be
        comparable.
        """
        with self.lock:
            if self.job_id:
                self._job_counts += 1
                name = self.job_id.partition("/")[2] or self.job_id
                return measurement_noise(self.seed, name, self._job_counts)
            self._strays += 1
            return measurement_noise(self.seed, "", self._strays)

    def wait(self, activity: Activity, until_s: float) -> None:
        """Let time pass while the tip does what it does by itself.

        Raises:
            InterruptedActivityError: stopped meanwhile.
        """
        if not self.clock.wait_until(until_s, activity.interrupt):
            raise InterruptedActivityError(activity.why)
        with self.lock:
            self.advance()

    def play(self, activity: Activity, trajectory: Trajectory) -> None:
        """Carry a trajectory out.

        Raises:
            InterruptedActivityError: stopped on the way, or it ends in a crash.
        """
        with self.lock:
            if activity.interrupt.is_set():
                raise InterruptedActivityError(activity.why)
            trajectory = self._guarded(trajectory)
            self._live = trajectory
        arrived = self.clock.wait_until(trajectory.end_s, activity.interrupt)
        with self.lock:
            if activity.interrupt.is_set() or not arrived:
                self._freeze(self.clock.now())
                raise InterruptedActivityError(activity.why)
            self._live = None
            self._settle_at(trajectory.at(trajectory.end_s), trajectory.end_s)
            if trajectory.ending == "crash":
                self._crash(activity.kind)
            tripped = trajectory.ending == SAFE_TIP
        if tripped:
            self._trip()
            raise InterruptedActivityError(SAFE_TIP)

    # -- inside ----------------------------------------------------------------------------------------------

    def _refuse_if_busy(self, what: str) -> None:
        if self._current is not None:
            raise DriverError(
                f"cannot {what}: a {self._current.kind} is under way.", "Wait for it or stop it."
            )

    def _instant(self, now: float) -> Instant:
        if self._live is not None:
            return self._live.at(now)
        s = self.situation
        return Instant(s.x_m, s.y_m, s.z_m, s.bias_v, self._current_at(now))

    def _guarded(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory as SafeTip lets it happen: cut at the first sample above the threshold."""
        if not self.controls.safe_tip.on:
            return trajectory
        above = np.abs(trajectory.current_a[: trajectory.end]) >= self.controls.safe_tip.threshold_a
        if not above.any():
            return trajectory
        return replace(trajectory, end=int(np.argmax(above)) + 1, ending=SAFE_TIP)

    def _freeze(self, now: float) -> None:
        """Leave a trajectory at its present point."""
        if self._live is None:
            self.advance(now)
            return
        live, self._live = self._live, None
        self._settle_at(live.at(now), now)
        if live.ending == "crash" and now >= live.end_s:
            self._crash("moving")

    def _settle_at(self, here: Instant, time_s: float) -> None:
        s = self.situation
        s.x_m, s.y_m, s.z_m, s.bias_v, s.since_s = here.x_m, here.y_m, here.z_m, here.bias_v, time_s

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=IDLE_TICK_S)
            except queue.Empty:
                with self.lock:
                    self.advance()
                continue
            if isinstance(task, Activity):
                self._do(task)
            self._finish_retraction()
            if task is None:
                return

    def _do(self, activity: Activity) -> None:
        try:
            if activity.interrupt.is_set():
                raise InterruptedActivityError(activity.why)
            activity.run(self, activity)
            state, reason = "finished", ""
        except InterruptedActivityError as stopped:
            state, reason = "stopped", stopped.why
        except TunnelpilotError as failed:
            state, reason, activity.error = "failed", str(failed), failed
        except Exception as failed:  # noqa: BLE001  (the world must outlive a bug in one activity, and say so)
            state, reason = "failed", f"{type(failed).__name__}: {failed}"
        with self.lock:
            self._freeze(self.clock.now())
            self._current = None
            activity.state, activity.reason = state, reason
        activity.done.set()
        self.on_change()

    def _finish_retraction(self) -> None:
        """Let the time of a retraction pass, so that a stepped clock gets there too."""
        s, feedback = self.situation, self.settings.feedback
        with self.lock:
            if not s.retracting:
                return
            arrival = s.since_s + (feedback.z_high_m - s.z_m) / self.controls.withdraw_m_s + 1e-6
        self.clock.wait_until(arrival, self._never)
        with self.lock:
            self.advance()
        self.on_change()


_WAKE = object()
"""Wakes the world's thread for a retraction."""
