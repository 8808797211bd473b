"""``stmsim`` as a process, through its driver: the door, what survives, what is refused, faults on demand."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from simulated import Stmsim, engage, until

from protocols.errors import DeadlineError, DriverError
from protocols.files.nanonis_grid import read_grid
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import idle_fraction, job_intervals, truth_path
from protocols.links.client import CommandClient
from protocols.links.server import CommandServer
from protocols.messages.recipes import Frame, SpectrumRecipe
from protocols.messages.simdoor import (
    SimFault,
    SimSpectrum,
    SimSpectrumQuery,
    SimTruth,
    SimTruthQuery,
)
from sim_hardware.stmsim import main
from sim_hardware.surfaces.catalogue import DEMO_GRID

Start = Callable[..., Stmsim]
SMALL = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=20e-9,
    height_m=20e-9,
    pixels=32,
    lines=40,
    bias_v=-1.5,
    setpoint_a=200e-12,
    line_time_s=0.5,
)


def ask(one: Stmsim, message: msgspec.Struct) -> object:
    """One question of a test at the door."""
    with CommandClient(read_endpoints(one.state, "sim")["door"], "test", "stmsim") as client:
        return client.request(message, 5.0)  # type: ignore[arg-type]


def wave(one: Stmsim, fault: SimFault) -> None:
    """Order a fault."""
    ask(one, fault)


def attempt(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run stmsim to its end."""
    command = [sys.executable, "-m", "sim_hardware.stmsim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_job_from_engage_to_withdrawal(stmsim: Start, recipe: SpectrumRecipe) -> None:
    """Engage, move, sweep, frame, withdraw through the driver; the truth log tells it in order."""
    one = stmsim("--stepped", "--seed", "1")
    driver = one.driver()
    info = driver.info()
    assert info.simulated
    assert info.preamplifier_rail_a == 10e-9
    driver.begin_job("run/e/a1", "engage")
    engage(driver)
    driver.end_job("run/e/a1", "finished")
    driver.begin_job("run/d1/a1", "sweep")
    driver.move(10e-9, -5e-9, 200e-9)
    driver.set_lockin(recipe.lockin)
    data = driver.sweep(recipe)
    driver.end_job("run/d1/a1", "finished")
    assert [c.name for c in data.channels] == ["current", "lockin_x", "lockin_y"]
    assert data.channels[0].values.shape == (1, 2, 121)
    assert (data.x_m, data.y_m) == (10e-9, -5e-9)
    lines = list(driver.frame(SMALL))
    rows = [row for chunk in lines for row in chunk.rows]
    assert rows == list(range(40))
    assert lines[0].channels[0].values.dtype == np.float32
    assert lines[0].channels[0].values.shape[1:] == (2, 32)
    driver.withdraw()
    until(lambda: driver.state().withdrawn, "the withdrawal")
    until(lambda: "withdrawn" in [e.event for e in one.truth()], "its entry, written a moment later")
    events = [entry.event for entry in one.truth()]
    expected = ["start", "ground_truth", "begin_job", "bias", "feedback", "end_job", "begin_job", "move"]
    expected += ["lockin", "sweep_done", "end_job", "frame_done", "retraction", "withdrawn"]
    position = 0
    for event in expected:
        position = events.index(event, position)
    assert one.terminate() == 0
    assert one.truth()[-1].event == "exit"


def test_withdraw_during_a_sweep_from_another_driver(stmsim: Start, recipe: SpectrumRecipe) -> None:
    """While the worker's driver awaits a sweep, the guard's withdraws: the sweep fails as withdrawn, the tip
    is up, and the retraction's instant lies between the guard's call and its return."""
    one = stmsim("--time-scale", "1")
    worker, guard = one.driver("worker"), one.driver("guard")
    engage(worker)
    problems: list[str] = []

    def sweep() -> None:
        try:
            worker.sweep(msgspec.structs.replace(recipe, dwell_s=0.1))
        except DriverError as stopped:
            problems.append(str(stopped))

    thread = threading.Thread(target=sweep)
    thread.start()
    until(lambda: guard.state().sweeping and abs(guard.state().bias_v) < 1.49, "the sweep to be under way")
    before = time.monotonic()
    guard.withdraw()
    after = time.monotonic()
    thread.join(10.0)
    assert not thread.is_alive()
    assert "withdrawn" in problems[0]
    until(lambda: guard.state().withdrawn, "the withdrawal")
    state = guard.state()
    assert not state.feedback
    assert not state.sweeping
    entry = next(entry for entry in one.truth() if entry.event == "retraction")
    assert entry.detail["during"] == "sweep"
    assert before <= entry.monotonic_s <= after


def test_withdraw_from_another_thread_of_the_same_driver(stmsim: Start) -> None:
    """One driver, two threads: withdraw acts while the other thread awaits a long settling."""
    one = stmsim("--time-scale", "1")
    driver = one.driver()
    engage(driver)
    problems: list[str] = []

    def settle() -> None:
        try:
            driver.settle(60.0)
        except DriverError as stopped:
            problems.append(str(stopped))

    thread = threading.Thread(target=settle)
    thread.start()
    until(lambda: driver.status().activity == "settle", "the settling to begin")
    driver.withdraw()
    thread.join(10.0)
    assert problems
    assert "withdrawn" in problems[0]


def test_electronics_go_on_without_their_client(stmsim: Start, recipe: SpectrumRecipe) -> None:
    """The client's process is killed in mid-sweep: the sweep ends by itself, the controller is on again at
    the setpoint, and the loss of the client is on record."""
    one = stmsim("--time-scale", "1")
    driver = one.driver("observer")
    door = read_endpoints(one.state, "sim")["door"]
    script = f"""
from actors.gateway.drivers.sim import SimDriver
from protocols.messages.recipes import SpectrumRecipe
driver = SimDriver({door!r}, "victim")
driver.set_bias(-1.5, 20.0); driver.set_setpoint(200e-12); driver.set_feedback(True); driver.settle(0.3)
driver.begin_job("run/d1/a1", "sweep")
driver.sweep(SpectrumRecipe(stabilise_bias_v=-1.5, stabilise_current_a=200e-12, settle_s=0.0, z_offset_m=0.0,
             start_v=-1.5, stop_v=1.5, points=60, dwell_s=0.05))
"""
    victim = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: driver.state().sweeping, "the sweep to begin")
    victim.kill()
    victim.wait(10.0)
    until(lambda: not driver.state().sweeping, "the sweep to end by itself")
    state = driver.state()
    assert state.feedback
    assert np.isclose(state.bias_v, -1.5, rtol=1e-6, atol=0)
    until(lambda: any(entry.event == "client_lost" for entry in one.truth()), "the loss to be noticed")
    done = [entry for entry in one.truth() if entry.event == "sweep_done"]
    assert [entry.detail["completed"] for entry in done] == [True]
    assert [job for job, _, _ in job_intervals(one.truth())] == ["run/d1/a1"]
    until(lambda: abs(driver.state().current_a + 200e-12) < 20e-12, "the current to be back", 5.0)


def test_restart_after_a_kill(stmsim: Start, tmp_path: Path) -> None:
    """SIGKILL in mid-job: the same surface and drift go on, the tip starts withdrawn, the clock does not go
    back, the driver finds the new door, and the job's interval is closed."""
    state = tmp_path / "kept"
    one = stmsim("--stepped", "--seed", "7", state=state)
    driver = one.driver()
    engage(driver)
    driver.begin_job("run/d1/a1", "sweep")
    driver.settle(100.0)
    wave(one, SimFault(kind="tip_crash"))
    until(lambda: [e.event for e in one.truth()][-1:] == ["crash"], "the crash to be on record")
    before = ask(one, SimTruthQuery())
    one.kill()
    other = stmsim("--stepped", "--seed", "7", state=state)
    after = ask(other, SimTruthQuery())
    assert isinstance(before, SimTruth)
    assert isinstance(after, SimTruth)
    assert before.objects == after.objects
    assert before.time_s <= after.time_s < before.time_s + 1.0
    assert np.allclose(before.drift_m, after.drift_m, rtol=0.01, atol=0)
    with pytest.raises(DriverError, match="the simulated microscope"):
        driver.state()
    assert driver.state().withdrawn
    assert driver.status().tip_changes == 1
    truth = other.truth()
    assert [entry.n for entry in truth] == list(range(len(truth)))
    assert sum(entry.event == "ground_truth" for entry in truth) == 1
    assert [job for job, _, _ in job_intervals(truth)] == ["run/d1/a1"]
    assert 0.0 <= idle_fraction(truth, truth[0].monotonic_s, truth[-1].monotonic_s) < 1.0


def test_an_unanswered_request_says_what_was_awaited(stmsim: Start) -> None:
    """Door gone: the error names the request, from whom, and for how long."""
    one = stmsim("--stepped")
    driver = one.driver(answer_s=0.5)
    driver.info()
    one.kill()
    with pytest.raises(DriverError, match=r"awaited an answer to SimReadState from .* for 0\.5 s"):
        driver.state()


def test_faults_on_demand(stmsim: Start) -> None:
    """Dropped, garbled and stalled answers are driver errors, delayed ones come late, and the next is
    well."""
    one = stmsim("--stepped")
    driver = one.driver(answer_s=0.6)
    driver.info()
    for fault in (SimFault(kind="drop"), SimFault(kind="garbage")):
        wave(one, fault)
        with pytest.raises(DriverError, match="awaited"):
            driver.state()
        assert driver.state().withdrawn
    wave(one, SimFault(kind="delay", seconds=0.3))
    before = time.monotonic()
    assert driver.state().withdrawn
    assert time.monotonic() - before >= 0.3
    wave(one, SimFault(kind="stall", seconds=0.9))
    with pytest.raises(DriverError, match="awaited"):
        driver.state()
    assert driver.state().withdrawn
    kinds = [entry.detail["kind"] for entry in one.truth() if entry.event == "fault"]
    assert kinds == ["drop", "garbage", "delay", "stall"]


def test_tip_crash_and_exit_on_demand(stmsim: Start) -> None:
    """A crash on demand shows in the state and in the truth log; exit ends the process at once."""
    one = stmsim("--stepped")
    driver = one.driver()
    engage(driver)
    wave(one, SimFault(kind="tip_crash"))
    state = driver.state()
    assert state.crashed
    assert np.isclose(abs(state.current_a), 10e-9, rtol=1e-3, atol=0)
    client = CommandClient(read_endpoints(one.state, "sim")["door"], "test", "stmsim")
    with client, pytest.raises(DeadlineError):
        client.request(SimFault(kind="exit"), 1.0)
    assert one.process.wait(10.0) == 70


def test_closing_the_frame_iterator_stops_the_scan(stmsim: Start) -> None:
    """A frame that nobody wants any more stops; the tip stays in tunneling."""
    one = stmsim("--time-scale", "10")
    driver = one.driver()
    engage(driver)
    lines = driver.frame(SMALL)
    next(lines)
    lines.close()  # type: ignore[attr-defined]
    until(lambda: not driver.state().scanning, "the scan to stop")
    assert driver.state().feedback


def test_recorded_spectra_at_grid_points_only(stmsim: Start) -> None:
    """The demo grid: a spectrum and the topograph exactly as recorded; off the grid, or with another recipe
    or frame, a refusal that says what there is."""
    one = stmsim("--stepped", "--sample", "recorded:demo")
    grid = read_grid(DEMO_GRID)
    driver = one.driver()
    engage(driver, 0.22)
    driver.move(float(grid.x_m[3]), float(grid.y_m[20]), 50e-9)
    recipe = SpectrumRecipe(
        stabilise_bias_v=0.22,
        stabilise_current_a=200e-12,
        settle_s=0.0,
        z_offset_m=0.0,
        start_v=-0.22,
        stop_v=0.22,
        points=200,
        dwell_s=5e-3,
    )
    channels = {channel.name: channel for channel in driver.sweep(recipe).channels}
    assert channels["lockin_x"].unit == "V"
    assert np.array_equal(channels["current"].values[0, 0], grid.channels["Current (A)"][20, 3])
    assert np.array_equal(channels["lockin_x"].values[0, 0], grid.channels["LockinX (V)"][20, 3])
    with pytest.raises(DriverError, match=r"holds -0\.22 V to 0\.22 V in 200 points"):
        driver.sweep(msgspec.structs.replace(recipe, points=100))
    with pytest.raises(DriverError, match="backward = false"):
        driver.sweep(msgspec.structs.replace(recipe, backward=True))
    driver.move(float(grid.x_m[3]) + 0.05e-9, float(grid.y_m[20]), 50e-9)
    with pytest.raises(DriverError, match="The nearest is row 20, col 3"):
        driver.sweep(recipe)
    whole = Frame(
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=5e-9,
        height_m=5e-9,
        pixels=30,
        lines=30,
        bias_v=0.22,
        setpoint_a=200e-12,
        line_time_s=0.5,
    )
    z = np.concatenate([line.channels[0].values for line in driver.frame(whole)])
    recorded = grid.parameters["Z (m)"].astype(np.float32)
    assert np.array_equal(z[:, 0], recorded)
    assert np.array_equal(z[:, 1], recorded)
    with pytest.raises(DriverError, match="30 x 30 pixels, 5 x 5 nm"):
        list(driver.frame(msgspec.structs.replace(whole, pixels=60)))


def test_a_saturated_recorded_spectrum_is_flagged(stmsim: Start) -> None:
    """A recorded spectrum whose lock-in stood at 10 V says so."""
    grid = read_grid(DEMO_GRID)
    at_rail = np.argwhere(np.abs(grid.channels["LockinX (V)"]).max(axis=2) >= 10.0)
    assert len(at_rail) == 8
    row, col = at_rail[0]
    one = stmsim("--stepped", "--sample", "recorded:demo")
    driver = one.driver()
    engage(driver, 0.22)
    driver.move(float(grid.x_m[col]), float(grid.y_m[row]), 50e-9)
    recipe = SpectrumRecipe(
        stabilise_bias_v=0.22,
        stabilise_current_a=200e-12,
        settle_s=0.0,
        z_offset_m=0.0,
        start_v=0.22,
        stop_v=-0.22,
        points=200,
        dwell_s=1e-3,
    )
    data = driver.sweep(recipe)
    assert data.saturated
    turned = {channel.name: channel.values for channel in data.channels}["lockin_x"][0, 0]
    assert np.array_equal(turned, grid.channels["LockinX (V)"][row, col][::-1])


def test_truth_can_be_asked(stmsim: Start) -> None:
    """The door tells the ground truth and the true density of states at any place."""
    one = stmsim("--stepped", "--seed", "2")
    truth = ask(one, SimTruthQuery())
    assert isinstance(truth, SimTruth)
    target = next(o for o in truth.objects if o.kind == "vacancy")
    energy = np.linspace(0.0, 1.5, 151)
    for x, low, high in ((target.x_m, 0.1, 1.0), (target.x_m + 4e-9, 0.0, 0.01)):
        answer = ask(one, SimSpectrumQuery(sample_x_m=x, sample_y_m=target.y_m, energy_v=energy))
        assert isinstance(answer, SimSpectrum)
        density = np.asarray(answer.density, dtype=np.float64)
        assert low <= density[energy <= 0.5].sum() / density.sum() < high
    logged = next(entry for entry in one.truth() if entry.event == "ground_truth")
    assert len(logged.detail["objects"]) == len(truth.objects)


def test_one_world_per_state_directory(stmsim: Start, tmp_path: Path) -> None:
    """A second stmsim on the same state directory exits with 2 and names the first; the first goes on."""
    state = tmp_path / "one"
    one = stmsim("--stepped", state=state)
    second = attempt("--state", str(state), "--stepped")
    assert second.returncode == 2
    assert f"a sim (pid {one.process.pid}) already runs" in second.stderr
    assert one.driver().state().withdrawn


def test_clear_errors_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port in use, unknown sample, senseless time scale, unknown fault, truncated grid: exit 1 and what to
    do."""
    monkeypatch.setattr("sim_hardware.stmsim.configure_logging", lambda *_, **__: None)
    cut = tmp_path / "cut.3ds"
    cut.write_bytes(DEMO_GRID.read_bytes()[:-1000])
    with CommandServer("tcp://127.0.0.1:0", "somebody") as somebody:
        cases = {
            ("--endpoint", somebody.endpoint): "is in use",
            ("--sample", "graphene"): "Known: au111, ",
            ("--time-scale", "0"): "outside 0.001 to 10000",
            ("--faults", "earthquake"): "there is no fault",
            ("--drift", "-1"): "outside 0 to 1000",
            ("--sample", f"recorded:{cut}"): "expected 2916000 bytes",
        }
        for number, (arguments, expected) in enumerate(cases.items()):
            with pytest.raises(SystemExit) as ended:
                main(["--state", str(tmp_path / f"s{number}"), *arguments])
            assert ended.value.code == 1
            assert expected in capsys.readouterr().err


def test_sigterm_withdraws_first(stmsim: Start) -> None:
    """Terminated in tunneling it withdraws, closes the log and exits with 0."""
    one = stmsim("--time-scale", "10")
    engage(one.driver())
    assert one.terminate() == 0
    events = [entry.event for entry in one.truth()]
    assert events[-1] == "exit"
    assert events.index("retraction") < events.index("withdrawn") < events.index("exit")
    assert truth_path(one.state).read_bytes().endswith(b"\n")


def test_two_lockstep_worlds_agree(stmsim: Start, recipe: SpectrumRecipe, tmp_path: Path) -> None:
    """The same commands in two stepped worlds give the same bits, while a second client reads one of them."""
    results = []
    for number in (1, 2):
        one = stmsim("--stepped", "--seed", "5", state=tmp_path / f"w{number}")
        driver = one.driver()
        driver.begin_job("run/e/a1", "engage")
        engage(driver)
        driver.end_job("run/e/a1", "finished")
        stop = threading.Event()
        watcher = one.driver("guard")

        def look(watcher: object = watcher, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                watcher.state()  # type: ignore[attr-defined]

        thread = threading.Thread(target=look)
        if number == 2:
            thread.start()
        driver.begin_job("run/d1/a1", "sweep")
        driver.move(5e-9, 5e-9, 200e-9)
        driver.settle(0.1)
        data = driver.sweep(recipe)
        driver.end_job("run/d1/a1", "finished")
        z = np.concatenate([chunk.channels[0].values for chunk in driver.frame(SMALL)])
        stop.set()
        if number == 2:
            thread.join(10.0)
        results.append((data.channels[1].values, z, driver.state().time_s))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]
