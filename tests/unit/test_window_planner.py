"""The planner of a window lives on the journal: made anew at any time, it decides what it would have
decided."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from synthetic_run import SPECTRUM, campaign, scalar_at, spectrum_at, topograph

from actors.console.planning import ReplayPlanners
from actors.dkl_planner.window_planner import WINDOW_SEEDS, Decided, WindowPlanner
from actors.journal.reader import JournalReader
from actors.journal.replay import replay
from actors.journal.schema import FILE_NAME
from actors.journal.store import RunStore
from protocols.errors import DataFormatError, UsageError
from protocols.messages.campaign import PlannerSection
from protocols.messages.records import (
    Decision,
    FrameImage,
    FrameTaken,
    ModelState,
    Record,
    RecordBody,
    RunStarted,
    SpectrumTaken,
    Transform,
    Validity,
    WindowOpened,
)

WIDTH_M = 30e-9
PIXELS = 40
SEED = 3
DKL = PlannerSection(
    kernel="dkl_xy",
    seed_points=4,
    points=9,
    patch_pixels=8,
    candidate_step=4,
    fit_steps=20,
    travel_weight=0.1,
)
MAPPING = PlannerSection(
    kernel="matern_xy", acquisition="covariance", seed_points=4, points=9, candidate_step=4, fit_steps=20
)


class Run:
    """A run's journal that is written while planners read it."""

    def __init__(self, path: Path, section: PlannerSection) -> None:
        self.path = path / FILE_NAME
        self.store = RunStore(self.path, reserve_bytes=0)
        self.noise = np.random.default_rng(1)
        self.measured: list[str] = []
        self.add(
            "run",
            RunStarted(
                run="r",
                campaign=msgspec.structs.replace(campaign(), planner=section),
                campaign_text="",
                seed=SEED,
                versions={},
                limits={},
                simulated=True,
                time_scale=1.0,
            ),
        )
        for index in (0, 1):
            self.add(f"window:{index}", window(index))
            self.add(f"frame:r/w{index:02d}-survey/a1", survey(index))
        self.reader = JournalReader(self.path)

    def add(self, key: str, body: RecordBody) -> int:
        """Commit one record."""
        return self.store.commit([Record(key=key, actor="t", body=body)])[0]

    def planner(self, index: int = 0) -> WindowPlanner:
        """A planner that was just started."""
        return WindowPlanner(self.reader, window(index))

    def keep(self, decided: Decided) -> int:
        """Commit a decision with its model, as the shell does; the number of the model's state."""
        name = decided.decision.decision
        return self.store.commit(
            [
                Record(key=f"decision:{name}", actor="t", body=decided.decision),
                Record(key=f"model:{name}", actor="t", body=decided.model),
            ]
        )[1]

    def measure(self, decision: Decision) -> None:
        """Its spectrum; the third of a run gives no number."""
        job = f"r/{decision.decision}/a1"
        good = len(self.measured) != 2
        self.measured.append(job)
        self.add(
            f"spectrum:{job}",
            SpectrumTaken(
                job_id=job,
                decision=decision.decision,
                window=decision.window,
                sample_x_m=decision.x_m,
                sample_y_m=decision.y_m,
                piezo_x_m=decision.x_m,
                piezo_y_m=decision.y_m,
                recipe=SPECTRUM,
                data=spectrum_at(decision.x_m, decision.y_m, self.noise),
                scalar=float(scalar_at(decision.x_m, decision.y_m)) if good else math.nan,
                valid=good,
            ),
        )

    def judge(self, job: str, valid: bool) -> None:
        """A later judgement."""
        self.add(
            f"validity:{job}:{valid}", Validity(job_id=job, valid=valid, reason="looked again", by="test")
        )


def window(index: int) -> WindowOpened:
    """A window about the origin."""
    return WindowOpened(
        index=index,
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=WIDTH_M,
        height_m=WIDTH_M,
        angle_rad=0.0,
        chosen_because="first",
    )


def survey(index: int) -> FrameTaken:
    """Its survey."""
    z = np.stack([topograph(WIDTH_M, (0.0, 0.0), PIXELS)] * 2)
    return FrameTaken(
        job_id=f"r/w{index:02d}-survey/a1",
        window=index,
        purpose="survey",
        images=(FrameImage(channel="z", unit="m", bias_v=0.5, values=z),),
        centre_x_m=0.0,
        centre_y_m=0.0,
        width_m=WIDTH_M,
        height_m=WIDTH_M,
        angle_rad=0.0,
        transform=Transform(),
        began_s=0.0,
        ended_s=24.0,
    )


def same(a: Decided | str, b: Decided | str) -> None:
    """Both decide the same for the same reasons, and leave the same model."""
    assert isinstance(a, Decided)
    assert isinstance(b, Decided)
    for name in Decision.__struct_fields__:
        if name not in ("seconds", "acquisition", "mean", "std", "alternatives"):
            assert getattr(a.decision, name) == getattr(b.decision, name), name
    for name in ("acquisition", "mean", "std"):
        assert np.isclose(getattr(a.decision, name), getattr(b.decision, name), rtol=1e-9, atol=0), name
    assert set(a.model.arrays) == set(b.model.arrays)
    for name, values in a.model.arrays.items():
        assert np.allclose(values, b.model.arrays[name], rtol=1e-9, atol=0), name


@pytest.fixture(params=[DKL, MAPPING], ids=["dkl", "mapping"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A run with two windows that were surveyed."""
    made = Run(tmp_path / "runs" / "r", request.param)
    yield made
    made.reader.close()
    made.store.close()


def live(run: Run, planner: WindowPlanner, first: int, last: int, waiting: list[Decision]) -> None:
    """Decisions ``first`` to ``last`` of window 0, one spectrum under way meanwhile; kept and measured."""
    for index in range(first, last):
        decided = planner.decide(
            f"d{index:04d}", index, run.reader.last_seq(), tuple(d.decision for d in waiting)
        )
        assert isinstance(decided, Decided)
        planner.kept(run.keep(decided))
        waiting.append(decided.decision)
        if len(waiting) > 1:
            run.measure(waiting.pop(0))


def test_made_anew_at_any_decision_it_decides_as_the_one_that_lived_on(run: Run) -> None:
    """Before every decision, with points revoked, reinstated and without a number in between: candidate,
    acquisition value, reason and the model afterwards are the same, and replay agrees with all of them."""
    planner = run.planner()
    assert planner.seed == SEED * WINDOW_SEEDS
    waiting: list[Decision] = []
    for index in range(9):
        cursor, pending = run.reader.last_seq(), tuple(d.decision for d in waiting)
        decided = planner.decide(f"d{index:04d}", index, cursor, pending)
        same(decided, run.planner().decide(f"d{index:04d}", index, cursor, pending))
        assert isinstance(decided, Decided)
        planner.kept(run.keep(decided))
        waiting.append(decided.decision)
        if len(waiting) > 1:
            run.measure(waiting.pop(0))
        if index in (6, 7):
            run.judge("r/d0001/a1", valid=index == 7)
    replayed = replay(run.reader, ReplayPlanners())
    assert len(replayed) == 9
    assert [r.decision for r in replayed if not r.same] == []
    assert len({r.kind for r in replayed}) >= 2


def test_a_decision_that_could_not_be_kept_does_not_change_the_next(run: Run) -> None:
    """The journal refused (or was not reached): the decision is made again and comes out the same, whatever
    was thought in between."""
    planner = run.planner()
    waiting: list[Decision] = []
    live(run, planner, 0, 6, waiting)
    cursor, pending = run.reader.last_seq(), tuple(d.decision for d in waiting)
    lost = planner.decide("d0006", 6, cursor, pending)
    planner.decide("d0006", 6, cursor, ())
    again = planner.decide("d0006", 6, cursor, pending)
    same(lost, again)
    same(again, run.planner().decide("d0006", 6, cursor, pending))
    assert isinstance(again, Decided)
    planner.kept(run.keep(again))
    live(run, planner, 7, 9, waiting)
    assert [r.decision for r in replay(run.reader, ReplayPlanners()) if not r.same] == []


def test_a_map_in_between_does_not_change_the_next_decision(run: Run) -> None:
    """A window that could not be closed after its map was made goes on as if there had been no map."""
    planner = run.planner()
    waiting: list[Decision] = []
    live(run, planner, 0, 6, waiting)
    cursor, pending = run.reader.last_seq(), tuple(d.decision for d in waiting)
    planner.predicted_map(cursor)
    same(planner.decide("d0006", 6, cursor, pending), run.planner().decide("d0006", 6, cursor, pending))


def test_an_earlier_cursor_shows_less(run: Run) -> None:
    """In lockstep a decision sees only what lay before its cursor, also if the planner knows more already."""
    planner = run.planner()
    waiting: list[Decision] = []
    live(run, planner, 0, 6, waiting)
    early = next(r.seq for r in run.reader.records(kinds=(SpectrumTaken,)) if r.body.job_id == "r/d0003/a1")  # type: ignore[union-attr]
    pending = ("d0004", "d0005")
    decided = planner.decide("d0006", 6, early, pending)
    same(decided, run.planner().decide("d0006", 6, early, pending))
    assert isinstance(decided, Decided)
    assert decided.decision.cursor == early
    assert decided.decision.observed == 3  # the third of the four gave no number


def test_windows_do_not_mix(run: Run) -> None:
    """The next window begins from scratch, with a seed of its own and none of the points before."""
    waiting: list[Decision] = []
    live(run, run.planner(), 0, 5, waiting)
    second = run.planner(1)
    assert second.seed == SEED * WINDOW_SEEDS + 1
    decided = second.decide("d0005", 0, run.reader.last_seq(), ())
    assert isinstance(decided, Decided)
    assert (decided.decision.window, decided.decision.observed, decided.decision.model_before) == (1, 0, 0)


def test_the_first_decision_names_no_model_and_the_next_the_one_before(run: Run) -> None:
    """``model_before`` is the record of the model that the decision started from."""
    waiting: list[Decision] = []
    live(run, run.planner(), 0, 3, waiting)
    decisions = run.reader.bodies(Decision)
    states = {r.seq: r.body for r in run.reader.records(kinds=(ModelState,))}
    assert decisions[0].model_before == 0
    for before, after in pairwise(decisions):
        body = states[after.model_before]
        assert isinstance(body, ModelState)
        assert body.decision == before.decision


def test_the_map_is_that_of_all_points_up_to_its_cursor(run: Run) -> None:
    """Every candidate gets a finite mean and deviation, and a planner made anew predicts the same."""
    planner = run.planner()
    waiting: list[Decision] = []
    live(run, planner, 0, 8, waiting)
    cursor = run.reader.last_seq()
    made, anew = planner.predicted_map(cursor), run.planner().predicted_map(cursor)
    assert made.observed == 6
    assert np.isfinite(made.mean).all()
    assert np.isfinite(made.std).all()
    assert made.mean.shape == made.x_m.shape == made.y_m.shape
    assert np.allclose(made.mean, anew.mean, rtol=1e-9, atol=0)
    assert np.allclose(made.std, anew.std, rtol=1e-9, atol=0)


def test_when_no_candidate_is_left_it_says_so(run: Run) -> None:
    """A text instead of a decision; nothing has to be kept, and it says the same again."""
    planner = run.planner()
    waiting: list[Decision] = []
    live(run, planner, 0, 4, waiting)
    every = planner.predicted_map(run.reader.last_seq())
    places = list(zip(every.x_m, every.y_m, strict=True))
    first = run.reader.bodies(Decision)[0]
    for k, (x, y) in enumerate(places):
        body = msgspec.structs.replace(first, decision=f"x{k:04d}", index=4 + k, x_m=float(x), y_m=float(y))
        run.add(f"decision:x{k:04d}", body)
    pending = tuple(f"x{k:04d}" for k in range(len(places)))
    for _ in range(2):
        said = planner.decide("d0004", 4, run.reader.last_seq(), pending)
        assert isinstance(said, str)
        assert "candidates is measured or under way" in said


def test_what_is_missing_is_named(run: Run) -> None:
    """A window without a survey, and a pending decision that was never made."""
    with pytest.raises(DataFormatError, match=r"window 2 .* has no survey"):
        run.planner(2)
    with pytest.raises(UsageError, match="no decision d0009"):
        run.planner().decide("d0000", 0, run.reader.last_seq(), ("d0009",))
