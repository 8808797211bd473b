"""Commands between asynchronous clients and servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from link_servers import DEADLINE_S, ServerProcess, eventually_on_loop, serving_commands

from protocols.errors import (
    ConfigError,
    DeadlineError,
    LimitError,
    LinkLostError,
    RefusedError,
    TunnelpilotError,
    UsageError,
)
from protocols.links.async_client import AsyncCommandClient
from protocols.links.async_server import AsyncCommandServer
from protocols.links.client import CommandClient
from protocols.links.server import CommandServer, Request
from protocols.messages.base import Message
from protocols.messages.control import Done, GuardQuery, Ping, Pong, RenewLease, WorkerQuery

SHORT_S = 0.1
"""A deadline that is meant to pass."""

ANY_PORT = "tcp://127.0.0.1:0"


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine on a loop of its own, and see that it leaves no task behind."""

    async def checked() -> None:
        async with asyncio.timeout(60):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(checked())


async def echo(message: Message, peer: str) -> Message:
    """Answer with what was asked."""
    assert isinstance(message, RenewLease)
    await asyncio.sleep(0)
    return Done(note=f"{peer} {message.epoch}")


def test_many_requests_outstanding() -> None:
    """Each of many concurrent requests gets its own answer, over one connection and one HELLO."""

    async def main() -> None:
        async with (
            AsyncCommandServer(ANY_PORT, "stmd", echo, maximum_unanswered=500) as server,
            AsyncCommandClient(server.endpoint, "console", "stmd") as client,
        ):
            answers = await asyncio.gather(
                *[client.request(RenewLease(epoch=k), DEADLINE_S) for k in range(200)]
            )
            assert answers == [Done(note=f"console {k}") for k in range(200)]
            assert client.statistics == {"greetings": 1, "requests": 200, "answers": 200, "outstanding": 0}
            assert await client.request(Ping(sent_s=2.0), DEADLINE_S) == Pong(sent_s=2.0)

    run(main)


def test_answers_come_in_any_order() -> None:
    """A slow request does not hold up a quick one."""

    async def main() -> None:
        release = asyncio.Event()

        async def handler(message: Message, peer: str) -> Message:
            if isinstance(message, GuardQuery):
                await release.wait()
            return Done(note=type(message).__name__)

        async with (
            AsyncCommandServer(ANY_PORT, "stmd", handler) as server,
            AsyncCommandClient(server.endpoint, "console", "stmd") as client,
        ):
            slow = asyncio.create_task(client.request(GuardQuery(), DEADLINE_S))
            assert await client.request(WorkerQuery(), DEADLINE_S) == Done(note="WorkerQuery")
            assert not slow.done()
            release.set()
            assert await slow == Done(note="GuardQuery")

    run(main)


def test_errors_of_a_handler_reach_the_client() -> None:
    """Our own errors arrive as their class; anything else as an error that names server and exception."""

    async def handler(message: Message, peer: str) -> Message:
        if isinstance(message, GuardQuery):
            raise LimitError("bias out of range.", "Use 1 V.")
        raise ZeroDivisionError("a mistake")

    async def main() -> None:
        async with (
            AsyncCommandServer(ANY_PORT, "stmd", handler) as server,
            AsyncCommandClient(server.endpoint, "console", "stmd") as client,
        ):
            with pytest.raises(LimitError, match="Use 1 V"):
                await client.request(GuardQuery(), DEADLINE_S)
            with pytest.raises(TunnelpilotError, match=r"stmd failed at WorkerQuery.*ZeroDivisionError"):
                await client.request(WorkerQuery(), DEADLINE_S)
            assert server.statistics["refused"] == 2

    run(main)


def test_bounds_on_both_sides() -> None:
    """The server refuses above its bound as busy; the client refuses above its own without sending."""

    async def main() -> None:
        release = asyncio.Event()

        async def handler(message: Message, peer: str) -> Message:
            await release.wait()
            return Done()

        async with (
            AsyncCommandServer(ANY_PORT, "stmd", handler, maximum_unanswered=3) as server,
            AsyncCommandClient(server.endpoint, "console", "stmd", maximum_outstanding=4) as client,
        ):
            waiting = [asyncio.create_task(client.request(GuardQuery(), DEADLINE_S)) for _ in range(3)]
            await eventually_on_loop(lambda: server.statistics["unanswered"] == 3)
            with pytest.raises(RefusedError) as caught:
                await client.request(GuardQuery(), DEADLINE_S)
            assert caught.value.details["refusal_code"] == "busy"
            server._desk.maximum_unanswered = 4
            waiting.append(asyncio.create_task(client.request(GuardQuery(), DEADLINE_S)))
            await eventually_on_loop(lambda: server.statistics["unanswered"] == 4)
            with pytest.raises(UsageError, match="4 requests"):
                await client.request(GuardQuery(), DEADLINE_S)
            release.set()
            assert await asyncio.gather(*waiting) == [Done()] * 4

    run(main)


def test_no_answer_and_no_server_are_told_apart() -> None:
    """A deadline says whether the request had left."""

    async def main() -> None:
        async def never(message: Message, peer: str) -> Message:
            await asyncio.Event().wait()
            return Done()

        async with (
            AsyncCommandServer(ANY_PORT, "stmd", never) as server,
            AsyncCommandClient(server.endpoint, "console", "stmd") as client,
        ):
            with pytest.raises(DeadlineError, match="was sent"):
                await client.request(GuardQuery(), SHORT_S)
        async with AsyncCommandClient(server.endpoint, "console", "stmd") as client:
            with pytest.raises(DeadlineError, match="never sent") as caught:
                await client.request(GuardQuery(), SHORT_S)
            assert caught.value.details["endpoint"] == server.endpoint

    run(main)


def test_a_late_answer_is_a_stray() -> None:
    """The answer to a request that was given up is counted and given to nobody else."""
    held: list[Request] = []

    def hold_first(request: Request) -> None:
        held.append(request)
        if len(held) == 2:
            held[0].reply(Done(note="late"))
            held[1].reply(Done(note="in time"))

    async def main() -> None:
        with serving_commands(hold_first) as server:
            async with AsyncCommandClient(server.endpoint, "console", "server") as client:
                with pytest.raises(DeadlineError):
                    await client.request(GuardQuery(), SHORT_S)
                assert await client.request(GuardQuery(), DEADLINE_S) == Done(note="in time")
                assert client.statistics["strays"] == 1

    run(main)


def test_a_killed_server_is_found_again() -> None:
    """After SIGKILL and a restart at the same endpoint the same client works again."""

    async def main() -> None:
        with ServerProcess("commands") as first:
            async with AsyncCommandClient(first.endpoint, "console", "server") as client:
                await client.request(GuardQuery(), DEADLINE_S)
                first.kill()
                with pytest.raises(DeadlineError):
                    await client.request(GuardQuery(), SHORT_S)
                with ServerProcess("commands", first.endpoint):
                    assert await client.request(GuardQuery(), DEADLINE_S) == Done(note="console")

    run(main)


async def while_waiting(
    client: AsyncCommandClient, server: CommandServer, act: Callable[[], Awaitable[None]]
) -> None:
    """Let three requests wait for an answer, then do something to the link: all three must fail."""
    waiting = [asyncio.create_task(client.request(GuardQuery(), DEADLINE_S)) for _ in range(3)]
    await eventually_on_loop(lambda: server.statistics["unanswered"] == 3)
    await act()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(r) for r in results] == [LinkLostError] * 3


def test_closing_and_reconnecting_fail_who_waits() -> None:
    """Requests that wait while the link is closed or moved raise LinkLostError, at once."""

    async def main() -> None:
        with serving_commands(lambda request: None) as silent, serving_commands() as other:
            client = AsyncCommandClient(silent.endpoint, "console", "server")

            async def move() -> None:
                client.reconnect(other.endpoint)

            await while_waiting(client, silent, move)
            assert await client.request(GuardQuery(), DEADLINE_S) == Done(note="console")
        with serving_commands(lambda request: None) as silent:
            client.reconnect(silent.endpoint)
            await while_waiting(client, silent, client.close)
            with pytest.raises(UsageError, match="closed"):
                await client.request(GuardQuery(), DEADLINE_S)
            await client.close()

    run(main)


def test_reconnecting_frees_a_request_that_waits_for_a_connection() -> None:
    """A request that could not even be sent raises LinkLostError when the client moves elsewhere."""

    async def main() -> None:
        with serving_commands() as server:
            with CommandServer(ANY_PORT, "gone") as gone:
                nowhere = gone.endpoint
            async with AsyncCommandClient(nowhere, "console", "server") as client:
                waiting = asyncio.create_task(client.request(GuardQuery(), DEADLINE_S))
                await eventually_on_loop(lambda: client.statistics["outstanding"] == 1)
                client.reconnect(server.endpoint)
                with pytest.raises(LinkLostError):
                    await waiting
                assert await client.request(GuardQuery(), DEADLINE_S) == Done(note="console")

    run(main)


def test_a_dead_receive_task_is_loud() -> None:
    """If receiving fails, who waits and who asks later get an error with the reason until reconnect."""

    async def main() -> None:
        with serving_commands(lambda request: None) as server, serving_commands() as other:
            async with AsyncCommandClient(server.endpoint, "console", "server") as client:

                async def break_it() -> None:
                    def fail(data: bytes) -> None:
                        raise MemoryError("no memory left")

                    client._dialogue.read = fail  # type: ignore[method-assign,assignment]
                    with pytest.raises(LinkLostError, match="no memory left"):
                        await client.request(Ping(), DEADLINE_S)
                    del client._dialogue.read

                await while_waiting(client, server, break_it)
                with pytest.raises(LinkLostError, match="receive task died"):
                    await client.request(GuardQuery(), DEADLINE_S)
                client.reconnect(other.endpoint)
                assert await client.request(GuardQuery(), DEADLINE_S) == Done(note="console")

    run(main)


def test_server_tells_of_its_port_and_its_end() -> None:
    """A port in use is a configuration error; ``serve_forever`` returns when the server is closed."""

    async def main() -> None:
        async with AsyncCommandServer(ANY_PORT, "stmd", echo) as server:
            second = AsyncCommandServer(server.endpoint, "second", echo)
            with pytest.raises(ConfigError, match="in use"):
                await second.start()
            serving = asyncio.create_task(server.serve_forever())
        await serving

    run(main)


def test_closing_a_server_cancels_its_handlers() -> None:
    """Handlers that are not done when the server closes are cancelled, not left behind."""

    async def main() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def handler(message: Message, peer: str) -> Message:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Done()

        async with AsyncCommandServer(ANY_PORT, "stmd", handler) as server:
            client = AsyncCommandClient(server.endpoint, "console", "stmd")
            waiting = asyncio.create_task(client.request(GuardQuery(), DEADLINE_S))
            await started.wait()
        assert cancelled.is_set()
        await client.close()
        with pytest.raises(LinkLostError):
            await waiting

    run(main)


def test_a_synchronous_client_speaks_with_an_asynchronous_server() -> None:
    """Both kinds of client and server speak the same protocol."""

    async def main() -> None:
        async with AsyncCommandServer(ANY_PORT, "stmd", echo, ("runs",)) as server:

            def ask() -> Message:
                with CommandClient(server.endpoint, "stmctl", "stmd") as client:
                    return client.request(RenewLease(epoch=4), DEADLINE_S)

            assert await asyncio.to_thread(ask) == Done(note="stmctl 4")

    run(main)
