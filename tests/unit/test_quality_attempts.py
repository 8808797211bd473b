"""The attempts of one decision: ids, retries, giving up, and recovery after a restart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.spectroscopy_acquirer.attempts import (
    Attempts,
    CommitFailure,
    CommitResult,
    Completed,
    GiveUp,
    Issue,
    Resubmit,
    WaitForRun,
    job_id,
    split_job_id,
)
from protocols.errors import UsageError
from protocols.messages.jobs import FINAL_STATES, JobAnswer, JobState


def test_a_finished_valid_spectrum_completes_the_decision() -> None:
    """Issue, result, commit, completed."""
    attempts = Attempts("run", "d0012")
    assert attempts.start() == (Issue("run/d0012/a1"),)
    assert attempts.ended("run/d0012/a1", JobState.FINISHED, "") == (CommitResult("run/d0012/a1"),)
    assert attempts.committed(valid=True) == (Completed("run/d0012/a1"),)
    assert attempts.state == "completed"


def test_interrupted_and_invalid_attempts_are_repeated_under_new_ids() -> None:
    """A failure is committed and the next attempt has the next number; after three it is given up."""
    attempts = Attempts("run", "d0001")
    attempts.start()
    assert attempts.ended("run/d0001/a1", JobState.INTERRUPTED, "parked") == (
        CommitFailure("run/d0001/a1", "interrupted", "parked"),
        Issue("run/d0001/a2"),
    )
    attempts.ended("run/d0001/a2", JobState.FINISHED, "")
    assert attempts.committed(valid=False) == (Issue("run/d0001/a3"),)
    said, end = attempts.ended("run/d0001/a3", JobState.FAILED, "driver")
    assert isinstance(said, CommitFailure)
    assert isinstance(end, GiveUp)
    assert "3 attempts" in end.reason


def test_a_discarded_attempt_waits_for_the_run_and_does_not_count() -> None:
    """Parked: the attempt is journaled, the run is awaited, and the next id is issued."""
    attempts = Attempts("run", "d0001", maximum=1)
    attempts.start()
    said, wait = attempts.ended("run/d0001/a1", JobState.DISCARDED, "parked")
    assert said == CommitFailure("run/d0001/a1", "discarded", "parked")
    assert isinstance(wait, WaitForRun)
    assert attempts.resumed() == (Issue("run/d0001/a2"),)


def test_a_refusal_by_a_limit_is_final() -> None:
    """The same recipe would be refused again: no second attempt."""
    attempts = Attempts("run", "d0001")
    attempts.start()
    answer = JobAnswer(job_id="run/d0001/a1", state=JobState.REFUSED, reason="bias range", limit="bias")
    said, end = attempts.answered(answer)
    assert said == CommitFailure("run/d0001/a1", "refused", "bias range")
    assert isinstance(end, GiveUp)


def test_a_full_queue_is_asked_again_with_the_same_id() -> None:
    """Queue full: the same id after the time given; no attempt is spent."""
    attempts = Attempts("run", "d0001")
    attempts.start()
    full = JobAnswer(job_id="run/d0001/a1", state=JobState.REFUSED, reason="queue full", retry_after_s=0.2)
    assert attempts.answered(full) == (Resubmit("run/d0001/a1", 0.2),)
    assert attempts.unanswered() == (Resubmit("run/d0001/a1", 0.5),)
    assert attempts.failures == 0


def test_an_unknown_outcome_is_repeated_only_if_the_job_merely_looks() -> None:
    """A sweep is tried again under a new id; a pulse never is."""
    sweep = Attempts("run", "d0001")
    sweep.start()
    assert sweep.ended("run/d0001/a1", JobState.OUTCOME_UNKNOWN, "restart")[-1] == Issue("run/d0001/a2")
    pulse = Attempts("run", "d0002", repeatable=False)
    pulse.start()
    assert isinstance(pulse.ended("run/d0002/a1", JobState.OUTCOME_UNKNOWN, "restart")[-1], GiveUp)


def test_recovery_says_the_last_id_again() -> None:
    """After a restart an attempt without an end is submitted again as it was, never under a new id."""
    attempts = Attempts("run", "d0007")
    assert attempts.recover(attempt=2, failures=1, discards=0, final=False) == (
        Resubmit("run/d0007/a2", 0.0),
    )
    again = Attempts("run", "d0007")
    assert again.recover(attempt=2, failures=2, discards=0, final=True) == (Issue("run/d0007/a3"),)
    spent = Attempts("run", "d0007")
    assert isinstance(spent.recover(attempt=3, failures=3, discards=0, final=True)[0], GiveUp)


@given(st.lists(st.tuples(st.sampled_from(sorted(FINAL_STATES)), st.booleans(), st.booleans()), max_size=60))
def test_attempts_end_and_ids_never_repeat(story: list[tuple[JobState, bool, bool]]) -> None:
    """Whatever happens, each id is issued once, late repeats change nothing, and failures are bounded."""
    attempts = Attempts("run", "d0001")
    todo = list(attempts.start())
    issued = [i.job_id for i in todo if isinstance(i, Issue)]
    for state, valid, repeat in story:
        if attempts.state in ("completed", "given up"):
            break
        which = attempts.job_id
        todo = list(attempts.ended(which, state, "because"))
        if repeat:
            assert attempts.ended(which, state, "late") == ()
        if attempts.state == "checking":
            todo += attempts.committed(valid)
        elif attempts.state == "waiting":
            todo += attempts.resumed()
        issued += [i.job_id for i in todo if isinstance(i, Issue)]
    assert len(issued) == len(set(issued))
    assert attempts.failures <= attempts.maximum
    assert attempts.attempt <= attempts.maximum + 20


@given(
    run=st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True), number=st.integers(0, 99999), k=st.integers(1, 99)
)
def test_ids_survive_the_round_trip(run: str, number: int, k: int) -> None:
    """An id is split into what it was made of."""
    assert split_job_id(job_id(run, f"d{number:04d}", k)) == (run, f"d{number:04d}", k)


@pytest.mark.parametrize("bad", ["run/d1/a1", "run/d0001/a0", "r/un/d0001/a1", "run/x0001/a1", "run/d0001"])
def test_other_texts_are_no_ids(bad: str) -> None:
    """Malformed ids are refused."""
    with pytest.raises(UsageError, match="no job id"):
        split_job_id(bad)
