"""Credited streams: nothing lost, nothing doubled, nothing piled up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from link_servers import (
    DEADLINE_S,
    CountedSource,
    ServerProcess,
    eventually,
    eventually_on_loop,
    serving_stream,
)

from protocols.errors import DeadlineError, LinkLostError, RefusedError, UsageError
from protocols.links.sockets import connect_dealer
from protocols.links.streams import AsyncStreamClient, StreamServer
from protocols.messages.base import Message
from protocols.messages.codec import decode, encode
from protocols.messages.control import Done, Ping, Pong, Refusal
from protocols.messages.data import (
    Chunk,
    EndOfStream,
    FrameLines,
    GrantCredit,
    OpenStream,
    StreamMessage,
)
from protocols.messages.jobs import JobState, QueryJob
from protocols.states.credit import CreditError

JOB = CountedSource.job_id


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine on a loop of its own, and see that it leaves no task behind."""

    async def checked() -> None:
        async with asyncio.timeout(60):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(checked())


async def numbers(items: AsyncIterator[StreamMessage]) -> list[int]:
    """Numbers of the chunks of a stream, which must end properly; each chunk must be what it says."""
    got: list[int] = []
    async for item in items:
        if isinstance(item, EndOfStream):
            assert item.last_seq == (got[-1] if got else -1)
            assert item.state is JobState.FINISHED
        else:
            assert isinstance(item.body, FrameLines)
            assert item.body.rows == (item.seq,)
            got.append(item.seq)
    assert isinstance(item, EndOfStream)
    return got


@pytest.mark.parametrize("chunks", [0, 1, 7, 8, 9, 300])
def test_a_stream_arrives_whole(chunks: int) -> None:
    """All chunks come in order and the end is the last item, whatever the window has to do with it."""

    async def main() -> None:
        with serving_stream(CountedSource(chunks)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                for credits in (1, 8):
                    assert await numbers(client.stream(JOB, credits=credits)) == list(range(chunks))
                assert client.statistics["open"] == 0
            assert server.statistics["open"] == 0
            assert server.statistics["ends"] == 2

    run(main)


def test_a_slow_reader_loses_nothing_and_nothing_piles_up() -> None:
    """2,000 chunks of 8 KiB at 100 us each: none lost, and never more than the window read ahead."""
    window, chunks = 16, 2000
    source = CountedSource(chunks, size=8192)

    async def main() -> None:
        with serving_stream(source) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                got = 0
                async for item in client.stream(JOB, credits=window):
                    if isinstance(item, Chunk):
                        assert item.seq == got
                        got += 1
                        assert len(source.reads) - got <= window
                        await asyncio.sleep(0.0001)
                assert got == chunks
            assert source.reads == list(range(chunks))

    run(main)


def test_several_jobs_and_clients_at_a_time() -> None:
    """Clients do not disturb each other, even on the same job."""

    async def main() -> None:
        with serving_stream(CountedSource(50)) as (server, _):
            clients = [AsyncStreamClient(server.endpoint, f"actor-{k}") for k in range(4)]
            got = await asyncio.gather(*[numbers(client.stream(JOB, credits=3)) for client in clients])
            assert got == [list(range(50))] * 4
            for client in clients:
                await client.close()

    run(main)


def test_a_job_without_news_is_not_taken_for_a_dead_one() -> None:
    """While a job gives no chunk, signs of life go on: the reader waits beyond its silence timeout."""
    source = CountedSource(3, available=1)

    async def main() -> None:
        with serving_stream(source) as (server, waker):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                stream = client.stream(JOB, silence_timeout_s=0.2)
                first = await anext(stream)
                assert isinstance(first, Chunk)
                more = asyncio.create_task(anext(stream))
                await eventually_on_loop(lambda: server.statistics["resumed"] >= 8)  # twice the timeout
                assert not more.done()
                source.available = 3
                source.finished = True
                waker.wake()
                second = await more
                assert isinstance(second, Chunk) and second.seq == 1
                assert isinstance(await anext(stream), Chunk)
                assert isinstance(await anext(stream), EndOfStream)
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)

    run(main)


def test_a_server_that_is_gone_is_noticed() -> None:
    """When nothing at all is heard the reader raises, with endpoint, job and what it has so far."""

    async def main() -> None:
        with ServerProcess("stream", "tcp://127.0.0.1:0", 1000) as server:
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                stream = client.stream(JOB, credits=2, silence_timeout_s=0.3)
                await anext(stream)
                server.kill()
                with pytest.raises(DeadlineError) as caught:
                    async for _ in stream:
                        pass
                for part in (server.endpoint, JOB, "0.3 s"):
                    assert part in str(caught.value)
                assert caught.value.details["next_seq"] >= 1

    run(main)


def test_a_stream_survives_the_death_of_its_server() -> None:
    """Killed in mid-stream and restarted at the same endpoint: every chunk comes once, and the end."""

    async def main() -> None:
        with ServerProcess("stream", "tcp://127.0.0.1:0", 400, 2000) as first:
            async with AsyncStreamClient(first.endpoint, "acquirer") as client:
                stream = client.stream(JOB, silence_timeout_s=DEADLINE_S)
                got = []
                async for item in stream:
                    assert isinstance(item, Chunk)
                    got.append(item.seq)
                    if len(got) == 100:
                        break
                first.kill()
                with ServerProcess("stream", first.endpoint, 400, 2000):
                    assert got + await numbers(stream) == list(range(400))

    run(main)


def test_a_stream_follows_its_server_to_another_endpoint() -> None:
    """``reconnect`` in mid-stream: it goes on from the next number that is needed."""

    async def main() -> None:
        with (
            serving_stream(CountedSource(100)) as (first, _),
            serving_stream(CountedSource(100)) as (other, _),
        ):
            async with AsyncStreamClient(first.endpoint, "acquirer") as client:
                stream = client.stream(JOB)
                got = []
                async for item in stream:
                    assert isinstance(item, Chunk)
                    got.append(item.seq)
                    if len(got) == 10:
                        break
                client.reconnect(other.endpoint)
                assert got + await numbers(stream) == list(range(100))
            assert other.statistics["ends"] == 1
            assert other.statistics["chunks"] <= 90

    run(main)


def test_a_stream_can_begin_at_a_number() -> None:
    """A reader that has the first chunks already asks for the rest only."""

    async def main() -> None:
        with serving_stream(CountedSource(10)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                assert await numbers(client.stream(JOB, from_seq=7)) == [7, 8, 9]

    run(main)


def test_an_unknown_job_is_refused() -> None:
    """What the source says of an unknown job reaches the reader as its error; others are served on."""

    async def main() -> None:
        with serving_stream(CountedSource(2)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                with pytest.raises(UsageError, match=r"no such job: run/f9/a1. Submit it first."):
                    await numbers(client.stream("run/f9/a1"))
                with pytest.raises(UsageError, match="chunk 5 is next"):
                    await numbers(client.stream(JOB, from_seq=5))
                assert await numbers(client.stream(JOB)) == [0, 1]
            assert server.statistics["refused"] == 2

    run(main)


def test_a_reader_that_leaves_closes_its_stream() -> None:
    """A reader that stops early tells the server, which then holds nothing for it."""

    async def main() -> None:
        with serving_stream(CountedSource(100)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                stream = client.stream(JOB, credits=2)
                await anext(stream)
                with pytest.raises(UsageError, match="already"):
                    await anext(client.stream(JOB))
                await stream.aclose()
                await eventually_on_loop(lambda: server.statistics["closed"] == 1)
                assert server.statistics["open"] == 0
                waiting = client.stream(JOB)
                await anext(waiting)
                await client.close()
                with pytest.raises(LinkLostError):
                    await numbers(waiting)
                with pytest.raises(UsageError, match="closed"):
                    await anext(client.stream(JOB))

    run(main)


@contextmanager
def lying_server(chunks: Callable[[OpenStream], Iterator[Message]]) -> Iterator[str]:
    """A server that answers each opening with whatever ``chunks`` says, credit or not."""
    stopping = threading.Event()
    with zmq.Context.instance().socket(zmq.ROUTER) as router:
        endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"

        def serve() -> None:
            while not stopping.is_set():
                if not router.poll(20):
                    continue
                identity, data = router.recv_multipart()
                envelope = decode(data)
                if isinstance(envelope.message, OpenStream):
                    for message in chunks(envelope.message):
                        router.send_multipart([identity, encode(message, envelope.request_id)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield endpoint
        finally:
            stopping.set()
            thread.join()


def chunk(seq: int) -> Chunk:
    """A small chunk."""
    return Chunk(job_id=JOB, seq=seq, body=FrameLines(rows=(seq,), channels=(), time_s=0.0))


def end(last_seq: int) -> EndOfStream:
    """The end of a finished job."""
    return EndOfStream(job_id=JOB, last_seq=last_seq, state=JobState.FINISHED)


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (lambda asked: iter([chunk(asked.from_seq + 1)]), "gap"),
        (lambda asked: iter([end(asked.from_seq + 3)]), "names chunk 3"),
        (lambda asked: iter([end(-1), end(-1)][: 1 + asked.from_seq]), ""),
    ],
    ids=["gap", "false end", "honest"],
)
def test_a_lying_server_is_given_up(lie: Callable[[OpenStream], Iterator[Message]], word: str) -> None:
    """A server that leaves out chunks or names a false end is asked again a few times, then given up."""

    async def main() -> None:
        with lying_server(lie) as endpoint:
            async with AsyncStreamClient(endpoint, "acquirer") as client:
                if not word:
                    assert await numbers(client.stream(JOB)) == []
                    return
                with pytest.raises(CreditError, match=word):
                    await numbers(client.stream(JOB))
                assert client.statistics["violations"] == 4

    run(main)


def test_more_chunks_than_credits_do_not_pile_up() -> None:
    """What a server sends beyond its credit is not kept; the reader asks again and gets each chunk once."""

    def greedy(asked: OpenStream) -> Iterator[Message]:
        for seq in range(asked.from_seq, 40):
            yield chunk(seq)
        yield end(39)

    async def main() -> None:
        with lying_server(greedy) as endpoint:
            async with AsyncStreamClient(endpoint, "acquirer") as client:
                assert await numbers(client.stream(JOB, credits=4)) == list(range(40))
                assert client.statistics["violations"] > 0
                assert client.statistics["strays"] > 0

    run(main)


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    """A bare socket, to send what no client of ours would."""
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        yield socket


def test_the_server_answers_whatever_comes(dealer: zmq.Socket[bytes]) -> None:
    """Pings, credits for streams that are not open, impossible windows and foreign messages are answered."""
    questions: list[tuple[Message, type[Message], str]] = [
        (Ping(sent_s=3.0), Pong, ""),
        (GrantCredit(job_id=JOB, credits=1), Refusal, "no-stream"),
        (OpenStream(job_id=JOB, credits=-1), Refusal, CreditError.code),
        (OpenStream(job_id=JOB, credits=10**6), Refusal, CreditError.code),
        (OpenStream(job_id=JOB, from_seq=-4), Refusal, CreditError.code),
        (QueryJob(job_id=JOB), Refusal, UsageError.code),
        (OpenStream(job_id=JOB, credits=0), Done, ""),
        (GrantCredit(job_id=JOB, credits=-3), Refusal, "no-stream"),  # of another opening
    ]
    with serving_stream(CountedSource(1)) as (server, _):
        connect_dealer(dealer, server.endpoint, "odd")
        for number, (question, answer, code) in enumerate(questions):
            dealer.send(encode(question, str(number)))
            envelope = decode(dealer.recv())
            assert envelope.request_id == str(number)
            assert isinstance(envelope.message, answer)
            if isinstance(envelope.message, Refusal):
                assert envelope.message.code == code
        dealer.send(encode(GrantCredit(job_id=JOB, credits=-3), "6"))
        refusal = decode(dealer.recv()).message
        assert isinstance(refusal, Refusal) and refusal.code == CreditError.code
        assert server.statistics["open"] == 0


def test_open_streams_are_bounded() -> None:
    """Above the bound a reader is told to come later; nobody else loses a stream."""

    async def main() -> None:
        source = CountedSource(2, available=0)
        with StreamServer("tcp://127.0.0.1:0", source, maximum_streams=1) as server:
            stopping = threading.Event()

            def serve() -> None:
                while not stopping.is_set():
                    server.socket.poll(10)
                    server.pump()

            thread = threading.Thread(target=serve)
            thread.start()
            async with (
                AsyncStreamClient(server.endpoint, "first") as first,
                AsyncStreamClient(server.endpoint, "second") as second,
            ):
                reading = asyncio.create_task(numbers(first.stream(JOB)))
                await eventually_on_loop(lambda: server.statistics["open"] == 1)
                with pytest.raises(RefusedError) as caught:
                    await numbers(second.stream(JOB))
                assert caught.value.details["refusal_code"] == "busy"
                source.finished = True
                source.available = 2
                assert await reading == [0, 1]
            stopping.set()
            thread.join()

    run(main)


def test_a_source_that_lies_about_its_end_is_refused() -> None:
    """An end that leaves out chunks is the source's mistake; it never reaches the reader as an end."""

    class Liar(CountedSource):
        def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
            return end(7) if seq == 2 else super().read(job_id, seq)

    async def main() -> None:
        with serving_stream(Liar(9)) as (server, _):
            async with AsyncStreamClient(server.endpoint, "acquirer") as client:
                with pytest.raises(UsageError, match="chunk 2 is next"):
                    await numbers(client.stream(JOB))

    run(main)


def test_the_server_asks_its_source_only_when_there_is_credit(dealer: zmq.Socket[bytes]) -> None:
    """Without credit nothing is read from the source: the server has no queue of its own."""
    source = CountedSource(100)
    with serving_stream(source) as (server, waker):
        connect_dealer(dealer, server.endpoint, "reader")
        dealer.send(encode(OpenStream(job_id=JOB, credits=3), "1"))
        assert isinstance(decode(dealer.recv()).message, Done)
        for seq in range(3):
            message = decode(dealer.recv()).message
            assert isinstance(message, Chunk) and message.seq == seq
        waker.wake()
        dealer.send(encode(Ping(), "2"))
        assert isinstance(decode(dealer.recv()).message, Pong)
        assert source.reads == [0, 1, 2]
        dealer.send(encode(GrantCredit(job_id=JOB, credits=2), "1"))
        eventually(lambda: source.reads == [0, 1, 2, 3, 4])
