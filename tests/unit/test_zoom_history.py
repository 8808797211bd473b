"""The search over scales is made anew from the journal and wants the same as the one that lived on."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from synthetic_run import SPECTRUM, campaign, spectrum_at, topograph

from actors.analysis.patches import RASTER
from actors.journal.points import PointLog
from actors.journal.reader import JournalReader
from actors.journal.schema import FILE_NAME
from actors.journal.store import RunStore
from actors.journal.window_candidates import window_candidates
from actors.zoom_supervisor.history import (
    best_place,
    measured_points,
    search_so_far,
    window_opened,
    window_result,
)
from actors.zoom_supervisor.search import Conclude, Instruction, OpenWindow, ZoomSearch
from protocols.messages.campaign import PlannerSection, ZoomSection
from protocols.messages.records import (
    FrameImage,
    FrameTaken,
    Label,
    PredictedMap,
    Record,
    RecordBody,
    RunStarted,
    SpectrumTaken,
    Transform,
    Validity,
    WindowClosed,
    WindowOpened,
)

WIDTHS_M = (60e-9, 30e-9, 12e-9)
SEED = 4
BRIGHT = (8e-9, -5e-9)
"""Where the scalar stands out."""
FALSE = (-20e-9, 18e-9)
"""Where it seems to stand out in the first window, and does not in the second."""


class Run:
    """A run in which windows are opened as the search says, measured, and closed."""

    def __init__(self, path: Path, bright: float = 1.0, false: float = 0.0) -> None:
        self.bright, self.false = bright, false
        self.store = RunStore(path / FILE_NAME, reserve_bytes=0)
        self.noise = np.random.default_rng(2)
        self.wanted: list[Instruction] = []
        zoom = ZoomSection(widths_m=WIDTHS_M, selection="peak")
        planner = PlannerSection(patch_pixels=8, candidate_step=4)
        self.campaign = msgspec.structs.replace(campaign(), zoom=zoom, planner=planner)
        self.add(
            "run",
            RunStarted(
                run="r",
                campaign=self.campaign,
                campaign_text="",
                seed=SEED,
                versions={},
                limits={},
                simulated=True,
                time_scale=1.0,
            ),
        )
        self.reader = JournalReader(path)
        self.search = ZoomSearch(zoom, SEED)
        self.wanted.append(self.search.start())

    def add(self, key: str, body: RecordBody) -> None:
        """Commit one record."""
        self.store.commit([Record(key=key, actor="t", body=body)])

    def close_files(self) -> None:
        """Let go of everything."""
        self.reader.close()
        self.store.close()

    def points(self) -> PointLog:
        """All points there are."""
        log = PointLog(self.reader)
        log.advance()
        return log

    def value(self, x_m: float, y_m: float, window: int) -> float:
        """The scalar at a place."""
        near = math.exp(-((x_m - BRIGHT[0]) ** 2 + (y_m - BRIGHT[1]) ** 2) / (2 * 3e-9**2))
        seems = math.exp(-((x_m - FALSE[0]) ** 2 + (y_m - FALSE[1]) ** 2) / (2 * 3e-9**2))
        false = self.false if window == 0 else 0.0
        return 0.1 + 0.005 * float(self.noise.normal()) + self.bright * near + false * seems

    def measure_window(self) -> None:
        """Open the window that is wanted, survey it, measure, predict and close; the search lives on."""
        instruction = self.wanted[-1]
        assert isinstance(instruction, OpenWindow)
        opened = window_opened(instruction)
        index = opened.index
        self.add(f"window:{index}", opened)
        self.add(f"frame:r/w{index:02d}-survey/a1", survey(opened))
        found = window_candidates(self.reader, self.reader.started(), opened)
        targets = [BRIGHT, FALSE]
        near = {int(np.argmin(np.hypot(found.x_m - x, found.y_m - y))) for x, y in targets}
        spread = set(range(0, len(found), max(len(found) // 24, 1)))
        for k in sorted(near | spread):
            self.spectrum(f"d{index}{k:04d}", index, float(found.x_m[k]), float(found.y_m[k]))
        mean = [self.value(float(x), float(y), index) for x, y in zip(found.x_m, found.y_m, strict=True)]
        self.add(
            f"map:{index}",
            PredictedMap(
                window=index,
                x_m=found.x_m,
                y_m=found.y_m,
                mean=np.array(mean),
                std=np.full(len(found), 0.01),
                observed=len(spread),
            ),
        )
        best = best_place(self.points(), index)
        assert best is not None
        self.add(
            f"window-closed:{index}",
            WindowClosed(
                index=index,
                reason="all points are taken",
                best_job=best.job_id,
                best_x_m=best.x_m,
                best_y_m=best.y_m,
                best_scalar=best.value,
            ),
        )
        self.wanted.append(self.search.finished(window_result(self.points(), self.reader.started(), index)))

    def spectrum(
        self, name: str, window: int, x_m: float, y_m: float, scalar: float | None = None, valid: bool = True
    ) -> str:
        """One spectrum; its job id."""
        job = f"r/{name}/a1"
        self.add(
            f"spectrum:{job}",
            SpectrumTaken(
                job_id=job,
                decision=name,
                window=window,
                sample_x_m=x_m,
                sample_y_m=y_m,
                piezo_x_m=x_m,
                piezo_y_m=y_m,
                recipe=SPECTRUM,
                data=spectrum_at(x_m, y_m, self.noise),
                scalar=self.value(x_m, y_m, window) if scalar is None else scalar,
                valid=valid,
            ),
        )
        return job


def survey(window: WindowOpened) -> FrameTaken:
    """A frame of the whole window."""
    centre = (window.centre_x_m, window.centre_y_m)
    z = np.stack([topograph(window.width_m, centre, 40)] * 2)
    return FrameTaken(
        job_id=f"r/w{window.index:02d}-survey/a1",
        window=window.index,
        purpose="survey",
        images=(FrameImage(channel="z", unit="m", bias_v=0.5, values=z),),
        centre_x_m=centre[0],
        centre_y_m=centre[1],
        width_m=window.width_m,
        height_m=window.height_m,
        angle_rad=window.angle_rad,
        transform=Transform(),
        began_s=0.0,
        ended_s=1.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run."""
    return tmp_path / "runs" / "r"


def finished(folder: Path, bright: float = 1.0, false: float = 0.0) -> Generator[Run, None, None]:
    """A run window by window, until the search concludes."""
    run = Run(folder, bright, false)
    try:
        yield run
        while isinstance(run.wanted[-1], OpenWindow):
            run.measure_window()
            yield run
    finally:
        run.close_files()


@pytest.mark.parametrize(
    ("bright", "false", "windows"),
    [(1.0, 0.0, 3), (0.6, 1.0, 4), (0.0, 0.0, 3)],
    ids=["find", "return", "flat"],
)
def test_made_anew_after_every_window_it_wants_the_same(
    folder: Path, bright: float, false: float, windows: int
) -> None:
    """The next instruction, with its reason, score and alternatives, and at the end the conclusion are those
    of the search that lived on: down to the find, back from a false one, or nowhere in particular."""
    for run in finished(folder, bright, false):
        search, instruction = search_so_far(run.points())
        assert instruction == run.wanted[-1]
        assert search.returns == run.search.returns
        assert search.concluded == run.search.concluded
    assert len(run.wanted) == windows + 1


def test_a_find_is_followed_to_the_smallest_window(folder: Path) -> None:
    """Its place lies in every window, is handed down, and is confirmed at the end."""
    *_, run = finished(folder)
    *opened, end = run.wanted
    assert isinstance(end, Conclude)
    assert end.confirmed
    assert end.best is not None
    assert math.hypot(end.best.x_m - BRIGHT[0], end.best.y_m - BRIGHT[1]) < 2e-9
    for instruction in opened:
        assert isinstance(instruction, OpenWindow)
        body = window_opened(instruction)
        assert abs(body.centre_x_m - BRIGHT[0]) <= body.width_m / 2
        assert abs(body.centre_y_m - BRIGHT[1]) <= body.width_m / 2
        assert body.chosen_because == instruction.reason
        assert (body.score, body.alternatives) == (instruction.score, instruction.alternatives)
        assert body.handed_down == instruction.handed_down
    assert [w.window.index for w in opened if isinstance(w, OpenWindow)] == [0, 1, 2]


def test_a_false_find_is_left_again(folder: Path) -> None:
    """What seemed brightest in the first window is not there in the second: it goes back and says why."""
    *_, run = finished(folder, 0.6, 1.0)
    back = [w for w in run.wanted if isinstance(w, OpenWindow) and w.going_back]
    assert len(back) == 1
    assert "not found again" in back[0].reason
    assert isinstance(run.wanted[-1], Conclude)
    assert run.wanted[-1].confirmed


def test_points_are_those_that_count_with_their_labels(folder: Path) -> None:
    """Invalid, revoked and numberless spectra are no points; a reinstated one is, and the latest label is
    told."""
    runs = finished(folder)
    run = next(runs)
    good = run.spectrum("d0000", 0, 1e-9, 1e-9, 0.5)
    run.spectrum("d0001", 0, 2e-9, 1e-9, 0.9, valid=False)
    revoked = run.spectrum("d0002", 0, 3e-9, 1e-9, 0.8)
    back = run.spectrum("d0003", 0, 4e-9, 1e-9, 0.4)
    run.spectrum("d0004", 0, 5e-9, 1e-9, math.nan)
    run.spectrum("d0005", 1, 5e-9, 1e-9, 2.0)
    for job, valid in ((revoked, False), (back, False), (back, True)):
        run.add(f"validity:{job}:{valid}", Validity(job_id=job, valid=valid, reason="", by="test"))
    for label in ("clean", "vacancy"):
        run.add(
            f"label:{label}", Label(job_id=good, label=label, confidence=1.0, probabilities={}, model="m")
        )
    points = measured_points(run.points(), 0)
    assert [(p.job_id, p.value, p.label) for p in points] == [(good, 0.5, "vacancy"), (back, 0.4, "")]
    best = best_place(run.points(), 0)
    assert best is not None
    assert best.job_id == good
    assert best_place(run.points(), 2) is None
    runs.close()


def test_a_windows_result_has_its_map_and_knows_the_raster(folder: Path) -> None:
    """Map and candidates are of one length; places on structures are told from the raster.  Without a map
    there are points alone."""
    runs = finished(folder)
    next(runs)
    run = next(runs)
    result = window_result(run.points(), run.reader.started(), 0)
    first = run.wanted[0]
    assert isinstance(first, OpenWindow)
    found = window_candidates(run.reader, run.reader.started(), window_opened(first))
    assert result.on_raster is not None
    assert np.array_equal(result.on_raster, found.origin == RASTER)
    assert result.mean.shape == result.std.shape == result.x_m.shape == result.on_raster.shape
    assert len(result.points) == len(measured_points(run.points(), 0)) > 20
    without = window_result(run.points(), run.reader.started(), 1)
    assert (without.points, without.mean.size, without.on_raster) == ((), 0, None)
    runs.close()
