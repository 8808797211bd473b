"""One world, two doors: the same measurement through either is the same, and the process serves both."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from simulated import Bench, Stmsim, engage, until

from protocols.files.state_directory import read_endpoints
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from sim_hardware import motions
from sim_hardware import stmsim as command
from sim_hardware.drift import NO_DRIFT
from sim_hardware.nanonis.jobs import id_of, name_of
from sim_hardware.nanonis.serve import serve_command
from sim_hardware.scanning import frame
from sim_hardware.surfaces.vacancy import VacancySurface
from sim_hardware.sweeping import sweep
from tests.sim.nanonis_bench import served
from tests.sim.nanonis_client import Client

AT = (3e-9, -2e-9)
SWEEP = SpectrumRecipe(
    stabilise_bias_v=-1.5,
    stabilise_current_a=200e-12,
    settle_s=0.0,
    z_offset_m=0.0,
    start_v=-1.0,
    stop_v=1.0,
    points=51,
    dwell_s=2.0**-8,
    backward=True,
    lockin=LockIn(amplitude_v=2.0**-6, frequency_hz=977.0, time_constant_s=1.0 / (2.0 * np.pi * 256.0)),
)
FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=8e-9,
    height_m=4e-9,
    pixels=32,
    lines=6,
    bias_v=-1.5,
    setpoint_a=200e-12,
    line_time_s=0.125,
)


def test_the_same_measurements_through_both_doors(bench: Callable[..., Bench], tmp_path: Path) -> None:
    """A sweep and a frame with the same measurement ids, over equal worlds: the noise is the same, so are the
    data, as far as float32 carries them; the truth logs name the same ids."""
    plain = bench(VacancySurface(1), drift=NO_DRIFT)
    plain.engage(-1.5, 200e-12)
    plain.do("move", motions.move(*AT, 200e-9))
    plain.world.begin_job("run/d0001/a1", "sweep")
    data = plain.do("sweep", sweep(SWEEP)).sweep
    plain.world.end_job("run/d0001/a1", "finished")
    plain.world.begin_job("run/f0001/a1", "frame")
    lines = plain.do("frame", frame(FRAME)).lines
    plain.world.end_job("run/f0001/a1", "finished")
    assert data is not None
    with served(tmp_path / "other", surface=VacancySurface(1), drift=NO_DRIFT) as other:
        client = other.engaged(-1.5, 200e-12)
        client("FolMe.XYPosSet", *AT, True)
        client("LockIn.ModAmpSet", 1, 2.0**-6)
        client("LockIn.DemodLPFilterSet", 1, 1, 256.0)
        client("BiasSpectr.Open")
        client("BiasSpectr.ChsSet", [0, 86])
        client("BiasSpectr.LimitsSet", -1.0, 1.0)
        client("BiasSpectr.PropsSet", False, 1, True, 51, None, False, False)
        client("BiasSpectr.TimingSet", None, None, None, None, 0.0, 2.0**-8, None, None)
        client("BiasSpectr.AdvPropsSet", True, True, False, True)
        rows = client("BiasSpectr.Start", True, name_of("run/d0001/a1"))["data"]
        client("Scan.FrameSet", 0.0, 0.0, 8e-9, 4e-9, 0.0)
        client("Scan.BufferSet", [30], 32, 6)
        client("Scan.SpeedSet", 0.0, 0.0, 0.125, 0.125, "time per line", 1.0)
        client("Scan.PropsSet", False, False, "off", name_of("run/f0001/a1"), "", (), "off")
        client("Scan.Action", "start", "up")
        client("Scan.WaitEndOfScan", 20_000)
        live = client("Scan.FrameDataGrab", 30, "forward")["data"][::-1]
        jobs = [(e.event, e.job_id) for e in other.events("begin_job") + other.events("end_job")]
    measured = {channel.name: channel.values for channel in data.channels}
    scale = 200e-12
    assert np.allclose(rows[1], measured["current"][0, 0], rtol=1e-3, atol=1e-3 * scale)
    assert np.allclose(rows[2], measured["lockin_x"][0, 0], rtol=1e-3, atol=1e-3 * np.max(rows[2]))
    assert np.allclose(rows[3], measured["current"][0, 1], rtol=1e-3, atol=1e-3 * scale)
    z = np.concatenate([line.channels[0].values[:, 0] for line in lines])
    assert np.allclose(live, z, rtol=0, atol=0.2e-12)
    assert jobs == [(e, j) for e in ("begin_job", "end_job") for j in ("run/d0001/a1", "run/f0001/a1")]


@pytest.mark.parametrize("job_id", ["run/d0012/a1", "2026-11-21_a/f0003/a2", "x"])
def test_names_stand_for_measurement_ids(job_id: str) -> None:
    """A name made of an id gives it back; other names give none."""
    assert id_of(name_of(job_id)) == job_id
    assert id_of("Image_") == ""


def test_one_process_serves_both_doors(stmsim: Callable[..., Stmsim]) -> None:
    """What one door sets the other reads; it ends on SIGTERM also while a client waits for ever."""
    process = stmsim("--stepped", "--sample", "vacancy", "--nanonis-ports", "0,0")
    ports = read_endpoints(process.state, "sim")["nanonis_ports"]
    driver = process.driver()
    engage(driver, -1.25, 150e-12)
    client = Client(ports[0])
    assert client.one("Bias.Get") == -1.25
    assert client.one("ZCtrl.OnOffGet")
    client("ZCtrl.SetpntSet", 80e-12)
    assert np.isclose(driver.state().setpoint_a, 80e-12, rtol=1e-6, atol=0)
    client.send("Scan.WaitEndOfScan", struct.pack(">i", -1))
    with Client(ports[1]) as other:
        until(lambda: other.one("Util.SessionPathGet").startswith(str(process.state)), "an answer")
    assert process.terminate() == 0
    client.socket.close()


def test_serve_is_the_microscope_with_its_nanonis_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """``stmctl simulate serve`` passes its options on; the ports are the usual ones."""
    given: list[list[str]] = []
    monkeypatch.setattr(command, "main", given.append)
    done = CliRunner().invoke(
        serve_command, ["--sample", "au111", "--seed", "7", "--stepped", "--time-scale", "2", "--state", "s"]
    )
    assert done.exit_code == 0, done.output
    options = command.build_parser().parse_args(given[0])
    assert (options.sample, options.seed, options.stepped, options.time_scale) == ("au111", 7, True, 2.0)
    assert (options.nanonis_ports, options.nanonis_release) == ("6501-6504", 14718)
