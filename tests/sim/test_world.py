"""The world as a whole, in this process: what the tip does, how it fails, what the truth log says."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from simulated import Bench, Flat, until

from protocols.errors import DriverError
from protocols.files.truth_log import TruthEntry
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from sim_hardware import approach, motions
from sim_hardware.clock import ScaledClock
from sim_hardware.drift import NO_DRIFT, DriftSettings
from sim_hardware.electronics import ElectronicsSettings
from sim_hardware.feedback import FeedbackSettings
from sim_hardware.physics.distortions import CreepSettings
from sim_hardware.physics.lockin import broadened
from sim_hardware.scanner import ScannerSettings
from sim_hardware.scanning import frame
from sim_hardware.stmsim import craters_of
from sim_hardware.surfaces.vacancy import STEP_HEIGHT_M, VacancySurface
from sim_hardware.sweeping import sweep

Make = Callable[..., Bench]
QUIET = ElectronicsSettings(
    noise_a_per_sqrt_hz=0.0,
    shot_noise=0.0,
    flicker_share=0.0,
    mains_a=0.0,
    gap_noise_m_per_sqrt_hz=0.0,
    image_noise_m=0.0,
)
SMALL = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=20e-9,
    height_m=10e-9,
    pixels=64,
    lines=32,
    bias_v=-1.5,
    setpoint_a=200e-12,
    line_time_s=0.5,
)


def taken(bench: Bench, recipe: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Carry a frame out: z and current, each (lines, 2, pixels), by row."""
    activity = bench.do("frame", frame(recipe))
    order = np.argsort([line.rows[0] for line in activity.lines])
    stacked = [np.concatenate([line.channels[c].values for line in activity.lines])[order] for c in (0, 1)]
    return stacked[0], stacked[1]


def test_starts_withdrawn_and_engages(bench: Make) -> None:
    """A new world is withdrawn with no current; engaged, |I| is the setpoint with the sign of the bias (2
    %)."""
    one = bench(VacancySurface(1))
    state = one.world.state()
    assert state.withdrawn
    assert not state.feedback
    assert abs(state.current_a) < 5e-12
    one.engage()
    state = one.world.state()
    assert state.feedback
    assert not state.withdrawn
    assert np.isclose(state.current_a, -200e-12, rtol=0.02, atol=0)


def test_setpoint_moves_the_tip_by_the_closed_form(bench: Make) -> None:
    """Ten times the setpoint brings the tip ln(10) / 2 kappa = 112 pm closer, to 1 %."""
    one = bench(Flat(), drift=NO_DRIFT)
    one.engage(1.0, 100e-12)
    far = one.world.state().z_m
    one.world.set_setpoint(1e-9)
    one.do("settle", motions.settle(0.1))
    near = one.world.state().z_m
    assert np.isclose(far - near, np.log(10) / (2 * one.world.junction.kappa), rtol=0.01, atol=0)


def test_sweep_shows_the_density_of_states(bench: Make, recipe: SpectrumRecipe) -> None:
    """Without noise the lock-in's X is proportional to the true density of states under the tip, broadened by
    the modulation, to 1 % (without the broadening it is off by more), and the current at the stabilisation
    bias is the setpoint."""
    surface = VacancySurface(2)
    one = bench(surface, drift=NO_DRIFT, electronics=QUIET)
    one.engage()
    one.do("move", motions.move(surface.target.x_m, surface.target.y_m, 200e-9))
    slow = msgspec.structs.replace(
        recipe, lockin=LockIn(amplitude_v=0.02, frequency_hz=977.0, time_constant_s=1e-4)
    )
    data = one.do("sweep", sweep(slow)).sweep
    assert data is not None
    current, x = (channel.values[0, 0] for channel in data.channels[:2])

    def density_at(bias_v: np.ndarray) -> np.ndarray:
        return surface.true_density(data.x_m, data.y_m, bias_v)

    density = broadened(density_at, data.bias_v, 0.02)
    sharp = density_at(data.bias_v)
    assert not np.allclose(x / x.mean() / (sharp / sharp.mean()), 1.0, rtol=0.02, atol=0)
    shape = x / x.mean() / (density / density.mean())
    assert np.allclose(shape[np.abs(data.bias_v) < 1.4], 1.0, rtol=0.01, atol=0)
    assert np.isclose(current[0], -200e-12, rtol=0.05, atol=0)
    assert np.all(
        np.sign(current[np.abs(data.bias_v) > 0.05]) == np.sign(data.bias_v[np.abs(data.bias_v) > 0.05])
    )


def test_forward_and_backward_agree(bench: Make, recipe: SpectrumRecipe) -> None:
    """With a settled lock-in both directions lie within the noise; stored in the order of the bias."""
    one = bench(VacancySurface(3))
    one.engage()
    data = one.do("sweep", sweep(recipe)).sweep
    assert data is not None
    x = data.channels[1].values
    assert x.shape == (1, 2, 121)
    assert np.median(np.abs(x[0, 0] - x[0, 1])) < 0.1 * x.max()


def test_saturation_ends_the_sweep_and_releases_the_controller(bench: Make, recipe: SpectrumRecipe) -> None:
    """Brought 0.4 nm closer the current reaches 10 nA: the sweep ends there, the rest is NaN, the controller
    is on again."""
    one = bench(VacancySurface(3))
    one.engage()
    data = one.do("sweep", sweep(msgspec.structs.replace(recipe, start_v=0.3, z_offset_m=-0.4e-9))).sweep
    assert data is not None
    assert data.saturated
    current = data.channels[0].values[0, 0]
    last = int(np.isfinite(current).sum()) - 1
    assert 0 < last < 120
    assert np.isclose(current[last], 10e-9, rtol=0.2, atol=0)
    assert np.all(np.isnan(current[last + 1 :]))
    assert np.all(np.isnan(data.channels[0].values[0, 1]))
    one.do("settle", motions.settle(0.05))
    state = one.world.state()
    assert state.feedback
    assert np.isclose(state.bias_v, recipe.stabilise_bias_v, rtol=1e-9, atol=0)
    assert np.isclose(state.current_a, -200e-12, rtol=0.05, atol=0)
    assert one.events("sweep_done")[0].detail["saturated"] is True


def test_sweeping_needs_the_controller(bench: Make, recipe: SpectrumRecipe) -> None:
    """Withdrawn, a sweep is refused with the reason."""
    one = bench(VacancySurface(1))
    with pytest.raises(DriverError, match="Z-controller on, but it is off"):
        one.do("sweep", sweep(recipe))


def test_noise_depends_on_the_job_alone(bench: Make, recipe: SpectrumRecipe) -> None:
    """Two worlds that measured other things before give the same spectrum for the same job id at the same
    moment, to 1e-9."""
    spectra = []
    for before in ("other", "another"):
        one = bench(VacancySurface(5), drift=NO_DRIFT)
        one.engage()
        one.world.begin_job(f"run/{before}/a1", "sweep")
        one.do("sweep", sweep(recipe))
        one.do("settle", motions.settle(0.1))
        one.world.begin_job("run/d7/a1", "sweep")
        data = one.do("sweep", sweep(recipe)).sweep
        assert data is not None
        spectra.append(data.channels[1].values)
    assert np.allclose(spectra[0], spectra[1], rtol=1e-9, atol=0)


def test_bias_through_zero_with_the_controller_on_is_a_crash(bench: Make) -> None:
    """The world says so: current at the rail, crashed, an entry in the truth log, another tip; until
    withdrawn."""
    one = bench(VacancySurface(1))
    one.engage(-1.5)
    one.do("ramp", motions.ramp(1.5, 5.0))
    state = one.world.state()
    assert state.crashed
    assert np.isclose(abs(state.current_a), 10e-9, rtol=1e-3, atol=0)
    crash = one.events("crash")
    assert len(crash) == 1
    assert crash[0].detail["cause"] == "ramp"
    assert one.world.junction.tip.changes == 1
    one.world.withdraw("test")
    until(lambda: one.world.state().withdrawn, "the withdrawal")
    assert abs(one.world.state().current_a) < 20e-12
    one.engage(1.5)
    assert not one.world.state().crashed


def test_polarity_changes_safely_while_withdrawn_or_held(bench: Make) -> None:
    """Withdrawn, or with the controller off, the bias may pass through zero."""
    one = bench(VacancySurface(1))
    one.do("ramp", motions.ramp(-1.5, 5.0))
    one.do("ramp", motions.ramp(1.5, 5.0))
    one.engage(1.5)
    one.world.set_feedback(False)
    one.do("ramp", motions.ramp(-1.5, 5.0))
    assert not one.events("crash")


def test_vertical_drift_with_the_controller_off_ends_in_a_crash(bench: Make) -> None:
    """Held above a surface that rises by 1 nm the tip touches it; held above one at rest it does not."""
    one = bench(Flat(), drift=DriftSettings(0.0, 1e-12, 0.0))
    rises = one.world.stage.drift.constant_m_s[2] > 0
    one.engage(1.0)
    one.world.set_feedback(False)
    one.do("settle", motions.settle(3000.0))
    assert one.world.state().crashed == rises
    if not rises:
        assert abs(one.world.state().current_a) < 5e-12


def test_too_fast_over_a_step_is_a_crash(bench: Make) -> None:
    """Up a 0.72 nm step at 50 um/s the tip runs into the wall; at 200 nm/s it climbs."""
    for speed, crashes in ((50e-6, True), (200e-9, False)):
        surface = VacancySurface(2)
        step = surface.steps[0]
        normal = np.array([np.cos(step.angle_rad), np.sin(step.angle_rad)])
        below, above = normal * (step.distance_m + 15e-9), normal * (step.distance_m - 15e-9)
        one = bench(surface, drift=NO_DRIFT)
        one.do("move", motions.move(*below, 1e-6))
        one.engage()
        low = one.world.state().z_m
        one.do("move", motions.move(*above, speed))
        state = one.world.state()
        assert state.crashed is crashes
        if not crashes:
            assert np.isclose(state.z_m - low, STEP_HEIGHT_M, rtol=0.15, atol=0)


def test_losing_the_surface_ends_at_the_range_end(bench: Make) -> None:
    """A surface that recedes by 1 um is lost: Z at its low end, no current, an entry in the truth log."""
    one = bench(VacancySurface(1))
    one.engage()
    one.world.recede(1e-6)
    one.do("settle", motions.settle(1.0))
    state = one.world.state()
    assert np.isclose(state.z_m, FeedbackSettings().z_low_m, rtol=1e-6, atol=0)
    assert abs(state.current_a) < 5e-12
    assert len(one.events("lost_surface")) == 1


def test_indentation_changes_the_tip_and_a_deep_one_breaks_it(bench: Make) -> None:
    """Into the surface by less than 2 nm: another tip. By more: a crash."""
    one = bench(VacancySurface(1))
    one.engage()
    one.do("indentation", motions.indent(0.3e-9, -1.5, 0.01))
    assert one.world.junction.tip.changes == 0
    one.do("indentation", motions.indent(1.5e-9, -1.5, 0.01))
    assert one.world.junction.tip.changes == 1
    assert not one.world.state().crashed
    one.do("indentation", motions.indent(8e-9, -1.5, 0.01))
    assert one.world.state().crashed
    assert [entry.detail["broken"] for entry in one.events("indentation")] == [False, False, True]


def test_pulse_returns_to_the_bias(bench: Make) -> None:
    """After a held pulse bias and controller are as before; a weak pulse leaves the tip alone."""
    one = bench(VacancySurface(1))
    one.engage()
    one.do("pulse", motions.pulse(-2.0, 0.05, True))
    state = one.world.state()
    assert np.isclose(state.bias_v, -1.5, rtol=1e-9, atol=0)
    assert state.feedback
    assert one.world.junction.tip.changes == 0


def test_withdraw_acts_during_a_sweep(bench: Make, recipe: SpectrumRecipe) -> None:
    """In mid-sweep: controller off and retraction first, the sweep stopped after; nothing re-engages."""
    one = bench(VacancySurface(1), clock=ScaledClock(1.0))
    one.world.set_setpoint(200e-12)
    one.do("ramp", motions.ramp(-1.5, 100.0))
    one.world.set_feedback(True)
    one.do("settle", motions.settle(0.3))
    activity = one.world.submit("sweep", 10.0, sweep(msgspec.structs.replace(recipe, dwell_s=0.05)))
    until(lambda: abs(one.world.state().bias_v) < 1.45, "the sweep to be under way")
    one.world.withdraw("test")
    assert not one.world.state().feedback
    assert activity.done.wait(5.0)
    assert (activity.state, activity.reason, activity.sweep) == ("stopped", "withdrawn", None)
    until(lambda: one.world.state().withdrawn, "the withdrawal")
    assert not one.world.state().feedback
    retraction, done = one.events("retraction")[0], one.events("sweep_done")[0]
    assert retraction.detail["during"] == "sweep"
    assert retraction.n < done.n
    assert done.detail["completed"] is False


def test_stop_ends_a_frame_and_keeps_the_controller(bench: Make) -> None:
    """A stopped frame keeps its lines, and the tip stays in tunneling."""
    one = bench(VacancySurface(1), clock=ScaledClock(10.0))
    one.engage()
    activity = one.world.submit("frame", 32.0, frame(SMALL))
    until(lambda: len(activity.lines) >= 2, "two lines")
    one.world.stop()
    assert activity.done.wait(5.0)
    assert activity.state == "stopped"
    assert 2 <= len(activity.lines) < 32
    assert one.world.state().feedback
    entry = one.events("frame_done")[0]
    assert entry.detail["completed"] is False
    assert entry.detail["lines"] == len(activity.lines)


def test_only_one_thing_at_a_time(bench: Make) -> None:
    """While something is under way another activity, or the controller's switch, is refused and named."""
    one = bench(VacancySurface(1), clock=ScaledClock(1.0))
    activity = one.world.submit("settle", 60.0, motions.settle(60.0))
    with pytest.raises(DriverError, match="a settle is under way"):
        one.world.submit("move", 1.0, motions.move(0.0, 0.0, 1e-7))
    with pytest.raises(DriverError, match="a settle is under way"):
        one.world.set_feedback(True)
    one.world.stop()
    assert activity.done.wait(5.0)


def test_frame_shows_the_relief(bench: Make) -> None:
    """Noise off, slow: rows and columns are those of the relief (row 0 lowest y, col 0 lowest x), for both
    directions; what remains is the density of states (a few pm)."""
    surface = VacancySurface(1)
    one = bench(surface, drift=NO_DRIFT, electronics=QUIET)
    one.engage()
    recipe = msgspec.structs.replace(SMALL, centre_x_m=30e-9, centre_y_m=-20e-9, upward=False)
    z, current = taken(one, recipe)
    x = 30e-9 - 10e-9 + (np.arange(64) + 0.5) * 20e-9 / 64
    y = -20e-9 - 5e-9 + (np.arange(32) + 0.5) * 10e-9 / 32
    relief = surface.relief(*np.meshgrid(x, y))
    for direction in (0, 1):
        difference = z[:, direction] - relief
        assert np.median(np.abs(difference - np.median(difference))) < 8e-12
        assert np.corrcoef(z[:, direction].ravel(), relief.ravel())[0, 1] > 0.9
    assert np.isclose(np.median(current), -200e-12, rtol=0.02, atol=0)


def test_a_rotated_frame_sees_the_rotated_surface(bench: Make) -> None:
    """The frame's own axes are turned counter-clockwise: its pixels are where the rotation says."""
    surface = VacancySurface(1)
    one = bench(surface, drift=NO_DRIFT, electronics=QUIET)
    one.engage()
    angle = np.pi / 3
    z, _ = taken(one, msgspec.structs.replace(SMALL, angle_rad=angle))
    u, v = np.meshgrid((np.arange(64) + 0.5) * 20e-9 / 64 - 10e-9, (np.arange(32) + 0.5) * 10e-9 / 32 - 5e-9)
    relief = surface.relief(u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle))
    assert np.corrcoef(z[:, 0].ravel(), relief.ravel())[0, 1] > 0.95


def test_traces_lag_behind(bench: Make) -> None:
    """Forward and backward traces are shifted against each other by 2 v tau, measured on a step to 40 %."""
    surface = VacancySurface(2)
    step = surface.steps[0]
    at = step.distance_m * np.cos(step.angle_rad), step.distance_m * np.sin(step.angle_rad)
    one = bench(surface, drift=NO_DRIFT, electronics=QUIET)
    one.do("move", motions.move(*at, 1e-6))
    one.engage()
    line = msgspec.structs.replace(
        SMALL,
        centre_x_m=at[0],
        centre_y_m=at[1],
        angle_rad=step.angle_rad,
        width_m=30e-9,
        pixels=512,
        height_m=1e-9,
        lines=1,
        line_time_s=0.05,
    )
    z, _ = taken(one, line)
    forward, backward = z[0].astype(float)
    half = (forward.max() + forward.min()) / 2
    crossing = [float(np.argmax(trace < half)) * 30e-9 / 512 for trace in (forward, backward)]
    speed, tau = 30e-9 / 0.05, FeedbackSettings().time_constant_s
    assert np.isclose(crossing[0] - crossing[1], 2 * speed * tau, rtol=0.4, atol=0)


def test_image_noise_is_about_two_picometres(bench: Make) -> None:
    """Two frames of the same place without drift differ by 2 pm rms noise each (15 %)."""
    one = bench(VacancySurface(1), drift=NO_DRIFT)
    one.engage()
    first, second = taken(one, SMALL)[0], taken(one, SMALL)[0]
    assert np.isclose((first - second).std() / np.sqrt(2), 2.05e-12, rtol=0.15, atol=0)


def test_drift_moves_the_image(bench: Make) -> None:
    """A structure appears at sample + drift offset: the vacancy's spectrum is found at the drifted place."""
    surface = VacancySurface(2)
    one = bench(surface)
    one.engage()
    one.do("settle", motions.settle(4000.0))
    dx, dy, _ = one.world.lateral(one.world.clock.now())
    assert np.hypot(dx, dy) > 2e-9
    one.do("move", motions.move(surface.target.x_m + dx, surface.target.y_m + dy, 1e-6))
    recipe = SpectrumRecipe(
        stabilise_bias_v=-1.5,
        stabilise_current_a=200e-12,
        settle_s=0.0,
        z_offset_m=0.0,
        start_v=0.0,
        stop_v=1.5,
        points=61,
        dwell_s=0.01,
        lockin=LockIn(amplitude_v=0.02, frequency_hz=977.0, time_constant_s=2e-3),
    )
    data = one.do("sweep", sweep(recipe)).sweep
    assert data is not None
    x = data.channels[1].values[0, 0]
    assert x[data.bias_v <= 0.5].sum() / x.sum() > 0.08


def test_jobs_are_on_record(bench: Make) -> None:
    """A job that was left open is closed as abandoned by the next; a stray end is ignored."""
    one = bench(Flat())
    one.world.begin_job("run/d1/a1", "sweep")
    one.world.begin_job("run/d2/a1", "sweep")
    one.world.end_job("run/d1/a1", "finished")
    one.world.end_job("run/d2/a1", "finished")
    ends = [(entry.job_id, entry.detail["outcome"]) for entry in one.events("end_job")]
    assert ends == [("run/d1/a1", "abandoned"), ("run/d2/a1", "finished")]


def test_withdrawals_from_many_threads(bench: Make) -> None:
    """Eight threads withdraw at once in mid-frame: one retraction moves, all are on record, the tip is up."""
    one = bench(VacancySurface(1), clock=ScaledClock(10.0))
    one.engage()
    activity = one.world.submit("frame", 32.0, frame(SMALL))
    until(lambda: len(activity.lines) >= 1, "a line")
    threads = [threading.Thread(target=one.world.withdraw, args=("test",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert activity.done.wait(5.0)
    until(lambda: one.world.state().withdrawn, "the withdrawal")
    moved = [entry.detail["moved"] for entry in one.events("retraction")]
    assert moved.count(True) == 1
    assert len(moved) == 8


def test_safe_tip_withdraws_by_itself_and_only_if_armed(bench: Make) -> None:
    """At a setpoint above the threshold an armed SafeTip withdraws the tip without being asked and the truth
    log says so; without SafeTip the tip stays."""
    one = bench(Flat(), drift=NO_DRIFT)
    one.engage(1.0, 100e-12)
    one.world.controls.safe_tip.threshold_a = 1e-9
    one.world.set_setpoint(2e-9)
    one.do("settle", motions.settle(0.2))
    assert one.world.state().feedback
    one.world.set_setpoint(100e-12)
    one.do("settle", motions.settle(0.2))
    one.world.controls.safe_tip.on = True
    one.world.set_setpoint(2e-9)
    one.do("settle", motions.settle(0.2))
    one.do("settle", motions.settle(0.2))
    assert one.world.state().withdrawn
    assert len(one.events("safe_tip")) == 1
    assert not one.world.state().crashed


def test_wrong_sign_of_the_controller_runs_into_the_surface(bench: Make) -> None:
    """With the sign of P turned the loop drives the tip away from its setpoint, into the surface or to the
    end of its range, and never holds the setpoint."""
    one = bench(Flat(), drift=NO_DRIFT)
    one.engage(1.0, 100e-12)
    controller = one.world.controls.controller
    controller.proportional_m = -controller.proportional_m
    one.world.set_setpoint(105e-12)
    one.do("settle", motions.settle(1.0))
    state = one.world.state()
    assert state.crashed or abs(state.current_a) < 50e-12


def test_crash_leaves_a_crater_where_it_happened(bench: Make) -> None:
    """After a crash the relief that the tip feels is at least 0.2 nm lower at the place than far away, where
    it is as flat as before, also for the tip that the crash has changed."""
    one = bench(Flat(), drift=NO_DRIFT)
    one.engage(1.0, 100e-12)
    x, y = np.array([0.0, 20e-9, 40e-9]), np.zeros(3)
    assert np.ptp(one.world.junction.contact(x, y)) == 0.0
    one.world.crash_now("a test")
    here, near, far = one.world.junction.contact(x, y)
    assert here - far < -0.2e-9
    assert abs(near - far) < 1e-15
    assert one.world.state().crashed


def test_coarse_motor_and_approach_find_the_surface_again(bench: Make) -> None:
    """With the sample 0.9 um farther than Z can reach, the automatic approach steps the motor until the
    setpoint flows, and no crash happens."""
    one = bench(Flat(), drift=NO_DRIFT)
    one.do("ramp", motions.ramp(1.0, 10.0))
    one.world.set_setpoint(100e-12)
    one.world.recede(0.9e-6)
    one.do("approach", approach.auto_approach(steps_per_cycle=4))
    state = one.world.state()
    assert state.feedback
    assert np.isclose(abs(state.current_a), 100e-12, rtol=0.05, atol=0)
    assert one.world.controls.coarse_steps[2] < 0
    low, high = one.world.z_range()
    assert low + 0.3 * (high - low) < state.z_m < high - 0.1 * (high - low)
    assert not one.events("crash")


def test_creep_goes_on_after_a_move_as_its_closed_form(bench: Make) -> None:
    """After a move of 200 nm the tip creeps on by gamma ln(1 + t / t0) of it, to 1e-6 of the move."""
    one = bench(Flat(), drift=NO_DRIFT, scanner=ScannerSettings(creep=CreepSettings(0.01, 0.1)))
    one.engage(1.0, 100e-12)
    one.do("move", motions.move(200e-9, 0.0, 1e-6))
    moved = one.world.clock.now()
    for wait in (0.5, 5.0):
        expected = -200e-9 * 0.01 * np.log1p(wait / 0.1)
        offset = one.world.offsets(np.array([moved + wait]))[0, 0]
        assert np.isclose(offset, expected, rtol=0, atol=200e-9 * 1e-6)


def test_craters_belong_to_the_surface_that_was_hit() -> None:
    """After a restart over the same sample and seed its craters are there again, in order; another sample or
    seed in the same directory has none of them."""

    def entry(n: int, event: str, **detail: object) -> TruthEntry:
        return TruthEntry(n=n, event=event, monotonic_s=0.0, wall_s=0.0, time_s=0.0, detail=detail)

    earlier = [
        entry(0, "ground_truth", sample="ws2", seed=1),
        entry(1, "crash", sample_x_m=9e-9, sample_y_m=0.0),
        entry(2, "ground_truth", sample="fese", seed=1),
        entry(3, "crash", sample_x_m=1e-9, sample_y_m=2e-9),
        entry(4, "crash", sample_x_m=3e-9, sample_y_m=4e-9),
    ]
    assert [(c.x_m, c.y_m) for c in craters_of(earlier, "fese", 1)] == [(1e-9, 2e-9), (3e-9, 4e-9)]
    assert craters_of(earlier, "ws2", 1) == ()
    assert craters_of(earlier, "fese", 2) == ()
