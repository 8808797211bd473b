"""A fake daemon and a made-up run for tests of the console."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from actors.analysis.patches import FrameGeometry, candidates_from_topograph
from actors.analysis.scalarizers import scalar_of
from actors.dkl_planner.planner import Planner
from actors.journal.store import RunStore
from protocols.errors import TunnelpilotError
from protocols.files.campaign_toml import parse_campaign
from protocols.files.state_directory import ProcessLock, publish_endpoints
from protocols.files.truth_log import TruthLogWriter, truth_path
from protocols.links.server import CommandServer
from protocols.messages.base import Message
from protocols.messages.control import GuardStatus, WorkerStatus
from protocols.messages.daemon import (
    ActorHealth,
    DaemonQuery,
    DaemonStatus,
    EdgeStatistics,
    PointSummary,
    RunProgress,
    RunSummary,
)
from protocols.messages.data import Channel, InstrumentState, SweepData
from protocols.messages.records import (
    Conclusion,
    Decision,
    FrameImage,
    FrameTaken,
    Label,
    ModelState,
    PredictedMap,
    Record,
    RecordBody,
    RunStarted,
    RunState,
    SpectrumTaken,
    Transform,
    WindowClosed,
    WindowOpened,
)

Handler = Callable[[Message], Message]


@contextmanager
def fake_daemon(state: Path, handler: Handler) -> Iterator[list[Message]]:
    """A daemon that answers with ``handler`` (a TunnelpilotError becomes a refusal); gives what was asked."""
    lock = ProcessLock(state, "daemon")
    lock.acquire()
    asked: list[Message] = []
    ready, stop = threading.Event(), threading.Event()
    server_endpoint: list[str] = []

    def serve() -> None:
        with CommandServer("tcp://127.0.0.1:0", "stmd") as server:
            server_endpoint.append(server.endpoint)
            ready.set()
            while not stop.is_set():
                for request in server.poll(0.02):
                    asked.append(request.message)
                    try:
                        request.reply(handler(request.message))
                    except TunnelpilotError as error:
                        request.refuse(error)

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    publish_endpoints(state, "daemon", console=server_endpoint[0])
    try:
        yield asked
    finally:
        stop.set()
        thread.join(10)
        lock.release()


def answering(answers: dict[type[Message], Message | TunnelpilotError]) -> Handler:
    """A handler that looks the answer up by the kind of message; a status is always known."""

    def handle(message: Message) -> Message:
        if isinstance(message, DaemonQuery) and DaemonQuery not in answers:
            return status()
        answer = answers[type(message)]
        if isinstance(answer, TunnelpilotError):
            raise answer
        return answer

    return handle


def instrument() -> InstrumentState:
    """Tunneling quietly."""
    return InstrumentState(
        time_s=12.0,
        bias_v=1.0,
        setpoint_a=1e-10,
        current_a=1.01e-10,
        feedback=True,
        withdrawn=False,
        x_m=0.0,
        y_m=0.0,
        z_m=1e-9,
        scanning=False,
        sweeping=False,
        lockin_on=False,
    )


def guard(latch: str = "open") -> GuardStatus:
    """A guard whose lease is held."""
    return GuardStatus(
        pid=11,
        worker_pid=12,
        worker_alive=True,
        epoch=3,
        owner="stmd",
        lease_left_s=1.5,
        park="engaged",
        latch=latch,
        latch_reason="current trip" if latch == "latched" else "",
        last_park_reason="",
        instrument=instrument(),
    )


def point(k: int = 1) -> PointSummary:
    """One spectrum."""
    return PointSummary(
        job_id=f"test/d{k:04d}/a1", window=0, x_m=1.25e-8, y_m=-3.1e-9, scalar=0.4, valid=True, label="plain"
    )


def progress(state: str = "running", reason: str = "", run: str = "test") -> RunProgress:
    """A run in its first window."""
    return RunProgress(
        run=run,
        name="test",
        state=state,
        reason=reason,
        began_wall_s=1.7e9,
        seed=1,
        simulated=True,
        time_scale=20.0,
        window=WindowOpened(
            index=0,
            centre_x_m=0.0,
            centre_y_m=0.0,
            width_m=2e-7,
            height_m=2e-7,
            angle_rad=0.0,
            chosen_because="the campaign's first window",
        ),
        windows_planned=3,
        spectra_taken=12,
        spectra_planned=60,
        spectra_total=12,
        latest=(point(1), point(2)),
        best=point(2),
        duty_cycle=0.97,
        activity="sweep d0012",
    )


def status(current: RunProgress | None = None, latch: str = "open") -> DaemonStatus:
    """A healthy daemon."""
    return DaemonStatus(
        pid=10,
        uptime_s=100.0,
        state_directory="/state",
        stop_after_last_run=False,
        versions={"tunnelpilot": "0.1.0"},
        runs=(
            RunSummary(run="test", name="test", state="running", reason="", spectra=12, began_wall_s=1.7e9),
        ),
        current=current,
        actors=(ActorHealth(name="dkl_planner", state="up", pid=20, restarts=1, last_fault="killed"),),
        lease="held",
        epoch=3,
        lease_margin_s=1.2,
        guard=guard(latch),
        worker=WorkerStatus(
            pid=12,
            running="test/d0012/a1",
            ready="",
            spool_unacknowledged=0,
            spool_bytes=0,
            free_bytes=10**9,
            jobs_finished=12,
            jobs_refused=0,
            jobs_discarded=0,
            streams_open=1,
            messages_malformed=0,
            time_scale=20.0,
            simulated=True,
            instrument=instrument(),
            limits={"setpoint_max": 5e-9},
        ),
        edges=(EdgeStatistics(edge="acquirer -> planner", bound=8, waiting=1, passed=12, dropped=0),),
    )


CAMPAIGN = """
name = "test"
seed = 4
[instrument]
sample = "{sample}"
[imaging]
bias = "1.0V"
setpoint = "50pA"
pixels = {pixels}
line_time = "0.4s"
[spectrum]
stabilise_bias = "1.0V"
stabilise_current = "100pA"
settle = "50ms"
z_offset = "0pm"
start = "{start}"
stop = "{stop}"
points = {points}
dwell = "3ms"
[spectrum.lockin]
amplitude = "10mV"
frequency = "4.3kHz"
time_constant = "1ms"
[scalar]
kind = "integral"
window = ["0.05V", "0.22V"]
[planner]
kernel = "matern_xy"
acquisition = "variance"
seed_points = {seeds}
points = {spectra}
candidate_step = {step}
fit_steps = 20
[zoom]
widths = ["5nm"]
[drift]
every = 0
"""


def campaign_text(sample: str = "vacancy", **values: object) -> str:
    """A campaign file; see CAMPAIGN for the names."""
    usual: dict[str, object] = {
        "sample": sample,
        "pixels": 30,
        "start": "-0.22V",
        "stop": "0.22V",
        "points": 45,
        "seeds": 5,
        "spectra": 9,
        "step": 1,
    }
    return CAMPAIGN.format(**{**usual, **values})


def make_run(
    state: Path,
    run: str = "test-1",
    text: str | None = None,
    spectrum: Callable[[float, float], SweepData] | None = None,
) -> Path:
    """A finished run with a real planner behind its decisions, as the daemon would have journaled it."""
    text = text or campaign_text()
    campaign = parse_campaign(text, "test.toml")
    directory = state / "runs" / run
    directory.mkdir(parents=True)
    store = RunStore(directory / "journal.db")
    measure = spectrum or (lambda x, y: bump(x, y, campaign.spectrum.points))
    seq = 0

    def put(key: str, actor: str, body: RecordBody) -> int:
        nonlocal seq
        seq = store.commit([Record(key=key, actor=actor, body=body)])[0]
        return seq

    width, pixels = campaign.zoom.widths_m[0], campaign.imaging.pixels
    put(
        "run",
        "stmd",
        RunStarted(
            run=run,
            campaign=campaign,
            campaign_text=text,
            seed=campaign.seed,
            versions={"tunnelpilot": "0.1.0"},
            limits={},
            simulated=True,
            time_scale=1.0,
        ),
    )
    put("state:1", "stmd", RunState(state="running", reason=""))
    opened = WindowOpened(
        index=0,
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=width,
        height_m=width,
        angle_rad=0.0,
        chosen_because="the campaign's first window",
    )
    put("window:0", "zoom_supervisor", opened)
    z = np.random.default_rng(1).normal(0, 1e-11, (2, pixels, pixels)).astype(np.float32)
    put(
        "frame:w0",
        "scan_controller",
        FrameTaken(
            job_id=f"{run}/f0000/a1",
            window=0,
            purpose="survey",
            images=(FrameImage(channel="z", unit="m", bias_v=1.0, values=z),),
            centre_x_m=0.0,
            centre_y_m=0.0,
            width_m=width,
            height_m=width,
            angle_rad=0.0,
            transform=Transform(),
            began_s=0.0,
            ended_s=24.0,
        ),
    )
    candidates = candidates_from_topograph(
        z.astype(float),
        FrameGeometry(0.0, 0.0, width, width),
        patch_pixels=campaign.planner.patch_pixels,
        step=campaign.planner.candidate_step,
    )
    planner = Planner(campaign.planner, candidates, campaign.seed)
    model_before = 0
    for index in range(campaign.planner.points):
        decision, cursor = f"d{index:04d}", seq
        proposal = planner.propose([], index)
        put(
            f"decision:{decision}",
            "dkl_planner",
            Decision(
                decision=decision,
                window=0,
                index=index,
                cursor=cursor,
                observed=planner.observed,
                pending=(),
                seed=campaign.seed,
                model_before=model_before,
                candidate=proposal.candidate,
                x_m=proposal.x_m,
                y_m=proposal.y_m,
                kind=proposal.kind,
                acquisition=proposal.acquisition,
                mean=proposal.mean,
                std=proposal.std,
                beta=proposal.beta,
                reason=proposal.reason,
                alternatives=proposal.alternatives,
                seconds=0.01,
            ),
        )
        model = ModelState(decision=decision, window=0, arrays=planner.state())
        model_before = put(f"model:{decision}", "dkl_planner", model)
        data = measure(proposal.x_m, proposal.y_m)
        scalar = scalar_of(data, campaign.scalar).value
        job = f"{run}/{decision}/a1"
        put(
            f"spectrum:{job}",
            "spectroscopy_acquirer",
            SpectrumTaken(
                job_id=job,
                decision=decision,
                window=0,
                sample_x_m=proposal.x_m,
                sample_y_m=proposal.y_m,
                piezo_x_m=proposal.x_m,
                piezo_y_m=proposal.y_m,
                recipe=campaign.spectrum,
                data=data,
                scalar=scalar,
                valid=True,
                began_s=25.0 + index,
                ended_s=25.9 + index,
            ),
        )
        put(
            f"label:{job}",
            "spectrum_classifier",
            Label(job_id=job, label="plain", confidence=0.9, probabilities={"plain": 0.9}, model="cnn"),
        )
        planner.observe(job, proposal.x_m, proposal.y_m, scalar)
    planner.propose([], campaign.planner.points)
    mean, std = planner.predicted()
    put(
        "map:0",
        "dkl_planner",
        PredictedMap(
            window=0,
            x_m=candidates.x_m,
            y_m=candidates.y_m,
            mean=mean,
            std=std,
            observed=planner.observed,
            shape=candidates.shape or (),
        ),
    )
    best = planner.best
    assert best is not None
    put(
        "closed:0",
        "zoom_supervisor",
        WindowClosed(
            index=0,
            reason="all spectra are taken",
            best_job=best[0],
            best_x_m=best[1],
            best_y_m=best[2],
            best_scalar=best[3],
        ),
    )
    put("state:2", "stmd", RunState(state="completed", reason="all windows are done"))
    put(
        "conclusion",
        "stmd",
        Conclusion(
            outcome="completed",
            reason="all windows are done",
            best_job=best[0],
            best_x_m=best[1],
            best_y_m=best[2],
            best_scalar=best[3],
            spectra=campaign.planner.points,
            figures={},
        ),
    )
    store.close()
    return directory


def bump(x: float, y: float, points: int) -> SweepData:
    """A spectrum whose lock-in signal is largest at (1 nm, -0.5 nm)."""
    bias = np.linspace(-0.22, 0.22, points)
    strength = np.exp(-((x - 1e-9) ** 2 + (y + 0.5e-9) ** 2) / (2 * (1e-9) ** 2))
    signal = (0.1 + strength) * np.ones(points)
    return SweepData(
        bias_v=bias,
        channels=(Channel(name="lockin_x", unit="V", values=signal.reshape(1, 1, points)),),
        x_m=x,
        y_m=y,
        z_m=0.0,
        time_s=0.0,
    )


def make_truth(
    state: Path, directory: Path, target: tuple[float, float], offset: tuple[float, float]
) -> None:
    """A truth log in which the run's sweeps lie ``offset`` away from where the run believes, each job lasting
    0.9 s of every second."""
    from actors.journal.reader import JournalReader

    writer = TruthLogWriter(truth_path(state))
    objects = [
        {"kind": "vacancy", "x_m": target[0], "y_m": target[1]},
        {"kind": "adsorbate", "x_m": 0.0, "y_m": 0.0},
    ]
    writer.append(
        "ground_truth", time_s=0.0, monotonic_s=0.0, detail={"sample": "vacancy", "objects": objects}
    )
    with JournalReader(directory) as reader:
        for k, found in enumerate(reader.spectra(valid_only=False)):
            s = found.spectrum
            writer.append("begin_job", time_s=float(k), monotonic_s=float(k), job_id=s.job_id)
            where = {
                "sample_x_m": s.sample_x_m + offset[0],
                "sample_y_m": s.sample_y_m + offset[1],
                "seconds": 0.5,
            }
            writer.append("sweep_done", time_s=k + 0.8, monotonic_s=k + 0.8, job_id=s.job_id, detail=where)
            writer.append("end_job", time_s=k + 0.9, monotonic_s=k + 0.9, job_id=s.job_id)
    writer.close()
