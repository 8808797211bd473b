"""Replay: from the journal alone the planner decides again what it decided then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import SPECTRUM, campaign, scalar_at, spectrum_at, topograph

from actors.analysis.patches import FrameGeometry, candidates_from_topograph
from actors.dkl_planner.planner import Planner
from actors.journal.points import PointLog
from actors.journal.reader import JournalReader
from actors.journal.replay import Replayed, feed, replay
from actors.journal.schema import FILE_NAME
from actors.journal.store import RunStore
from protocols.errors import DataFormatError
from protocols.messages.campaign import PlannerSection
from protocols.messages.recipes import Sweep
from protocols.messages.records import (
    Decision,
    JobIssued,
    ModelState,
    Record,
    RecordBody,
    RunStarted,
    SpectrumTaken,
    Validity,
    WindowOpened,
)

SECTION = PlannerSection(
    kernel="dkl_xy", seed_points=5, points=10, patch_pixels=8, candidate_step=2, fit_steps=30
)
WIDTH_M = 30e-9


class Live:
    """A run as it happens: one planner that goes on from decision to decision, two spectra under way."""

    def __init__(self, path: Path) -> None:
        self.path = path / FILE_NAME
        self.store = RunStore(self.path, reserve_bytes=0)
        self.noise = np.random.default_rng(1)
        self.add(
            "run",
            RunStarted(
                run="r",
                campaign=campaign(),
                campaign_text="",
                seed=3,
                versions={},
                limits={},
                simulated=True,
                time_scale=1.0,
            ),
        )
        self.add(
            "w0",
            WindowOpened(
                index=0,
                centre_x_m=0.0,
                centre_y_m=0.0,
                width_m=WIDTH_M,
                height_m=WIDTH_M,
                angle_rad=0.0,
                chosen_because="first",
            ),
        )

    def add(self, key: str, body: RecordBody) -> int:
        """Commit one record."""
        return self.store.commit([Record(key=key, actor="t", body=body)])[0]

    def run(self) -> None:
        """Decide, measure one behind, judge some points later."""
        planner = real_planner()
        told, model = PointLog(JournalReader(self.path), 0), 0
        pending: list[tuple[str, float, float]] = []
        for index in range(SECTION.points):
            cursor = told.reader.last_seq()
            feed(planner, told.advance(cursor))
            chosen = planner.propose([(x, y) for _, x, y in pending], index)
            name = f"d{index:04d}"
            self.add(
                name,
                Decision(
                    decision=name,
                    window=0,
                    index=index,
                    cursor=cursor,
                    observed=planner.observed,
                    pending=tuple(n for n, _, _ in pending),
                    seed=3,
                    model_before=model,
                    candidate=chosen.candidate,
                    x_m=chosen.x_m,
                    y_m=chosen.y_m,
                    kind=chosen.kind,
                    acquisition=chosen.acquisition,
                    mean=chosen.mean,
                    std=chosen.std,
                    beta=chosen.beta,
                    reason=chosen.reason,
                ),
            )
            model = self.add(f"m{index}", ModelState(decision=name, window=0, arrays=planner.state()))
            pending.append((name, chosen.x_m, chosen.y_m))
            if len(pending) > 1:
                self.measure(*pending.pop(0), index)
            if index == 7:
                self.add("v1", Validity(job_id="r/d0003/a1", valid=False, reason="tip change", by="test"))
            if index == 8:
                self.add("v2", Validity(job_id="r/d0003/a1", valid=True, reason="looked again", by="test"))
        told.reader.close()
        self.store.close()

    def measure(self, name: str, x: float, y: float, index: int) -> None:
        """One spectrum; the sixth gives no number."""
        job = f"r/{name}/a1"
        self.add(f"i{job}", JobIssued(job_id=job, recipe=Sweep(x_m=x, y_m=y, spectrum=SPECTRUM), epoch=1))
        good = index != 6
        self.add(
            f"s{job}",
            SpectrumTaken(
                job_id=job,
                decision=name,
                window=0,
                sample_x_m=x,
                sample_y_m=y,
                piezo_x_m=x,
                piezo_y_m=y,
                recipe=SPECTRUM,
                data=spectrum_at(x, y, self.noise),
                scalar=float(scalar_at(x, y)) if good else math.nan,
                valid=good,
            ),
        )


def real_planner(seed: int = 3) -> Planner:
    """The planner of the window."""
    candidates = candidates_from_topograph(
        topograph(WIDTH_M, (0.0, 0.0), 40),
        FrameGeometry(0.0, 0.0, WIDTH_M, WIDTH_M),
        patch_pixels=SECTION.patch_pixels,
        step=SECTION.candidate_step,
        features=False,
    )
    return Planner(SECTION, candidates, seed)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a run that the real planner steered."""
    directory = tmp_path_factory.mktemp("state") / "runs" / "r"
    Live(directory).run()
    return directory


def test_the_real_planner_decides_the_same_again(live: Path) -> None:
    """Every decision comes out with the same candidate and acquisition value, whatever was pending,
    revoked, reinstated or without a number then."""
    with JournalReader(live) as reader:
        found = replay(reader, lambda _reader, _started, _window, decision: real_planner(decision.seed))
    assert len(found) == SECTION.points
    assert [r.decision for r in found if not r.same] == []
    assert {r.kind for r in found} == {"seed", "ucb"}


def test_another_seed_is_noticed(live: Path) -> None:
    """A planner that differs from the one that decided is not taken for it."""
    with JournalReader(live) as reader:
        found = replay(reader, lambda _reader, _started, _window, _decision: real_planner(seed=4))
    assert not all(r.same for r in found)


@dataclass
class Recorder:
    """A planner that only writes down what it is told."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def observe(self, job_id: str, x_m: float, y_m: float, value: float) -> None:
        """Noted."""
        self.told.append(("observe", job_id, value))

    def revoke(self, job_id: str) -> None:
        """Noted."""
        self.told.append(("revoke", job_id))

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Noted."""
        self.told.append(("restore", len(arrays) > 0))

    def propose(self, pending: Sequence[tuple[float, float]], index: int) -> Recorder:
        """Noted; answers itself as the proposal."""
        self.told.append(("propose", tuple(pending), index))
        return self

    candidate = -1
    acquisition = 0.0


def test_planner_is_told_what_was_known_at_the_cursor(live: Path) -> None:
    """Model first, then points and judgements in order up to the cursor, then the pending positions."""
    made: list[Recorder] = []

    def factory(
        _reader: JournalReader, started: RunStarted, window: WindowOpened, decision: Decision
    ) -> Recorder:
        assert (started.run, window.index, decision.window) == ("r", 0, 0)
        made.append(Recorder())
        return made[-1]

    with JournalReader(live) as reader:
        found = replay(reader, factory)
        decisions = {d.decision: d for d in reader.bodies(Decision)}
    assert not any(r.same for r in found if r.kind != "seed")
    assert made[0].told == [("propose", (), 0)]
    assert made[1].told[0] == ("restore", True)
    first = decisions["d0000"]
    assert made[1].told[-1] == ("propose", ((first.x_m, first.y_m),), 1)
    assert ("revoke", "r/d0003/a1") in made[8].told
    assert ("revoke", "r/d0003/a1") not in made[7].told
    last = [t for t in made[-1].told if t[1] == "r/d0003/a1"]
    assert [t[0] for t in last] == ["observe", "revoke", "observe"]
    silent = [t for t in made[-1].told if t[0] == "observe" and math.isnan(t[2])]
    assert len(silent) == 1


def test_missing_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A decision that refers to a model that is not there cannot be replayed, and says so."""
    made = Live(tmp_path / "runs" / "r")
    fields: dict[str, Any] = {
        "decision": "d0000",
        "window": 0,
        "index": 0,
        "cursor": 2,
        "observed": 0,
        "pending": (),
        "seed": 1,
        "model_before": 1,
        "candidate": 0,
        "x_m": 0.0,
        "y_m": 0.0,
        "kind": "ucb",
        "acquisition": 0.0,
        "mean": 0.0,
        "std": 0.0,
        "beta": 0.0,
        "reason": "",
    }
    made.add("d", Decision(**fields))
    made.store.close()
    with (
        JournalReader(made.path) as reader,
        pytest.raises(DataFormatError, match="from the model in record 1"),
    ):
        replay(reader, lambda *_: Recorder())


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (0.0, 0.0, True),
        (1.0, 1.0 + 5e-7, True),
        (1.0, 1.0 + 5e-6, False),
        (1.0, math.nan, False),
        (0.0, 1e-30, False),
    ],
)
def test_closeness_is_relative(then: float, now: float, same: bool) -> None:
    """Acquisition values agree to 1e-6 of their size; a value that is no number never agrees."""
    row = Replayed("d", 0, 0, "ucb", 3, 3, then, now)
    assert row.same is same
    assert not Replayed("d", 0, 0, "ucb", 3, 4, then, now).same
