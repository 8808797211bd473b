"""The reactor: one thread's sockets, and how others reach it."""

from __future__ import annotations

import threading

import pytest
from link_servers import DEADLINE_S, CountedSource, answer_done, reacting

from protocols.links.client import CommandClient
from protocols.links.reactor import Reactor, Waker
from protocols.links.server import CommandServer, Request
from protocols.links.streams import StreamServer
from protocols.messages.control import Done, GuardQuery, Ping, Pong


def test_wake_ends_a_wait_and_calls_its_handler_once() -> None:
    """Any number of wake-ups from other threads end one wait and are handled together."""
    reactor, waker = Reactor(), Waker()
    woken: list[str] = []
    reactor.add_waker(waker, lambda: woken.append("woken"))
    threads = [threading.Thread(target=waker.wake) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reactor.run_once(DEADLINE_S) is True
    assert woken == ["woken"]
    assert reactor.run_once(0.0) is False
    waker.close()


def test_a_waker_never_blocks() -> None:
    """More wake-ups than any buffer holds neither block nor raise; after ``close`` they do nothing."""
    reactor, waker = Reactor(), Waker()
    reactor.add_waker(waker)
    for _ in range(300_000):
        waker.wake()
    assert reactor.run_once(DEADLINE_S) is True
    assert reactor.run_once(0.0) is False
    waker.close()
    waker.wake()
    waker.close()


def test_several_servers_in_one_thread() -> None:
    """Two command servers and a stream server are served side by side by one thread."""
    with (
        CommandServer("tcp://127.0.0.1:0", "safety") as safety,
        CommandServer("tcp://127.0.0.1:0", "commands") as commands,
        StreamServer("tcp://127.0.0.1:0", CountedSource(1)) as data,
    ):
        reactor = Reactor()
        reactor.add_commands(safety, lambda request: request.reply(Done(note="safety")))
        reactor.add_commands(commands, answer_done)
        reactor.add_streams(data)
        with (
            reacting(reactor),
            CommandClient(safety.endpoint, "a", "safety") as first,
            CommandClient(commands.endpoint, "b", "commands") as second,
        ):
            assert first.request(GuardQuery(), DEADLINE_S) == Done(note="safety")
            assert second.request(GuardQuery(), DEADLINE_S) == Done(note="b")


def test_a_failing_handler_passes_its_error_on() -> None:
    """An error of a handler comes out of ``run_once``; the next call goes on serving."""

    def fail(request: Request) -> None:
        request.reply(Done())
        raise RuntimeError("a mistake")

    with CommandServer("tcp://127.0.0.1:0", "server") as server:
        reactor = Reactor()
        reactor.add_commands(server, fail)
        errors: list[Exception] = []

        def serve_two() -> None:
            while len(errors) < 2:
                try:
                    reactor.run_once(DEADLINE_S)
                except RuntimeError as error:
                    errors.append(error)

        thread = threading.Thread(target=serve_two)
        thread.start()
        with CommandClient(server.endpoint, "console", "server") as client:
            for _ in range(2):
                assert client.request(GuardQuery(), DEADLINE_S) == Done()
        thread.join()
        assert [str(e) for e in errors] == ["a mistake"] * 2


@pytest.mark.parametrize("chunks", [1000])
def test_a_long_stream_does_not_starve_commands(chunks: int) -> None:
    """While a stream has much to send, each round still serves the commands."""
    source = CountedSource(chunks)
    with (
        CommandServer("tcp://127.0.0.1:0", "commands") as commands,
        StreamServer("tcp://127.0.0.1:0", source) as data,
    ):
        reactor = Reactor()
        reactor.add_streams(data)
        reactor.add_commands(commands, answer_done)
        with reacting(reactor), CommandClient(data.endpoint, "a", "data") as asking:
            with pytest.raises(Exception, match="does not serve Hello"):
                asking.request(Ping(), DEADLINE_S)
            with CommandClient(commands.endpoint, "b", "commands") as client:
                assert client.request(Ping(), DEADLINE_S) == Pong()
