"""A whole run's journal made up for tests: one or two windows, a survey frame, spectra, decisions, labels.

The surface has one bright vacancy and a few dim ones; everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.journal.schema import FILE_NAME
from actors.journal.store import RunStore
from protocols.messages.campaign import (
    Campaign,
    ClassifierSection,
    ImagingSection,
    InstrumentSection,
    PlannerSection,
    ScalarSection,
    ZoomSection,
)
from protocols.messages.data import Channel, SweepData
from protocols.messages.recipes import Frame, LockIn, ReferencePatch, SpectrumRecipe, Sweep
from protocols.messages.records import (
    Alternative,
    AttemptEnded,
    Conclusion,
    Decision,
    DriftMeasured,
    Fault,
    FrameImage,
    FrameTaken,
    JobIssued,
    Label,
    ModelState,
    OperatorAction,
    PredictedMap,
    Record,
    RecordBody,
    RunStarted,
    RunState,
    SpectrumTaken,
    Transform,
    Validity,
    WindowClosed,
    WindowOpened,
)

POINTS = 101
PIXELS = 30

SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=100e-12,
    settle_s=0.1,
    z_offset_m=0.0,
    start_v=-0.5,
    stop_v=0.5,
    points=POINTS,
    dwell_s=0.01,
    lockin=LockIn(amplitude_v=0.005, frequency_hz=971.0, time_constant_s=0.003),
    backward=True,
)


@dataclass
class SyntheticRun:
    """What a test may ask for afterwards."""

    state: Path
    run: str
    records: list[Record] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    truth_map: np.ndarray[Any, Any] | None = None

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.state / "runs" / self.run


def campaign(widths_m: tuple[float, ...] = (30e-9,), seed: int = 7, sample: str = "vacancy") -> Campaign:
    """The campaign of the made-up run."""
    return Campaign(
        name="made-up vacancies",
        description="A made-up surface for tests.",
        seed=seed,
        instrument=InstrumentSection(sample=sample, time_scale=20.0),
        imaging=ImagingSection(bias_v=0.5, setpoint_a=100e-12, pixels=PIXELS, line_time_s=0.2),
        spectrum=SPECTRUM,
        scalar=ScalarSection(kind="integral", channel="lockin_x", window_v=(0.05, 0.22)),
        planner=PlannerSection(kernel="dkl_xy", acquisition="ucb", seed_points=15, points=60),
        zoom=ZoomSection(widths_m=widths_m),
        classifier=ClassifierSection(training="simulated"),
    )


def scalar_at(x_m: Any, y_m: Any) -> Any:
    """The made-up truth: lock-in integral (A V) at sample coordinates (m)."""
    x, y = np.asarray(x_m) * 1e9, np.asarray(y_m) * 1e9
    bright = 1.0 * np.exp(-((x - 6.2) ** 2 + (y + 4.1) ** 2) / (2 * 2.0**2))
    dim = 0.35 * np.exp(-((x + 7.0) ** 2 + (y - 6.0) ** 2) / (2 * 2.5**2))
    return (0.25 + bright + dim + 0.05 * np.sin(x / 2.0) * np.cos(y / 3.0)) * 1e-12


def spectrum_at(x_m: float, y_m: float, noise: np.random.Generator, saturated: bool = False) -> SweepData:
    """Current and lock-in channels, forward and backward, at one place."""
    bias = np.linspace(SPECTRUM.start_v, SPECTRUM.stop_v, POINTS)
    strength = float(scalar_at(x_m, y_m)) / 1e-12
    ldos = 1.0 + 4 * bias**2 + 2.0 * strength * np.exp(-((bias - 0.13) ** 2) / (2 * 0.04**2))
    lockin = np.stack([ldos, ldos])[None] * 5e-12 + noise.normal(0, 2e-13, (1, 2, POINTS))
    current = np.stack([np.cumsum(ldos) - np.cumsum(ldos)[POINTS // 2]] * 2)[None] * 1e-12
    current = current + noise.normal(0, 1e-13, current.shape)
    if saturated:
        lockin[..., POINTS // 2 :] = np.nan
        current[..., POINTS // 2 :] = np.nan
    return SweepData(
        bias_v=bias,
        channels=(
            Channel(name="current", unit="A", values=current),
            Channel(name="lockin_x", unit="A", values=lockin),
        ),
        x_m=x_m,
        y_m=y_m,
        z_m=1e-10,
        time_s=0.0,
        saturated=saturated,
    )


def topograph(width_m: float, centre: tuple[float, float], pixels: int) -> np.ndarray[Any, Any]:
    """z (m) of a step with vacancies, row 0 at the lowest y."""
    axis = (np.arange(pixels) + 0.5) / pixels * width_m - width_m / 2
    x, y = np.meshgrid(axis + centre[0], axis + centre[1])
    lattice = 8e-12 * (np.cos(2 * np.pi * x / 0.9e-9) + np.cos(2 * np.pi * y / 0.9e-9))
    step = 2.0e-10 / (1 + np.exp(-(x + 0.3 * y - 4e-9) / 5e-10))
    dips = -60e-12 * (np.asarray(scalar_at(x, y)) / 1e-12 - 0.25)
    return np.asarray(lattice + step + dips + 0.01 * x, dtype=np.float32)


def build(
    state: Path,
    run: str = "made-up-1",
    seed: int = 7,
    spectra: int = 60,
    widths_m: tuple[float, ...] = (30e-9,),
    sample: str = "vacancy",
    angle_rad: float = 0.0,
    raster: bool = True,
) -> SyntheticRun:
    """Write the journal of a made-up run below ``state`` and return what is in it.

    ``raster=False`` leaves every third candidate out of the predicted map.
    """
    made = _Builder(SyntheticRun(state, run), seed, spectra, widths_m, sample, angle_rad, raster)
    made.everything()
    store = RunStore(made.run.path / FILE_NAME, reserve_bytes=0, clock=made.clock)
    store.commit(made.run.records[:1])
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA synchronous = OFF")  # hundreds of syncs are not what these tests are about
    for record in made.run.records[1:]:
        store.commit([record])
    store.close()
    return made.run


class _Builder:
    def __init__(
        self,
        run: SyntheticRun,
        seed: int,
        spectra: int,
        widths_m: tuple[float, ...],
        sample: str,
        angle_rad: float,
        raster: bool,
    ) -> None:
        self.run = run
        self.noise = np.random.default_rng(seed)
        self.seed = seed
        self.spectra = spectra
        self.widths_m = widths_m
        self.sample = sample
        self.angle_rad = angle_rad
        self.raster = raster
        self.time_s = 0.0
        self.wall = 1.8e9
        self.decisions = 0
        self.best: tuple[float, str, float, float] = (-np.inf, "", 0.0, 0.0)

    def clock(self) -> float:
        self.wall += 0.5
        return self.wall

    def add(self, key: str, actor: str, body: RecordBody) -> None:
        self.run.records.append(Record(key=key, actor=actor, body=body))

    @property
    def seq(self) -> int:
        return len(self.run.records)

    def everything(self) -> None:
        name = self.run.run
        self.add(
            "run",
            "conductor",
            RunStarted(
                run=name,
                campaign=campaign(self.widths_m, self.seed, self.sample),
                campaign_text='name = "made-up vacancies"\n',
                seed=self.seed,
                versions={"tunnelpilot": "0.1.0", "numpy": "1.26"},
                limits={"bias_max_v": 3.0, "trip_current_a": 5e-9},
                simulated=True,
                time_scale=20.0,
            ),
        )
        for k, state in enumerate(("starting", "engaging", "running")):
            self.add(f"state:{k}", "conductor", RunState(state=state, reason="made up"))
        centre = (0.0, 0.0)
        for index, width in enumerate(self.widths_m):
            self.window(index, centre, width)
            centre = self.best[2], self.best[3]
        self.add("fault:1", "supervisor", Fault(actor="spectrum_classifier", what="died", action="restarted"))
        self.add(
            "operator:1",
            "daemon",
            OperatorAction(command="pause", arguments={"now": "no"}, outcome="paused at the next safe point"),
        )
        self.add("state:8", "conductor", RunState(state="held", reason="Z within 10 % of its range end"))
        self.add("state:9", "conductor", RunState(state="completed", reason="all windows are done"))
        scalar, job, x, y = self.best
        self.add(
            "conclusion",
            "conductor",
            Conclusion(
                outcome="completed",
                reason="all windows are done",
                best_job=job,
                best_x_m=x,
                best_y_m=y,
                best_scalar=scalar,
                spectra=self.spectra * len(self.widths_m),
                figures={
                    "duty_cycle": 0.962,
                    "share_sweeps": 0.81,
                    "share_travel": 0.06,
                    "share_settling": 0.05,
                },
            ),
        )

    def window(self, index: int, centre: tuple[float, float], width: float) -> None:
        self.add(
            f"window:{index}",
            "zoom_supervisor",
            WindowOpened(
                index=index,
                centre_x_m=centre[0],
                centre_y_m=centre[1],
                width_m=width,
                height_m=width,
                angle_rad=self.angle_rad,
                chosen_because="the campaign's first window" if index == 0 else "best supported peak",
            ),
        )
        self.frame(index, centre, width, "survey")
        axis = (np.arange(PIXELS) + 0.5) / PIXELS * width - width / 2
        u, v = (a.ravel() for a in np.meshgrid(axis, axis))
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        xs, ys = centre[0] + c * u - s * v, centre[1] + s * u + c * v
        truth = scalar_at(xs, ys)
        std = np.full(xs.size, 0.4e-12)
        taken: list[int] = []
        for k in range(self.spectra):
            score = np.where(np.isin(np.arange(xs.size), taken), -np.inf, truth + 3.0 * std)
            seeding = k < 15
            choice = (
                int(self.noise.choice(np.setdiff1d(np.arange(xs.size), taken)))
                if seeding
                else int(np.argmax(score))
            )
            taken.append(choice)
            near = np.hypot(xs - xs[choice], ys - ys[choice])
            std = np.minimum(std, 0.4e-12 * (1 - 0.93 * np.exp(-((near / (0.12 * width)) ** 2))))
            self.spectrum(index, k, choice, xs, ys, truth, std, seeding)
            if k == self.spectra // 2:
                self.frame(index, centre, width / 4, "reference")
        some = slice(None) if self.raster else slice(None, None, 3)
        self.add(
            f"map:{index}",
            "dkl_planner",
            PredictedMap(
                window=index,
                x_m=xs[some],
                y_m=ys[some],
                mean=(truth * 0.95 + self.noise.normal(0, 3e-14, xs.size))[some],
                std=std[some],
                observed=self.spectra - 1,
                shape=(PIXELS, PIXELS) if self.raster else (),
            ),
        )
        self.run.truth_map = truth.reshape(PIXELS, PIXELS)
        self.add(
            f"closed:{index}",
            "zoom_supervisor",
            WindowClosed(
                index=index,
                reason=f"all {self.spectra} points of this window are taken",
                best_job=self.best[1],
                best_x_m=self.best[2],
                best_y_m=self.best[3],
                best_scalar=self.best[0],
            ),
        )

    def frame(self, index: int, centre: tuple[float, float], width: float, purpose: str) -> None:
        subject = f"w{index:02d}-{purpose}"
        job = f"{self.run.run}/{subject}/a1"
        pixels = PIXELS * 2
        recipe = Frame(
            centre_x_m=centre[0],
            centre_y_m=centre[1],
            width_m=width,
            height_m=width,
            pixels=pixels,
            lines=pixels,
            bias_v=0.5,
            setpoint_a=100e-12,
            line_time_s=0.2,
            purpose=purpose,
        )
        self.add(
            f"issued:{job}",
            "scan_controller",
            JobIssued(
                job_id=job,
                recipe=ReferencePatch(frame=recipe) if purpose == "reference" else recipe,
                epoch=1,
                window=index,
            ),
        )
        began, self.time_s = self.time_s, self.time_s + 24.0
        z = np.stack([topograph(width, centre, pixels)] * 2)
        z = z + self.noise.normal(0, 1e-12, z.shape).astype(np.float32)
        self.add(
            f"frame:{job}",
            "scan_controller",
            FrameTaken(
                job_id=job,
                window=index,
                purpose=purpose,
                images=(FrameImage(channel="z", unit="m", bias_v=0.5, values=z),),
                centre_x_m=centre[0],
                centre_y_m=centre[1],
                width_m=width,
                height_m=width,
                angle_rad=self.angle_rad,
                transform=Transform(),
                began_s=began,
                ended_s=self.time_s,
            ),
        )
        self.run.truth.append({"event": "frame_done", "job_id": job})
        if purpose == "reference":
            transform = Transform(
                offset_x_m=0.2e-9, offset_y_m=-0.1e-9, velocity_x_m_s=2e-12, time_s=self.time_s
            )
            self.add(
                f"drift:{job}",
                "drift_tracker",
                DriftMeasured(
                    frame_job=job,
                    reference_job=f"{self.run.run}/w{index:02d}-survey/a1",
                    shift_x_m=0.2e-9,
                    shift_y_m=-0.1e-9,
                    confidence=0.91,
                    accepted=True,
                    note="",
                    transform=transform,
                ),
            )

    def spectrum(
        self, index: int, k: int, choice: int, xs: Any, ys: Any, truth: Any, std: Any, seeding: bool
    ) -> None:
        cursor, decision = self.seq, f"d{self.decisions:04d}"
        self.decisions += 1
        x, y = float(xs[choice]), float(ys[choice])
        self.add(
            f"decision:{decision}",
            "dkl_planner",
            Decision(
                decision=decision,
                window=index,
                index=k,
                cursor=cursor,
                observed=k,
                pending=(f"d{self.decisions - 2:04d}",) if k else (),
                seed=self.seed,
                model_before=0,
                candidate=choice,
                x_m=x,
                y_m=y,
                kind="seed" if seeding else "ucb",
                acquisition=float(truth[choice] + 3 * std[choice]),
                mean=float(truth[choice]),
                std=float(std[choice]),
                beta=0.0 if seeding else 10.0 * 0.9**k,
                reason="space filling: farthest from all points so far"
                if seeding
                else "the highest upper confidence bound among 900 candidates",
                alternatives=(Alternative(x_m=x, y_m=-y, acquisition=1e-12, mean=1e-12, std=1e-13),),
                seconds=0.2 + 0.01 * k,
            ),
        )
        self.add(
            f"model:{decision}",
            "dkl_planner",
            ModelState(decision=decision, window=index, arrays={"lengthscale": np.array([1.0 + 0.01 * k])}),
        )
        attempt = 1
        if k == 20:
            job = f"{self.run.run}/{decision}/a1"
            self.issue(job, decision, index, x, y)
            self.add(
                f"ended:{job}",
                "spectroscopy_acquirer",
                AttemptEnded(job_id=job, state="interrupted", reason="the worker was restarted"),
            )
            attempt = 2
        job = f"{self.run.run}/{decision}/a{attempt}"
        self.issue(job, decision, index, x, y)
        saturated = k == 9
        began, self.time_s = self.time_s, self.time_s + 2.6
        value = float(scalar_at(x, y) * (1 + self.noise.normal(0, 0.02)))
        self.add(
            f"spectrum:{job}",
            "spectroscopy_acquirer",
            SpectrumTaken(
                job_id=job,
                decision=decision,
                window=index,
                sample_x_m=x,
                sample_y_m=y,
                piezo_x_m=x + 2e-10,
                piezo_y_m=y - 1e-10,
                recipe=SPECTRUM,
                data=spectrum_at(x, y, self.noise, saturated),
                scalar=float("nan") if saturated else value,
                valid=not saturated,
                quality=("saturated",) if saturated else (),
                began_s=began,
                ended_s=self.time_s,
                travel_s=0.2,
                settle_s=0.1,
            ),
        )
        self.run.truth.append({"event": "sweep_done", "job_id": job})
        defect = value > 0.6e-12
        self.add(
            f"label:{job}",
            "spectrum_classifier",
            Label(
                job_id=job,
                label="vacancy" if defect else "clean",
                confidence=0.93,
                probabilities={"vacancy": 0.93 if defect else 0.07, "clean": 0.07 if defect else 0.93},
                model="cnn-1",
            ),
        )
        if k == 30:
            self.add(
                f"validity:{job}:1",
                "operator",
                Validity(job_id=job, valid=False, reason="tip change", by="operator"),
            )
        elif not saturated and value > self.best[0]:
            self.best = (value, job, x, y)

    def issue(self, job: str, decision: str, index: int, x: float, y: float) -> None:
        self.add(
            f"issued:{job}",
            "spectroscopy_acquirer",
            JobIssued(
                job_id=job,
                recipe=Sweep(x_m=x + 2e-10, y_m=y - 1e-10, spectrum=SPECTRUM),
                epoch=1,
                decision=decision,
                window=index,
                sample_x_m=x,
                sample_y_m=y,
            ),
        )
