"""Commands between a synchronous client and server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest
import zmq
from link_servers import DEADLINE_S, ServerProcess, answer_done, serving_commands

from protocols.errors import (
    ConfigError,
    DeadlineError,
    LatchedError,
    LinkLostError,
    RefusedError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
    VersionError,
)
from protocols.links.client import CommandClient
from protocols.links.desk import Incoming
from protocols.links.loopback import check_endpoint
from protocols.links.server import CommandServer, Request
from protocols.links.sockets import connect_dealer
from protocols.messages.base import PROTOCOL_VERSION
from protocols.messages.codec import decode, encode
from protocols.messages.control import Done, GuardQuery, Hello, Ping, Pong, Refusal, Stop, Welcome

SHORT_S = 0.1
"""A deadline that is meant to pass."""


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    """A bare socket, to send what no client of ours would."""
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        yield socket


def test_requests_are_answered() -> None:
    """A client greets by itself, once, and gets the answer to each request."""
    with serving_commands() as server, CommandClient(server.endpoint, "console", "server") as client:
        for _ in range(20):
            assert client.request(GuardQuery(), DEADLINE_S) == Done(note="console")
        assert client.request(Ping(sent_s=1.5), DEADLINE_S) == Pong(sent_s=1.5)
        assert client.capabilities == ("frames",)
    assert client.statistics == {"greetings": 1, "requests": 21, "answers": 21}
    assert server.statistics["answered"] == 20
    assert server.statistics["unanswered"] == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LatchedError("the tip is latched.", "Run stmctl ack."), LatchedError),
        (ConfigError("no."), ConfigError),
        (type("LocalError", (TunnelpilotError,), {"code": "local"})("no."), RefusedError),
    ],
)
def test_a_refusal_raises_its_class(error: TunnelpilotError, kind: type[TunnelpilotError]) -> None:
    """A refusal is raised as the class of its code (RefusedError if there is none), with code and peer."""
    with (
        serving_commands(lambda request: request.refuse(error)) as server,
        CommandClient(server.endpoint, "console", "server") as client,
        pytest.raises(kind) as caught,
    ):
        client.request(GuardQuery(), DEADLINE_S)
    assert type(caught.value) is kind
    assert str(caught.value) == str(error)
    assert caught.value.details["refusal_code"] == error.code
    assert caught.value.details["peer"] == "server"


def test_no_answer_names_everything() -> None:
    """The deadline error names peer, endpoint, what was awaited, for how long, and that it was sent."""
    with (
        serving_commands(lambda request: None) as server,
        CommandClient(server.endpoint, "console", "guard") as client,
    ):
        with pytest.raises(DeadlineError) as caught:
            client.request(GuardQuery(), SHORT_S)
        for part in ("guard", server.endpoint, "GuardQuery", "0.1 s", "was sent"):
            assert part in str(caught.value)
        assert caught.value.details["sent"] is True


def test_a_late_answer_is_not_taken_for_another() -> None:
    """The answer to a request that was given up is dropped and counted; the next request gets its own."""
    held: list[Request] = []

    def hold_first(request: Request) -> None:
        held.append(request)
        if len(held) == 2:
            held[0].reply(Done(note="late"))
            held[1].reply(Done(note="in time"))

    with (
        serving_commands(hold_first) as server,
        CommandClient(server.endpoint, "console", "server") as client,
    ):
        with pytest.raises(DeadlineError):
            client.request(GuardQuery(), SHORT_S)
        assert client.request(GuardQuery(), DEADLINE_S) == Done(note="in time")
        assert client.statistics["strays"] == 1


def test_a_killed_server_is_found_again() -> None:
    """After SIGKILL and a restart at the same endpoint the same client greets again and works."""
    with ServerProcess("commands") as first:
        endpoint = first.endpoint
        with CommandClient(endpoint, "console", "server") as client:
            client.request(GuardQuery(), DEADLINE_S)
            first.kill()
            with pytest.raises(DeadlineError):
                client.request(GuardQuery(), SHORT_S)
            with ServerProcess("commands", endpoint):
                assert client.request(GuardQuery(), DEADLINE_S) == Done(note="console")
            assert client.statistics["greetings"] >= 2


def test_a_restart_between_requests_goes_unnoticed() -> None:
    """A server that was started anew asks for a HELLO before it acts, and the request succeeds."""
    with serving_commands() as server, CommandClient(server.endpoint, "console", "server") as client:
        client.request(GuardQuery(), DEADLINE_S)
        server._desk._peers.clear()  # what a restart forgets
        assert client.request(GuardQuery(), DEADLINE_S) == Done(note="console")
        assert client.statistics["greetings"] == 2
    assert server.statistics["ungreeted"] == 1


def test_a_request_given_up_unsent_is_never_delivered() -> None:
    """Nothing queues for an absent server: what was given up does not reach it when it comes."""
    with CommandServer("tcp://127.0.0.1:0", "server") as reserved:
        endpoint = reserved.endpoint
    seen: list[object] = []

    def note(request: Request) -> None:
        seen.append(request.message)
        answer_done(request)

    with CommandClient(endpoint, "console", "server") as client:
        with pytest.raises(DeadlineError, match="never sent") as caught:
            client.request(Stop(reason="given up"), SHORT_S)
        assert caught.value.details["sent"] is False
        with serving_commands(note, endpoint):
            client.request(GuardQuery(), DEADLINE_S)
    assert seen == [GuardQuery()]


def test_a_server_that_moved_is_found_after_reconnect() -> None:
    """``reconnect`` takes the same client object to another endpoint."""
    with serving_commands() as first, serving_commands() as second:
        with CommandClient(first.endpoint, "console", "server") as client:
            client.request(GuardQuery(), DEADLINE_S)
            client.reconnect(second.endpoint)
            client.request(GuardQuery(), DEADLINE_S)
        assert (first.statistics["answered"], second.statistics["answered"]) == (1, 1)


def test_port_in_use_names_the_port() -> None:
    """A second server at the same port is refused with the port and what to do."""
    with CommandServer("tcp://127.0.0.1:0", "server") as server:
        port = server.endpoint.rpartition(":")[2]
        with pytest.raises(ConfigError, match=f"port {port}.*in use.*choose another port"):
            CommandServer(server.endpoint, "second")


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.1.4:5555",
        "tcp://lab.example.org:5555",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1",
        "ipc:///tmp/x",
        "",
    ],
)
def test_nothing_reaches_beyond_this_computer(endpoint: str) -> None:
    """Endpoints beyond loopback, and what is no endpoint, are refused by servers and clients."""
    with pytest.raises(ConfigError):
        check_endpoint(endpoint)
    with pytest.raises(ConfigError):
        CommandServer(endpoint, "server")
    with CommandClient(endpoint, "console", "server") as client, pytest.raises(ConfigError):
        client.request(GuardQuery(), DEADLINE_S)


def test_unanswered_requests_are_bounded() -> None:
    """Above the bound the server says "busy"; a Stop is let in all the same."""
    held: list[Request] = []

    def hold(request: Request) -> None:
        if isinstance(request.message, Stop):
            request.reply(Done(note="stopped"))
        else:
            held.append(request)

    with (
        serving_commands(hold, maximum_unanswered=2) as server,
        CommandClient(server.endpoint, "console", "server") as client,
    ):
        for _ in range(2):
            with pytest.raises(DeadlineError):
                client.request(GuardQuery(), SHORT_S)
        with pytest.raises(RefusedError, match="2 unanswered") as caught:
            client.request(GuardQuery(), DEADLINE_S)
        assert caught.value.details["refusal_code"] == "busy"
        assert client.request(Stop(reason="now"), DEADLINE_S) == Done(note="stopped")
        assert server.statistics["busy"] == 1
        assert server.statistics["unanswered"] == 2


def test_answering_a_vanished_client_is_counted() -> None:
    """A reply to a client that is gone raises nothing; the statistics show it."""
    gone = Incoming(identity=b"console-1", request_id="1", peer="console", message=GuardQuery())
    with CommandServer("tcp://127.0.0.1:0", "server") as server:
        Request(server, gone).reply(Done())
        assert server.statistics["undeliverable"] == 1


def test_a_request_is_answered_once() -> None:
    """A second answer is our own mistake and says so; one that cannot travel leaves the request open."""
    failures: list[str] = []

    def twice(request: Request) -> None:
        for answer in (Done(note="x" * 70_000_000), Done(), Done()):
            try:
                request.reply(answer)
            except UsageError as error:
                failures.append(str(error))

    with serving_commands(twice) as server, CommandClient(server.endpoint, "console", "server") as client:
        assert client.request(GuardQuery(), DEADLINE_S) == Done()
    assert len(failures) == 2
    assert "cannot travel" in failures[0] and "twice" in failures[1]


def test_an_unknown_kind_is_refused_by_name(dealer: zmq.Socket[bytes]) -> None:
    """A newer peer's message gets a refusal with its request id; the server lives on."""
    with serving_commands() as server:
        connect_dealer(dealer, server.endpoint, "newer")
        dealer.send(msgspec.msgpack.encode([PROTOCOL_VERSION, "41", {"t": "Teleport"}]))
        envelope = decode(dealer.recv())
        assert envelope.request_id == "41"
        assert isinstance(envelope.message, Refusal)
        assert envelope.message.code == UnknownMessageError.code
        assert "peer is newer" in envelope.message.reason
        dealer.send(encode(Hello(peer="newer", protocol=PROTOCOL_VERSION), "42"))
        assert isinstance(decode(dealer.recv()).message, Welcome)
        assert server.statistics["unknown"] == 1


def test_an_answer_of_an_unknown_kind_raises() -> None:
    """A client whose server answers with a kind that it does not know raises that, and not a deadline."""
    with zmq.Context.instance().socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        router.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))

        def answer() -> None:
            identity, hello = router.recv_multipart()
            welcome = Welcome(peer="server", protocol=PROTOCOL_VERSION)
            router.send_multipart([identity, encode(welcome, decode(hello).request_id)])
            identity, request = router.recv_multipart()
            body = [PROTOCOL_VERSION, decode(request).request_id, {"t": "Teleported"}]
            router.send_multipart([identity, msgspec.msgpack.encode(body)])

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            CommandClient(f"tcp://127.0.0.1:{port}", "console", "server") as client,
            pytest.raises(UnknownMessageError),
        ):
            client.request(GuardQuery(), DEADLINE_S)
        thread.join()


@pytest.mark.parametrize("frame", [2, PROTOCOL_VERSION])
def test_another_protocol_version_is_refused(dealer: zmq.Socket[bytes], frame: int) -> None:
    """Another version, in the frame or in the HELLO, gets a refusal that names both versions."""
    with serving_commands() as server:
        connect_dealer(dealer, server.endpoint, "other")
        hello = {"t": "Hello", "peer": "other", "protocol": 2}
        dealer.send(msgspec.msgpack.encode([frame, "1", hello]))
        refusal = decode(dealer.recv()).message
        assert isinstance(refusal, Refusal)
        assert refusal.code == VersionError.code
        assert str(PROTOCOL_VERSION) in refusal.reason and "2" in refusal.reason
        assert server.statistics["version"] == 1


def test_one_thread_per_client() -> None:
    """A client used from a second thread says so instead of corrupting its socket."""
    caught: list[BaseException] = []
    with serving_commands() as server, CommandClient(server.endpoint, "console", "server") as client:
        client.request(GuardQuery(), DEADLINE_S)

        def intrude() -> None:
            try:
                client.request(GuardQuery(), DEADLINE_S)
            except UsageError as error:
                caught.append(error)

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert "second thread" in str(caught[0])


def test_a_closed_client_says_so() -> None:
    """After ``close`` (which may be repeated) a request is our own mistake."""
    client = CommandClient("tcp://127.0.0.1:9", "console", "server")
    client.close()
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.request(GuardQuery(), DEADLINE_S)


def test_a_server_with_amnesia_is_given_up() -> None:
    """A server that asks for a HELLO again and again is not greeted for ever."""

    def forget(request: Request) -> None:
        request.reply(Refusal(code="greet-first", reason="who are you?"))

    with serving_commands(forget) as server, CommandClient(server.endpoint, "console", "server") as client:
        with pytest.raises(LinkLostError, match="does not remember"):
            client.request(GuardQuery(), DEADLINE_S)
        assert client.statistics["greetings"] == 3
