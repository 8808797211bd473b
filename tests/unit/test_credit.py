"""Credit accounting and the session table: pure bookkeeping, tried against all kinds of histories."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.states.credit import MAXIMUM_WINDOW, CreditError, Receiver, Sender
from protocols.states.session import SESSION
from protocols.states.table import ImpossibleEventError, Machine


@settings(max_examples=300, deadline=None)
@given(
    window=st.integers(1, 12),
    total=st.integers(0, 40),
    steps=st.lists(st.sampled_from(["send", "send", "arrive", "arrive", "consume", "break"]), max_size=300),
)
def test_every_history_delivers_each_chunk_once(window: int, total: int, steps: list[str]) -> None:
    """Whatever the order of sending, arriving, consuming and losing the connection: chunks come in order,
    once each, never more than a window of them is under way or waiting, and in the end all have come."""
    receiver = Receiver(window)
    sender = Sender(*receiver.opened())
    line: deque[int] = deque()
    grants: deque[int] = deque()
    waiting: deque[int] = deque()
    consumed: list[int] = []

    def step(name: str) -> None:
        nonlocal sender
        if name == "send" and grants:
            sender.granted(grants.popleft())
        if name == "send" and sender.may_send and sender.next_seq < total:
            line.append(sender.next_seq)
            sender.sent(sender.next_seq)
        elif name == "arrive" and line:
            receiver.received(line[0])
            waiting.append(line.popleft())
        elif name == "consume" and waiting:
            consumed.append(waiting.popleft())
            if credits := receiver.consumed():
                grants.append(credits)
        elif name == "break":
            line.clear()
            grants.clear()
            sender = Sender(*receiver.opened())
        assert len(line) + len(waiting) <= window
        assert receiver.buffered == len(waiting)

    for name in steps:
        step(name)
    for _ in range(total + 1):
        for name in ("send", "arrive", "consume"):
            step(name)
    assert consumed == list(range(total))
    sender.finished(total - 1)
    receiver.end(total - 1)


def test_a_chunk_without_credit_is_the_senders_fault() -> None:
    """The receiver raises when more comes than it granted."""
    receiver = Receiver(window=2)
    receiver.opened()
    receiver.received(0)
    receiver.received(1)
    with pytest.raises(CreditError, match="without credit"):
        receiver.received(2)


@pytest.mark.parametrize(("seq", "word"), [(0, "again"), (2, "gap")])
def test_repetition_and_gap_are_told_apart(seq: int, word: str) -> None:
    """A chunk that comes twice, or not in its turn, raises and says which."""
    receiver = Receiver(window=4)
    receiver.opened()
    receiver.received(0)
    with pytest.raises(CreditError, match=word):
        receiver.received(seq)


def test_nothing_comes_after_the_end() -> None:
    """Chunks after the end, and a second end, raise."""
    receiver = Receiver(window=4)
    receiver.opened()
    receiver.received(0)
    receiver.end(0)
    with pytest.raises(CreditError, match="after the end"):
        receiver.received(1)
    with pytest.raises(CreditError, match="twice"):
        receiver.end(0)


def test_the_end_must_name_the_last_chunk() -> None:
    """An end that says more (or fewer) chunks than came raises: something was lost."""
    receiver = Receiver(window=4)
    receiver.opened()
    receiver.received(0)
    with pytest.raises(CreditError, match="names chunk 5"):
        receiver.end(5)


def test_an_empty_stream_ends_with_minus_one() -> None:
    """A job without data ends with last number -1."""
    receiver = Receiver(window=1)
    sender = Sender(*receiver.opened())
    sender.finished(-1)
    receiver.end(-1)
    assert sender.ended and receiver.ended


def test_a_sender_that_forgets_its_credit_is_our_fault() -> None:
    """Sending without credit, out of turn, or ending early is refused on the sending side itself."""
    sender = Sender(from_seq=3, credits=1)
    with pytest.raises(UsageError, match="instead of chunk 3"):
        sender.sent(4)
    sender.sent(3)
    with pytest.raises(UsageError, match="without credit"):
        sender.sent(4)
    with pytest.raises(UsageError, match="chunk 4 is next"):
        sender.finished(5)
    sender.finished(3)
    with pytest.raises(UsageError, match="twice"):
        sender.finished(3)


@pytest.mark.parametrize("credits", [0, -1, MAXIMUM_WINDOW])
def test_impossible_grants_are_refused(credits: int) -> None:
    """A grant is positive, and never makes more than the largest window outstanding."""
    sender = Sender(from_seq=0, credits=1)
    with pytest.raises(CreditError, match="grant"):
        sender.granted(credits)


def test_impossible_openings_are_refused() -> None:
    """A stream begins at chunk 0 or later, and windows have bounds."""
    with pytest.raises(CreditError):
        Sender(from_seq=-1, credits=1)
    with pytest.raises(UsageError):
        Receiver(window=0)
    with pytest.raises(UsageError):
        Receiver(window=MAXIMUM_WINDOW + 1)
    with pytest.raises(UsageError):
        Receiver(window=1).consumed()


def test_session_greets_before_it_is_ready() -> None:
    """From every state but closed and broken, a need leads to a HELLO or to a session that is ready."""
    for state in SESSION.states - {"closed", "broken", "greeting"}:
        machine = Machine(SESSION, state)
        instructions = machine.feed("need")
        assert machine.state == "ready" or (machine.state == "greeting" and "greet" in instructions)


def test_session_leaves_nobody_waiting() -> None:
    """Closing, reconnecting or failing while there is a socket fails the waiting requests and closes it."""
    for state, event, row in SESSION:
        if event in ("close", "reconnect", "failure") and state in ("greeting", "ready", "lost", "refused"):
            assert row.instructions == ("fail", "close")


def test_session_closed_stays_closed() -> None:
    """A closed session accepts nothing but being closed again."""
    machine = Machine(SESSION, "closed")
    machine.feed("close")
    for event in SESSION.events - {"close"}:
        with pytest.raises(ImpossibleEventError):
            machine.feed(event)
