"""The emergency stop."""

from __future__ import annotations

import subprocess
import sys
import time

import msgpack
import pytest
import zmq
from link_servers import DEADLINE_S, eventually, serving_commands

from protocols.errors import (
    ConfigError,
    DeadlineError,
    MalformedMessageError,
    PeerError,
    RefusedError,
    UsageError,
)
from protocols.links.server import CommandServer, Request
from protocols.links.stop import send_stop
from protocols.messages.control import Done, Stop, StopAnswer


def test_a_stop_needs_no_hello_and_is_stamped() -> None:
    """The guard gets reason and sending time without a handshake; its answer comes back as a dict."""
    seen: list[Stop] = []

    def withdraw(request: Request) -> None:
        assert isinstance(request.message, Stop)
        seen.append(request.message)
        request.reply(StopAnswer(withdrawn=True, detail="Z withdrawn", took_s=0.002))

    with serving_commands(withdraw) as server:
        before = time.monotonic()
        answer = send_stop(server.endpoint, "operator", DEADLINE_S)
        after = time.monotonic()
    assert seen[0].reason == "operator"
    assert before <= seen[0].sent_monotonic_s <= after
    assert 0 < answer.pop("round_trip_s") <= after - before
    assert answer == {
        "withdrawn": True,
        "detail": "Z withdrawn",
        "took_s": 0.002,
        "endpoint": server.endpoint,
    }
    assert server.statistics["greetings"] == 0


def test_nobody_there_raises_with_advice() -> None:
    """Without a gateway the error names the endpoint, says that nothing was sent and what to do by hand."""
    with CommandServer("tcp://127.0.0.1:0", "guard") as server:
        endpoint = server.endpoint
    with pytest.raises(DeadlineError, match=r"not sent.*Withdraw by hand") as caught:
        send_stop(endpoint, "operator", 0.2)
    assert endpoint in str(caught.value)
    assert caught.value.details == {"endpoint": endpoint, "sent": False}


def test_a_silent_guard_raises() -> None:
    """A guard that takes the stop and does not answer is told apart from one that is not there."""
    with (
        serving_commands(lambda request: None) as server,
        pytest.raises(DeadlineError, match="took the stop and gave no answer") as caught,
    ):
        send_stop(server.endpoint, "operator", 0.2)
    assert caught.value.details["sent"] is True


def test_a_refusal_raises() -> None:
    """A guard that refuses is quoted, with its code."""
    with (
        serving_commands(lambda request: request.refuse(UsageError("not now."))) as server,
        pytest.raises(RefusedError, match="not now") as caught,
    ):
        send_stop(server.endpoint, "operator", DEADLINE_S)
    assert caught.value.details["refusal_code"] == "usage"


def test_somebody_else_there_raises() -> None:
    """Another server, or no server of ours, is not taken for a guard."""
    with (
        serving_commands(lambda request: request.reply(Done())) as server,
        pytest.raises(PeerError, match="no guard"),
    ):
        send_stop(server.endpoint, "operator", DEADLINE_S)
    with pytest.raises(ConfigError):
        send_stop("tcp://10.0.0.1:5555", "operator")


@pytest.mark.parametrize("garbage", [b"", b"\xc1", msgpack.packb(3), msgpack.packb([1, "a", []])])
def test_garbage_instead_of_an_answer_raises(garbage: bytes) -> None:
    """Whatever comes back, the error is one of ours with the advice."""
    with zmq.Context.instance().socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        program = (
            "import sys\nfrom protocols.links.stop import send_stop\n"
            "from protocols.errors import MalformedMessageError\n"
            "try:\n    send_stop(sys.argv[1], 'operator', 10.0)\n"
            "except MalformedMessageError as error:\n    print(error)\n"
        )
        asking = subprocess.Popen(
            [sys.executable, "-c", program, f"tcp://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
        )
        eventually(lambda: router.poll(10) != 0)
        identity, _ = router.recv_multipart()
        router.send_multipart([identity, garbage])
        out, _ = asking.communicate(timeout=DEADLINE_S)
    assert MalformedMessageError.__name__ and "no message of ours" in out and "Withdraw by hand" in out


def test_the_stop_imports_next_to_nothing() -> None:
    """The module needs pyzmq, msgpack and the standard library, and of ours only what needs no more."""
    program = (
        "import sys, protocols.links.stop\n"
        "third = {'msgspec', 'numpy', 'ray', 'click', 'torch', 'scipy', 'structlog', 'rich', 'asyncio'}\n"
        "print(sorted(third & set(sys.modules)))\n"
        "print(sorted(m for m in sys.modules if m.startswith('protocols.')))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    third, ours = out.splitlines()
    assert third == "[]"
    assert ours == str(
        [
            "protocols.errors",
            "protocols.links",
            "protocols.links.loopback",
            "protocols.links.stop",
            "protocols.messages",
            "protocols.messages.version",
        ]
    )
