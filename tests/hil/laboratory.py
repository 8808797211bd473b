"""One microscope under test, from the first look at it to leaving it as it was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.gateway.interlocks import duration_s
from protocols.errors import ConfigError
from protocols.files.limits_toml import Limits, read_limits
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import Engage, Recipe
from tests.cluster.gateway_harness import await_that
from tests.hil.as_found import MOTOR, OURS, AsFound, Settings, differences
from tests.hil.electronics import Electronics, SimulatedMicroscope
from tests.hil.gateway import Image, LabGateway
from tests.hil.plan import Choices, Plan, whole_pixels


class Laboratory:
    """Electronics, their limits, and the gateway, which is started when it is first needed.

    Raises:
        ConfigError: the tests as chosen are outside the limits.
        DriverError: nothing answers, or the tip is not withdrawn.
    """

    def __init__(
        self,
        electronics: Electronics,
        state: Path,
        limits_path: Path,
        choices: Choices,
        microscope: SimulatedMicroscope | None,
        motion_allowed: bool = False,
    ) -> None:
        self.electronics = electronics
        self.state = state
        self.limits_path = limits_path
        self.limits: Limits = read_limits(limits_path)
        self.microscope = microscope
        """The hands that break the simulated one; None for real electronics."""
        self.frames: list[tuple[Image, float]] = []
        """Topographs of the same place, with their instrument times (s)."""
        self.refused: set[str] = set()
        """Limits that have refused with the tip withdrawn: they may be tried while tunneling."""
        self.motion_allowed = motion_allowed
        """Whether the coarse motor may be moved."""
        self._gateway: LabGateway | None = None
        self._pids: set[int] = set()
        require_no_gateway(state)
        held = AsFound(electronics, state)
        try:
            standing = held.require_withdrawn()
            self.info = held.driver.info()
            if electronics.simulated != (microscope is not None):
                raise ConfigError("only a simulated microscope that the tests have started may be broken.")
            fits = whole_pixels(choices.pixels, self.info.pixel_step)
            choices = Choices(**{**vars(choices), "pixels": fits})
            self.plan = Plan(choices, self.limits, self.info, standing.x_m, standing.y_m)
            self.plan.check()
            self.interrupted = held.interrupted
            """The settings as found are those of an earlier run that was interrupted."""
            self.as_found: Settings = held.remember()
        finally:
            held.close()

    def __str__(self) -> str:
        lines = [self.info.name, str(self.plan), f"limits: {self.limits_path}"]
        if self.interrupted:
            lines.append("settings as found: those of an earlier run, which was interrupted")
        if self.info.time_scale != 1.0:
            lines.append(f"time scale {self.info.time_scale:g}")
        return "\n".join(lines)

    # -- the gateway -----------------------------------------------------------------------------------------

    @property
    def gateway(self) -> LabGateway:
        """The running gateway; started if there is none."""
        if self._gateway is None:
            self._gateway = LabGateway(self.state, self.electronics, self.limits_path)
            self._gateway.parked()
        return self._gateway

    def end_gateway(self) -> None:
        """Park, end the gateway, free the electronics' ports."""
        if self._gateway is not None:
            gateway, self._gateway = self._gateway, None
            try:
                gateway.give_lease_back()
            finally:
                gateway.close()
            self._pids |= gateway.seen_pids
            left = gateway.survivors()
            assert not left, f"processes of the gateway are left: {left}"

    def restart_gateway(self, endpoint: str) -> LabGateway:
        """The gateway anew, with the electronics found at another address (a relay's)."""
        self.end_gateway()
        self._gateway = LabGateway(self.state, self.electronics.at(endpoint), self.limits_path)
        self._gateway.parked()
        return self._gateway

    # -- the tip ---------------------------------------------------------------------------------------------

    def engaged(self) -> InstrumentState:
        """The tip tunnels at the chosen bias and setpoint, wherever it was before; the reading."""
        gateway = self.gateway
        gateway.hold_lease()
        status = gateway.guard()
        assert status.latch == "open", f"the tip is latched: {status.latch_reason}"
        if status.park != "engaged":
            gateway.parked()
        self.carry_out(self.plan.engage())
        return gateway.reading()

    def withdrawn(self) -> InstrumentState:
        """The tip is parked; the reading."""
        gateway = self.gateway
        if gateway.guard().park == "engaged":
            gateway.park("qualification: withdrawn for the next test")
        gateway.parked()
        return gateway.reading()

    def carry_out(self, recipe: Recipe) -> tuple[list[Any], Any]:
        """Have a job carried out; what it may take follows from its recipe."""
        return self.gateway.carry_out(recipe, self.expected_s(recipe))

    def expected_s(self, recipe: Recipe) -> float:
        """Wall seconds that a job may take."""
        seconds = duration_s(recipe, self.limits) / self.info.time_scale
        return seconds + (self.limits.engage_time_max if isinstance(recipe, Engage) else 0.0)

    def topograph(self, purpose: str = "survey") -> Image:
        """A topograph of the chosen place, kept with its time."""
        frame = self.plan.frame(purpose)
        image, end = self.gateway.topograph(frame, self.expected_s(frame))
        self.frames.append((image, 0.5 * (end.began_s + end.ended_s)))
        return image

    def sweeping(self) -> str:
        """A long sweep has begun; its job."""
        recipe = self.plan.long_sweep()
        job = self.gateway.begin(recipe, self.expected_s(recipe))

        def runs() -> bool:
            state = self.gateway.guard().instrument
            return state is not None and state.sweeping

        await_that("a running sweep", runs)
        return job

    def recover(self) -> None:
        """After a fault: parked, acknowledged, and the lease held again."""
        gateway = self.gateway
        gateway.parked()
        if gateway.guard().latch == "latched":
            gateway.acknowledge()
        gateway.hold_lease()

    # -- the end ---------------------------------------------------------------------------------------------

    def after_failure(self) -> None:
        """Withdraw: the gateway gives the settings back, and the next test begins from a parked tip."""
        if self._gateway is not None:
            self._gateway.stop("a test of the qualification failed")
            self.recover()

    def leave(self) -> dict[str, str]:
        """End the gateway and leave the electronics as they were; what it did not give back, in words.

        Raises:
            DriverError: the tip is not withdrawn, or nothing answers.
        """
        self.end_gateway()
        held = AsFound(self.electronics, self.state)
        try:
            allowed = {MOTOR} if self.motion_allowed else set()
            wrong = differences(self.as_found, held.read(), self.limits, allowed)
            held.restore_ours(self.as_found, self.limits)
            not_given_back = {name: text for name, text in wrong.items() if name not in OURS}
            problems = held.restore(self.as_found, tuple(not_given_back))
            still = differences(self.as_found, held.read(), self.limits, allowed)
            for name, text in still.items():
                not_given_back[name] = f"{text}, and could not be set again"
            for problem in problems:
                not_given_back.setdefault(problem.partition(":")[0], problem)
            if not still:
                held.forget()
            return not_given_back
        finally:
            held.close()

    def close(self) -> None:
        """Whatever happened: parked, ended, nothing left behind."""
        try:
            self.end_gateway()
        finally:
            if self.microscope is not None:
                self.microscope.close()

    def unmoved(self, before: InstrumentState, after: InstrumentState) -> list[str]:
        """What has changed between two readings that must be alike, in words."""
        limits = self.limits
        z_noise = 0.3e-9 if before.feedback else 1e-9
        checks: tuple[tuple[str, Callable[[InstrumentState], float], float], ...] = (
            ("bias", lambda s: s.bias_v, limits.bias_tolerance),
            ("setpoint", lambda s: s.setpoint_a, limits.setpoint_tolerance * before.setpoint_a),
            ("x", lambda s: s.x_m, limits.position_tolerance),
            ("y", lambda s: s.y_m, limits.position_tolerance),
            ("z", lambda s: s.z_m, z_noise),
        )
        changed = [
            f"{name} was {value(before):g} and is {value(after):g}"
            for name, value, tolerance in checks
            if not abs(value(before) - value(after)) <= tolerance
        ]
        for name in ("feedback", "withdrawn", "scanning", "sweeping", "lockin_on"):
            was, now = getattr(before, name), getattr(after, name)
            if was != now:
                changed.append(f"{name} was {was} and is {now}")
        return changed


def require_no_gateway(state: Path) -> None:
    """See that no gateway of an earlier run holds the electronics.

    Raises:
        ConfigError: one does, because that run was killed.
    """
    if ProcessLock(state, "gateway").held_by_somebody():
        pid = read_endpoints(state, "gateway")["pid"]
        raise ConfigError(
            f"a gateway of an earlier run still holds the electronics (pid {pid}).",
            f"End it with: kill {pid} (it parks the tip first). What that run found set is kept.",
        )
