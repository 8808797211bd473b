"""The ledger: what a run has done, folded from its journal, is the same however often the fold began anew."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import SPECTRUM, campaign

from actors.runtime.ledger import MAXIMUM_ATTEMPTS, MAXIMUM_FAILURES, RunLedger, reference_name, split_job_id
from protocols.messages.data import Channel, SweepData
from protocols.messages.jobs import JobState
from protocols.messages.recipes import Move, Sweep
from protocols.messages.records import (
    Alternative,
    AttemptEnded,
    Conclusion,
    Decision,
    DriftMeasured,
    Fault,
    FrameImage,
    FrameTaken,
    JobDone,
    JobIssued,
    Label,
    RecordBody,
    RunStarted,
    RunState,
    SpectrumTaken,
    StoredRecord,
    Transform,
    Validity,
    WindowClosed,
    WindowOpened,
)

RUN = "r"
UNFINISHED = ("failed", "refused", "discarded", "interrupted", "outcome unknown")
DATA = SweepData(
    bias_v=np.zeros(1),
    channels=(Channel(name="current", unit="A", values=np.zeros((1, 1, 1))),),
    x_m=0.0,
    y_m=0.0,
    z_m=0.0,
    time_s=0.0,
)


class Story:
    """Records of a run as they are written, numbered from 1."""

    def __init__(self) -> None:
        self.records: list[StoredRecord] = []

    def add(self, body: RecordBody) -> StoredRecord:
        """One record more."""
        seq = len(self.records) + 1
        record = StoredRecord(seq=seq, key=f"k{seq}", actor="t", wall_s=1.8e9 + seq, body=body)
        self.records.append(record)
        return record

    def issue(self, job: str) -> None:
        """An order is written down."""
        self.add(JobIssued(job_id=job, recipe=Move(x_m=0.0, y_m=0.0), epoch=1))

    def end(self, job: str, state: str, reason: str = "why") -> None:
        """An attempt ended without a measurement."""
        self.add(AttemptEnded(job_id=job, state=state, reason=reason))

    def measure(self, job: str, window: int = 0, scalar: float = 1.0, valid: bool = True) -> None:
        """A spectrum is there."""
        _, decision, _ = split_job_id(job)
        self.add(
            SpectrumTaken(
                job_id=job,
                decision=decision,
                window=window,
                sample_x_m=1e-9,
                sample_y_m=2e-9,
                piezo_x_m=1e-9,
                piezo_y_m=2e-9,
                recipe=SPECTRUM,
                data=DATA,
                scalar=scalar,
                valid=valid,
                ended_s=float(len(self.records)),
            )
        )

    def frame(self, job: str, window: int = 0, purpose: str = "survey") -> None:
        """A frame is there."""
        image = FrameImage(channel="z", unit="m", bias_v=1.0, values=np.zeros((2, 2, 2), dtype=np.float32))
        self.add(
            FrameTaken(
                job_id=job,
                window=window,
                purpose=purpose,
                images=(image,),
                centre_x_m=0.0,
                centre_y_m=0.0,
                width_m=1e-8,
                height_m=1e-8,
                angle_rad=0.0,
                transform=Transform(),
                began_s=0.0,
                ended_s=float(len(self.records)),
            )
        )

    def decide(self, name: str, window: int = 0, index: int = 0) -> None:
        """The planner has decided."""
        self.add(
            Decision(
                decision=name,
                window=window,
                index=index,
                cursor=0,
                observed=0,
                pending=(),
                seed=1,
                model_before=0,
                candidate=0,
                x_m=0.0,
                y_m=0.0,
                kind="seed",
                acquisition=0.0,
                mean=0.0,
                std=0.0,
                beta=0.0,
                reason="",
            )
        )

    def open(self, window: int) -> None:
        """A window is opened."""
        self.add(
            WindowOpened(
                index=window,
                centre_x_m=0.0,
                centre_y_m=0.0,
                width_m=1e-8,
                height_m=1e-8,
                angle_rad=0.0,
                chosen_because="first",
            )
        )

    def close(self, window: int) -> None:
        """A window is closed."""
        self.add(
            WindowClosed(
                index=window, reason="done", best_job="", best_x_m=0.0, best_y_m=0.0, best_scalar=0.0
            )
        )

    def drift(self, frame: str, x_m: float) -> None:
        """A registration."""
        self.add(
            DriftMeasured(
                frame_job=frame,
                reference_job="",
                shift_x_m=x_m,
                shift_y_m=0.0,
                confidence=1.0,
                accepted=True,
                note="",
                transform=Transform(offset_x_m=x_m),
            )
        )

    def ledger(self) -> RunLedger:
        """All of it, folded at once."""
        return folded(self.records)


def folded(*parts: Iterable[StoredRecord]) -> RunLedger:
    """A ledger that was told these parts one after the other."""
    ledger = RunLedger(RUN)
    for part in parts:
        ledger.fold(part)
    return ledger


def contents(ledger: RunLedger) -> dict[str, Any]:
    """Everything a ledger knows."""
    return dict(vars(ledger))


@st.composite
def stories(draw: st.DrawFn) -> list[StoredRecord]:
    """A run's records: subjects are ordered, measured or ended, judged and labelled in any order."""
    story = Story()
    story.add(
        RunStarted(
            run=RUN,
            campaign=campaign(),
            campaign_text="",
            seed=1,
            versions={},
            limits={},
            simulated=True,
            time_scale=1.0,
        )
    )
    story.open(0)
    kinds = ["issue", "end", "measure", "frame", "done", "label", "judge", "decide", "drift", "state", "note"]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=40)):
        known = story.ledger()
        name = draw(st.sampled_from(["d0000", "d0001", "d0002", "w00-ref-0000", "w00-ref-0002", "engage-1"]))
        job = known.next_job(name)
        if kind == "issue":
            if not known.subject(name).done_job:
                story.issue(job)
            continue
        if kind in ("end", "measure", "frame", "done") and known.subject(name).open_job != job:
            continue  # nothing was ordered
        match kind:
            case "end":
                story.end(job, draw(st.sampled_from(UNFINISHED)), draw(st.sampled_from(["x", "parked: y"])))
            case "measure":
                story.measure(job, 0, draw(st.floats(-1, 1)), draw(st.booleans()))
            case "frame":
                story.frame(job, 0, draw(st.sampled_from(["survey", "reference", "resume"])))
            case "done":
                story.add(JobDone(job_id=job, began_s=0.0, ended_s=1.0))
            case "label":
                story.add(Label(job_id=job, label="a", confidence=1.0, probabilities={}, model="m"))
            case "judge":
                story.add(Validity(job_id=job, valid=draw(st.booleans()), reason="", by="test"))
            case "decide":
                story.decide(f"d{draw(st.integers(0, 3)):04d}")
            case "drift":
                story.drift(job, draw(st.floats(-1e-9, 1e-9)))
            case "state":
                story.add(RunState(state=draw(st.sampled_from(["running", "held", "paused"])), reason="why"))
            case _:
                story.add(Fault(actor="a", what="died", action="started again"))
    return story.records


@settings(deadline=None)
@given(records=stories(), data=st.data())
def test_any_division_of_the_journal_folds_to_the_same(
    records: list[StoredRecord], data: st.DataObject
) -> None:
    """Told at once, in parts, or with parts told again, the ledger knows the same."""
    whole = folded(records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=4)))
    edges = [0, *cuts, len(records)]
    parts = [records[a:b] for a, b in pairwise(edges)]
    assert contents(folded(*parts)) == contents(whole)
    overlapping = [records[max(a - data.draw(st.integers(0, 5)), 0) : b] for a, b in pairwise(edges)]
    assert contents(folded(*overlapping, records)) == contents(whole)


@settings(deadline=None)
@given(records=stories())
def test_what_holds_at_every_point_of_any_story(records: list[StoredRecord]) -> None:
    """After every record: an open job is not done, its attempt is the last one, the job to use now is the
    open one or a new attempt, and no subject that is done or open is given up."""
    ledger = RunLedger(RUN)
    for record in records:
        ledger.fold([record])
        assert ledger.last_seq == record.seq
        for subject in list(ledger.subjects.values()):
            following = split_job_id(ledger.next_job(subject.name))
            assert following[:2] == (RUN, subject.name)
            if subject.open_job:
                assert subject.open_job != subject.done_job
                assert following[2] == subject.attempts
            else:
                assert following[2] == subject.attempts + 1
            assert not (subject.given_up and (subject.done_job or subject.open_job))
        assert set(ledger.open_jobs()) <= {f"{RUN}/{s.name}/a{s.attempts}" for s in ledger.subjects.values()}
        assert set(ledger.points) <= ledger.jobs_done


def test_a_job_id_is_read_from_its_end() -> None:
    """A run's name may hold what separates the parts of an id elsewhere."""
    assert split_job_id("a/b/d0012/a3") == ("a/b", "d0012", 3)


def test_the_next_job_is_the_open_attempt_else_a_new_one() -> None:
    """A new subject begins at attempt 1; an open attempt is said again; after its end comes the next."""
    story = Story()
    assert story.ledger().next_job("d0000") == "r/d0000/a1"
    story.issue("r/d0000/a1")
    assert story.ledger().next_job("d0000") == "r/d0000/a1"
    assert story.ledger().open_jobs() == ["r/d0000/a1"]
    story.end("r/d0000/a1", "interrupted")
    assert story.ledger().next_job("d0000") == "r/d0000/a2"
    assert story.ledger().open_jobs() == []
    story.issue("r/d0000/a2")
    story.measure("r/d0000/a2")
    ledger = story.ledger()
    assert ledger.open_jobs() == []
    assert ledger.subject("d0000").done_job == "r/d0000/a2"
    assert ledger.jobs_done == {"r/d0000/a2"}


def test_the_late_end_of_an_earlier_attempt_leaves_the_open_one() -> None:
    """An end that is written for attempt 1 while attempt 2 is under way closes attempt 1 only."""
    story = Story()
    story.issue("r/d0000/a1")
    story.issue("r/d0000/a2")
    story.end("r/d0000/a1", "discarded")
    assert story.ledger().open_jobs() == ["r/d0000/a2"]


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_three_failures_give_a_subject_up(state: str) -> None:
    """A subject that failed (or was refused for what it is) so often is left alone, and not earlier."""
    story = Story()
    for attempt in range(1, MAXIMUM_FAILURES + 1):
        assert not story.ledger().subject("d0000").given_up
        story.issue(f"r/d0000/a{attempt}")
        assert not story.ledger().subject("d0000").given_up
        story.end(f"r/d0000/a{attempt}", state)
    subject = story.ledger().subject("d0000")
    assert subject.given_up
    assert len(subject.failures) == MAXIMUM_FAILURES
    assert subject.failures[0] == f"{state}: why"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("discarded", "discarded: parked (lease)"),
        ("interrupted", "the worker died"),
        ("outcome unknown", "the worker died"),
        ("refused", "parked: engage first."),
    ],
)
def test_parks_and_deaths_do_not_wear_a_subject_out(state: str, reason: str) -> None:
    """Attempts that something outside ended are made again, many times; but some day that ends too."""
    story = Story()
    for attempt in range(1, MAXIMUM_ATTEMPTS):
        story.issue(f"r/d0000/a{attempt}")
        story.end(f"r/d0000/a{attempt}", state, reason)
    subject = story.ledger().subject("d0000")
    assert not subject.given_up
    assert subject.failures == []
    story.issue(f"r/d0000/a{MAXIMUM_ATTEMPTS}")
    story.end(f"r/d0000/a{MAXIMUM_ATTEMPTS}", state, reason)
    assert story.ledger().subject("d0000").given_up


def test_the_last_reference_counts_when_it_is_over() -> None:
    """Its number is that of the decision it comes before; an interrupted one is still to be taken, and one
    that was not registered yet is not over."""
    story = Story()
    assert story.ledger().last_reference(0) == 0
    story.issue("r/w00-ref-0005/a1")
    story.end("r/w00-ref-0005/a1", "interrupted")
    assert story.ledger().last_reference(0) == 0
    story.issue("r/w00-ref-0005/a2")
    story.frame("r/w00-ref-0005/a2", purpose="reference")
    assert story.ledger().last_reference(0) == 0
    story.add(
        DriftMeasured(
            frame_job="r/w00-ref-0005/a2",
            reference_job="r/w00-ref-0000/a1",
            shift_x_m=0.0,
            shift_y_m=0.0,
            confidence=0.0,
            accepted=False,
            note="cannot tell",
            transform=Transform(),
        )
    )
    assert story.ledger().last_reference(0) == 5
    assert story.ledger().last_reference(1) == 0
    assert reference_name(0, 10) == "w00-ref-0010"


def test_a_reference_that_cannot_be_taken_is_given_up() -> None:
    """After three failures it counts as over, so that the window goes on."""
    story = Story()
    for attempt in (1, 2, 3):
        story.issue(f"r/w00-ref-0010/a{attempt}")
        story.end(f"r/w00-ref-0010/a{attempt}", "failed")
    assert story.ledger().last_reference(0) == 10


def test_the_open_window_is_the_last_that_is_not_closed() -> None:
    """None before the first and after the last."""
    story = Story()
    assert story.ledger().open_window() is None
    story.open(0)
    story.close(0)
    assert story.ledger().open_window() is None
    story.open(1)
    opened = story.ledger().open_window()
    assert opened is not None
    assert opened.index == 1


def test_the_best_point_is_valid_and_in_the_deepest_window() -> None:
    """Later judgements count; what is invalid or no number does not."""
    story = Story()
    for job, window, scalar, valid in (
        ("r/d0000/a1", 0, 9.0, True),
        ("r/d0001/a1", 1, 2.0, True),
        ("r/d0002/a1", 1, 3.0, True),
        ("r/d0003/a1", 1, 5.0, False),
        ("r/d0004/a1", 1, float("nan"), True),
    ):
        story.issue(job)
        story.measure(job, window, scalar, valid)
    best = story.ledger().best_point()
    assert best is not None
    assert best.job_id == "r/d0002/a1"
    story.add(Validity(job_id="r/d0002/a1", valid=False, reason="tip change", by="t"))
    story.add(Validity(job_id="r/nobody/a1", valid=True, reason="of another run", by="t"))
    best = story.ledger().best_point()
    assert best is not None
    assert best.job_id == "r/d0001/a1"
    assert RunLedger(RUN).best_point() is None


def test_what_else_it_remembers() -> None:
    """State with its reason, transform in force, labels, frames, operator's jobs, the end."""
    story = Story()
    story.add(RunState(state="running", reason="the tip is at the surface"))
    story.add(RunState(state="held", reason="look"))
    story.issue("r/w00-survey/a1")
    story.frame("r/w00-survey/a1", 0, "survey")
    story.drift("r/w00-ref-0000/a1", 3e-10)
    story.add(JobIssued(job_id="r/operator-0001/a1", recipe=Sweep(x_m=0, y_m=0, spectrum=SPECTRUM), epoch=1))
    story.measure("r/operator-0001/a1")
    ledger = story.ledger()
    assert (ledger.state, ledger.state_reason, ledger.states_written) == ("held", "look", 2)
    assert ledger.transform.offset_x_m == 3e-10
    assert ledger.frames == {"r/w00-survey/a1": (0, "survey")}
    assert ledger.count("operator-") == 1
    assert ledger.unlabelled(0) == {"r/operator-0001/a1"}
    story.add(Label(job_id="r/operator-0001/a1", label="a", confidence=1.0, probabilities={}, model="m"))
    nan = float("nan")
    story.add(
        Conclusion(
            outcome="aborted",
            reason="operator",
            best_job="",
            best_x_m=nan,
            best_y_m=nan,
            best_scalar=nan,
            spectra=1,
            figures={},
        )
    )
    ledger = story.ledger()
    assert ledger.unlabelled(0) == set()
    assert ledger.conclusion is not None
    assert set(JobState) >= set(UNFINISHED)


@given(records=stories(), upto=st.integers(0, 200), count=st.integers(0, 5))
def test_what_is_found_by_window_and_number(records: list[StoredRecord], upto: int, count: int) -> None:
    """The same as a search through everything: points and decisions of a window, the last points, and when
    the last spectrum up to a record ended."""
    ledger = folded(records)
    points = sorted(ledger.points.values(), key=lambda p: p.seq)
    assert ledger.latest_points(count) == points[max(len(points) - count, 0) :]
    for window in range(4):
        assert ledger.points_in(window) == [p for p in points if p.window == window]
        decided = [d for d in ledger.decisions.values() if d.window == window]
        assert ledger.decisions_in(window) == sorted(decided, key=lambda d: d.index)
    ended = [p.ended_s for p in points if p.seq <= upto]
    assert ledger.ended_s(upto) == max([ledger.last_frame_s, *ended])


def test_little_is_kept_of_a_spectrum() -> None:
    """What only the journal is asked for stays there: alternatives of a decision, curves, probabilities."""
    story = Story()
    story.decide("d0000")
    chosen = story.records[-1]
    assert isinstance(chosen.body, Decision)
    one = Alternative(x_m=0.0, y_m=0.0, acquisition=0.0, mean=0.0, std=0.0)
    body = msgspec.structs.replace(chosen.body, alternatives=(one,) * 5)
    story.records[-1] = StoredRecord(
        seq=chosen.seq, key=chosen.key, actor="t", wall_s=chosen.wall_s, body=body
    )
    story.measure("r/d0000/a1")
    story.add(
        Label(job_id="r/d0000/a1", label="a", confidence=0.9, probabilities={"a": 0.9, "b": 0.1}, model="m")
    )
    ledger = story.ledger()
    assert ledger.decisions["d0000"].alternatives == ()
    assert ledger.labelled["r/d0000/a1"].probabilities == {}
    assert ledger.labelled["r/d0000/a1"].confidence == 0.9
