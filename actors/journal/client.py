"""Committing records from an actor or the daemon: goes on over a restart of the writer.

Saying a commit again is safe, because every key is written once.  So a client that lost its writer reads
where the new one listens and asks again, until a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from protocols.errors import DeadlineError, LinkLostError, MalformedMessageError, PeerError, RefusedError
from protocols.files.state_directory import read_endpoints
from protocols.links.async_client import AsyncCommandClient
from protocols.links.dialogue import BUSY
from protocols.messages.records import CommitRecords, Committed, Record

DEFAULT_DEADLINE_S = 15.0
ATTEMPT_S = 3.0
"""Longest wait for one answer before asking again."""
LOOK_S = 0.1
"""How often to look whether a new writer has taken over while an answer is awaited."""


class JournalClient:
    """Speaks to the journal writer of a state directory; ``me`` names the speaker in logs and errors.

    Many commits may be under way; their order is that of the awaits.  For one event loop.
    """

    def __init__(self, state: Path, me: str, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        self.state = state
        self.me = me
        self.deadline_s = deadline_s
        self.retries = 0
        """Attempts that had to be repeated, for status displays."""
        self._client: AsyncCommandClient | None = None
        self._writer: tuple[int, str] | None = None
        self._generation = 0
        """Counts connections: many commits may fail together, and only the first of them connects anew."""

    async def commit(
        self, run: str, records: Sequence[Record], deadline_s: float | None = None
    ) -> tuple[int, ...]:
        """Write ``records`` in one transaction; their sequence numbers, once they are durable.

        Raises:
            DeadlineError: no writer answered in ``deadline_s`` (default: the client's); the records may or
                may not be there, and saying them again is safe.
            DiskFullError, StorageError: the writer could not write; nothing was written.
            UsageError: a key is taken by another content, or the run's name is none.
        """
        message = CommitRecords(run=run, records=tuple(records))
        allowed = self.deadline_s if deadline_s is None else deadline_s
        deadline = time.monotonic() + allowed
        last: Exception | None = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                return await self._attempt(message, min(left, ATTEMPT_S))
            except (DeadlineError, LinkLostError, MalformedMessageError) as trouble:
                last = trouble
            except RefusedError as refusal:
                if refusal.details.get("refusal_code") != BUSY:
                    raise
                last = refusal
            self.retries += 1
            await asyncio.sleep(max(min(LOOK_S, deadline - time.monotonic()), 0.0))
        keys = ", ".join(r.key for r in message.records[:3])
        raise DeadlineError(
            f"{self.me} waited {allowed:g} s for the journal writer to commit {len(message.records)} records "
            f"({keys}) of run {run}; last: {last}.",
            "See journal/writer.log in the state directory; it is safe to commit again.",
            run=run,
        )

    async def close(self) -> None:
        """Close the link; safe to repeat, and a later commit opens it again."""
        client, self._client, self._writer = self._client, None, None
        if client is not None:
            await client.close()

    async def _attempt(self, message: CommitRecords, wait_s: float) -> tuple[int, ...]:
        client, asked = self._connected(), self._writer
        generation = self._generation
        request = asyncio.ensure_future(client.request(message, wait_s))
        try:
            while not request.done():
                await asyncio.wait({request}, timeout=LOOK_S)
                if not request.done() and self._where() != asked:
                    raise LinkLostError("the journal writer was replaced while it was asked.")
            answer = request.result()
        except (LinkLostError, DeadlineError):
            if generation == self._generation:
                self._writer = None  # connect anew: this link may be dead
            raise
        finally:
            if not request.done():
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
        if isinstance(answer, Committed):
            return answer.seqs
        raise PeerError(f"the journal writer answered a commit with {type(answer).__name__}.")

    def _connected(self) -> AsyncCommandClient:
        """The link to the writer that is published now."""
        where = self._where()
        if self._client is None:
            self._client = AsyncCommandClient(where[1], self.me, "journal writer")
            self._generation += 1
        elif where != self._writer:
            self._client.reconnect(where[1])
            self._generation += 1
        self._writer = where
        return self._client

    def _where(self) -> tuple[int, str]:
        """Pid and endpoint of the writer as last published."""
        found = read_endpoints(self.state, "journal")
        if not isinstance(found.get("commands"), str):
            raise LinkLostError(f"{self.state / 'journal' / 'endpoints.json'} names no endpoint.")
        return int(found.get("pid", 0)), found["commands"]
