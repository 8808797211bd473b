"""The link of an actor (or of the daemon) to the gateway: one job from submission to its end.

The gateway may be replaced at any time (its worker or all of it was killed): the link reads where the new one
listens, asks what became of the job, and goes on with its stream at the next number.  A job id is never acted
on twice, so saying a submission again is always safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from protocols.errors import (
    DeadlineError,
    LinkLostError,
    MalformedMessageError,
    PeerError,
    RefusedError,
    TunnelpilotError,
    UsageError,
)
from protocols.files.state_directory import read_endpoints
from protocols.links.async_client import AsyncCommandClient
from protocols.links.stream_client import AsyncStreamClient
from protocols.messages.base import Message
from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import (
    FINAL_STATES,
    AcknowledgeJob,
    CancelJob,
    JobAnswer,
    JobState,
    ListUnacknowledged,
    Priority,
    QueryJob,
    SubmitJob,
    UnacknowledgedJobs,
)
from protocols.messages.recipes import Recipe

ANSWER_S = 3.0
SILENCE_S = 3.0
LOOK_S = 0.05
"""Between two looks for a gateway that is away."""
SHORTEST_RETRY_S = 0.02
CREDITS = 16

log = structlog.get_logger(__name__)


@dataclass
class JobResult:
    """How a job ended and everything it measured, in order."""

    end: EndOfStream
    chunks: list[Chunk] = field(default_factory=list)


class GatewayLink:
    """Commands and data of the gateway of a state directory; ``me`` names the speaker.  For one loop."""

    def __init__(self, state: Path, me: str) -> None:
        self.state = state
        self.me = me
        self.retries = 0
        self._commands: AsyncCommandClient | None = None
        self._streams: AsyncStreamClient | None = None
        self._where: tuple[int, str, str] | None = None

    async def close(self) -> None:
        """Close both sockets; safe to repeat."""
        commands, self._commands = self._commands, None
        streams, self._streams = self._streams, None
        self._where = None
        if commands is not None:
            await commands.close()
        if streams is not None:
            await streams.close()

    async def ask(self, message: Message, timeout_s: float = ANSWER_S) -> Message:
        """One question to the worker that is published now.

        Raises:
            DeadlineError, LinkLostError: it gave no answer.
            TunnelpilotError: it refused.
        """
        self._connect()
        assert self._commands is not None
        return await self._commands.request(message, timeout_s)

    async def query(self, job_id: str) -> JobAnswer | None:
        """State of a job; None if the gateway has never heard of it.

        Raises:
            DeadlineError, LinkLostError: no answer.
        """
        try:
            answer = await self.ask(QueryJob(job_id=job_id))
        except UsageError:
            return None
        return _job_answer(answer)

    async def cancel(self, job_id: str, epoch: int, reason: str) -> None:
        """Take a ready job out of the queue or stop a running one; it ends as "interrupted".

        Raises:
            TunnelpilotError: no answer, or refused (an id it does not know is no error).
        """
        try:
            await self.ask(CancelJob(job_id=job_id, epoch=epoch, reason=reason))
        except UsageError as unknown:
            log.info("nothing to cancel", job=job_id, why=str(unknown))

    async def acknowledge(self, job_id: str, epoch: int) -> None:
        """Tell the spool that the journal has the result.  A failure is logged and made good later: whoever
        acquires the lease next acknowledges what the journal has."""
        try:
            await self.ask(AcknowledgeJob(job_id=job_id, epoch=epoch))
        except TunnelpilotError as late:
            log.info("not acknowledged yet", job=job_id, why=str(late))

    async def unacknowledged(self, run: str) -> tuple[JobAnswer, ...]:
        """Jobs of a run that ended and were not acknowledged.

        Raises:
            TunnelpilotError: no answer.
        """
        answer = await self.ask(ListUnacknowledged(run=run))
        if not isinstance(answer, UnacknowledgedJobs):
            raise PeerError(f"the gateway answered ListUnacknowledged with {type(answer).__name__}.")
        return answer.jobs

    async def run_job(
        self,
        job_id: str,
        recipe: Recipe,
        epoch: int,
        deadline_s: float,
        priority: Priority = Priority.CAMPAIGN,
        on_chunk: Callable[[Chunk], None] | None = None,
        on_accepted: Callable[[], None] = lambda: None,
    ) -> JobResult:
        """Submit, follow to the end, return everything measured.  The result is not acknowledged yet.

        ``on_accepted`` is called when the gateway has the job in its queue.

        ``deadline_s`` (wall) is the job's own; a gateway that is away may take as long again to come back.

        Raises:
            StaleEpochError: the lease is lost.
            DiskFullError: no room for the result; nothing was measured.
            DeadlineError: the gateway did not answer or not come back in time.
        """
        until = time.monotonic() + 2.0 * deadline_s
        submit = SubmitJob(
            job_id=job_id, recipe=recipe, epoch=epoch, deadline_s=deadline_s, priority=priority
        )
        chunks: list[Chunk] = []
        last: object = "nothing"
        while time.monotonic() < until:
            try:
                answer = _job_answer(await self.ask(submit))
                if answer.retry_after_s is not None and answer.state not in FINAL_STATES - {JobState.REFUSED}:
                    await asyncio.sleep(max(min(answer.retry_after_s, 0.25), SHORTEST_RETRY_S))
                    continue
                if answer.state == JobState.REFUSED:
                    end = EndOfStream(job_id=job_id, last_seq=-1, state=answer.state, reason=answer.reason)
                    return JobResult(end)
                on_accepted()
                return JobResult(await self._follow(job_id, chunks, on_chunk), chunks)
            except (DeadlineError, LinkLostError, MalformedMessageError, RefusedError) as away:
                last = away
                self.retries += 1
                await asyncio.sleep(LOOK_S)
        raise DeadlineError(
            f"{self.me} waited {2 * deadline_s:.0f} s for the gateway to do {job_id}; last: {last}.",
            "See gateway/guard.log and gateway/worker.log; stmctl resume goes on.",
            job_id=job_id,
        )

    async def _follow(
        self, job_id: str, chunks: list[Chunk], on_chunk: Callable[[Chunk], None] | None
    ) -> EndOfStream:
        """Receive from the next number that is needed.

        An interrupted job of a worker that died may end before what was already received: the excess is
        measured data without a finished measurement, and the caller treats it as such.
        """
        self._connect()
        assert self._streams is not None
        stream = self._streams.stream(
            job_id, credits=CREDITS, silence_timeout_s=SILENCE_S, from_seq=len(chunks)
        )
        async for item in stream:
            if isinstance(item, EndOfStream):
                return item
            chunks.append(item)
            if on_chunk is not None:
                on_chunk(item)
        raise LinkLostError(f"the stream of {job_id} ended without its end.")

    def _connect(self) -> None:
        """Talk to the worker that is published now."""
        found = read_endpoints(self.state, "gateway")
        if not found.get("commands") or not found.get("data"):
            raise LinkLostError("the gateway has no worker at the moment.", "It is being started again.")
        where = (int(found.get("worker_pid", 0)), str(found["commands"]), str(found["data"]))
        if self._commands is None or self._streams is None:
            self._commands = AsyncCommandClient(where[1], self.me, "gateway")
            self._streams = AsyncStreamClient(where[2], self.me)
        elif where != self._where:
            self._commands.reconnect(where[1])
            self._streams.reconnect(where[2])
        self._where = where


def _job_answer(answer: Message) -> JobAnswer:
    if not isinstance(answer, JobAnswer):
        raise PeerError(f"the gateway answered with {type(answer).__name__} where JobAnswer was expected.")
    return answer
