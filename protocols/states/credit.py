"""Accounting of one credited stream, on events alone: who may send what, and what has come.

The receiver grants credits, one per chunk that it has room for; the sender numbers its chunks without gaps
and sends none without credit; the end names the last number.  After a broken connection the receiver opens
the stream again from the next number it needs, with as many credits as it has room for.
"""

from __future__ import annotations

from protocols.errors import PeerError, UsageError

MAXIMUM_WINDOW = 1024
"""Most credits that may be outstanding on one stream."""


class CreditError(PeerError):
    """The peer broke the rules of a credited stream: too many chunks, a gap, a repetition, a false end."""

    code = "credit"


class Sender:
    """The sending side of one opened stream.

    Raises:
        CreditError: the receiver opened it with an impossible number or window.
    """

    def __init__(self, from_seq: int, credits: int) -> None:
        if from_seq < 0:
            raise CreditError(f"a stream cannot begin at chunk {from_seq}.")
        self.next_seq = from_seq
        self.credits = 0
        self.ended = False
        self._add(credits, least=0)

    @property
    def may_send(self) -> bool:
        """Whether there is credit for the next chunk (or for looking whether the stream has ended)."""
        return self.credits > 0 and not self.ended

    def granted(self, credits: int) -> None:
        """The receiver has room for so many more.

        Raises:
            CreditError: not a positive number, or more than ``MAXIMUM_WINDOW`` together.
        """
        self._add(credits, least=1)

    def sent(self, seq: int) -> None:
        """Chunk ``seq`` has left.

        Raises:
            UsageError: there was no credit for it, it is not the next one, or the stream had ended.
        """
        if not self.may_send:
            raise UsageError(f"chunk {seq} was sent without credit or after the end.")
        if seq != self.next_seq:
            raise UsageError(f"chunk {seq} was sent instead of chunk {self.next_seq}.")
        self.next_seq += 1
        self.credits -= 1

    def finished(self, last_seq: int) -> None:
        """The end has left.

        Raises:
            UsageError: chunks up to ``last_seq`` were not all sent, or it had ended before.
        """
        if self.ended:
            raise UsageError("a stream was ended twice.")
        if last_seq != self.next_seq - 1:
            raise UsageError(
                f"the end names chunk {last_seq} as the last, but chunk {self.next_seq} is next."
            )
        self.ended = True

    def _add(self, credits: int, least: int) -> None:
        if credits < least or self.credits + credits > MAXIMUM_WINDOW:
            raise CreditError(
                f"a grant of {credits} credits on top of {self.credits} "
                f"(allowed: {least} to {MAXIMUM_WINDOW} outstanding)."
            )
        self.credits += credits


class Receiver:
    """The receiving side of one stream, over all its openings.

    ``window`` bounds chunks under way and chunks received but not consumed, together.  Credits are given back
    once half a window was consumed.
    """

    def __init__(self, window: int, from_seq: int = 0) -> None:
        if not 1 <= window <= MAXIMUM_WINDOW:
            raise UsageError(f"a window of {window} chunks (allowed: 1 to {MAXIMUM_WINDOW}).")
        self.window = window
        self.next_seq = from_seq
        self.buffered = 0
        """Chunks received and not yet consumed."""
        self.outstanding = 0
        """Credits the sender has."""
        self.ended = False

    def opened(self) -> tuple[int, int]:
        """The stream is opened (again): number of the first chunk wanted, and credits for the sender.

        Everything that an earlier opening still had under way no longer counts: its chunks are strays.
        """
        self.outstanding = self.window - self.buffered
        return self.next_seq, self.outstanding

    def received(self, seq: int) -> None:
        """Chunk ``seq`` has come.

        Raises:
            CreditError: after the end, beyond the credit, repeated, or with a gap.
        """
        if self.ended:
            raise CreditError(f"chunk {seq} came after the end of its stream.")
        if seq != self.next_seq:
            what = "came again" if seq < self.next_seq else "came with a gap"
            raise CreditError(f"chunk {seq} {what} (chunk {self.next_seq} is next).")
        if self.outstanding == 0:
            raise CreditError(f"chunk {seq} came without credit (window {self.window}).")
        self.next_seq += 1
        self.outstanding -= 1
        self.buffered += 1

    def consumed(self) -> int:
        """One chunk was consumed; returns the credits to grant now (0: not yet).

        Raises:
            UsageError: there was none to consume.
        """
        if self.buffered == 0:
            raise UsageError("a chunk was consumed that had not come.")
        self.buffered -= 1
        free = self.window - self.buffered - self.outstanding
        if self.ended or 2 * free < self.window:
            return 0
        self.outstanding += free
        return free

    def end(self, last_seq: int) -> None:
        """The end has come.

        Raises:
            CreditError: it names another last number than the chunks that came, or it came twice.
        """
        if self.ended:
            raise CreditError("the end of a stream came twice.")
        if last_seq != self.next_seq - 1:
            raise CreditError(
                f"the end names chunk {last_seq} as the last, but {self.next_seq - 1} was the last to come."
            )
        self.ended = True
