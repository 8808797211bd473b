"""The Nanonis door on the wire: framing, forms of failure, one client per port, clients that vanish or send
nonsense."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.errors import ConfigError
from protocols.nanonis.framing import HEADER_BYTES, encode_request
from sim_hardware.clock import ScaledClock
from sim_hardware.nanonis.server import NanonisServer, listen, parse_ports
from tests.sim.nanonis_bench import Served, served
from tests.sim.nanonis_client import Client
from tests.sim.simulated import Flat, until

SECONDS_OF_NOISE = 4.0


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Served]:
    """A door with four ports; time passes a hundred times as fast."""
    with served(tmp_path, surface=Flat(), clock=ScaledClock(100.0), ports=4) as one:
        yield one


def received(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, f"closed after {len(data)} of {size} bytes"
        data += piece
    return data


def answer_to(connection: socket.socket) -> tuple[bytes, bytes]:
    """The next answer's header and body."""
    header = received(connection, HEADER_BYTES)
    return header, received(connection, struct.unpack_from(">i", header, 32)[0])


def is_silent(connection: socket.socket) -> bool:
    """Whether nothing comes within 0.2 s."""
    connection.settimeout(0.2)
    try:
        return connection.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        connection.settimeout(20.0)


def test_the_answer_is_one_piece_with_the_senders_name(door: Served) -> None:
    """Whatever the case of the letters, the header repeats them; unused bytes are zero; header and body of a
    reply come in one segment."""
    with Client(door.door.ports[0]) as client:
        client.socket.sendall(encode_request("biAS.GeT"))
        piece = client.socket.recv(65536)
    assert piece[:32].rstrip(b"\0") == b"biAS.GeT"
    assert piece[36:40] == bytes(4)
    assert len(piece) == 40 + 4 + 8
    assert piece[44:] == bytes(8)


def test_requests_cut_anywhere_and_in_a_row_are_answered_in_order(door: Served) -> None:
    """Byte by byte, or many at once: each request gets its answer, in order."""
    with Client(door.door.ports[0]) as client:
        for byte in encode_request("Bias.Set", struct.pack(">f", 0.25)):
            client.socket.sendall(bytes([byte]))
        answer_to(client.socket)
        many = b"".join(
            encode_request(name) for name in ("Bias.Get", "Util.RTFreqGet", "Bias.Get", "Nothing.Here") * 50
        )
        client.socket.sendall(many)
        names = [answer_to(client.socket)[0][:32].rstrip(b"\0") for _ in range(200)]
    assert names == [b"Bias.Get", b"Util.RTFreqGet", b"Bias.Get", b"Nothing.Here"] * 50


def test_no_reply_is_sent_if_none_is_wanted(door: Served) -> None:
    """With the flag 0 the command is carried out silently, also an unknown one."""
    with Client(door.door.ports[0]) as client:
        client.send("Bias.Set", struct.pack(">f", 0.5), reply=False)
        client.send("Nothing.Here", reply=False)
        assert client.one("Bias.Get") == 0.5


def test_forms_of_failure(door: Served) -> None:
    """Understood and failed: zeros, then the error; unreadable or unknown: the error alone.  A short body is
    taken where an older release had fewer arguments, and surplus bytes are ignored."""
    with Client(door.door.ports[0]) as client:
        body = client.raw("ZSpectr.RangeGet")
        assert body[:8] == bytes(8)
        status, size = struct.unpack_from(">Ii", body, 8)
        assert (status, size) == (1, len(body) - 16)
        assert b"Error in command: zspectr.rangeget: Cannot access the Z Spectroscopy module" in body
        for name, wrong in (("Bias.Set", b"\0"), ("Signals.ValsGet", struct.pack(">i", 1000))):
            body = client.raw(name, wrong)
            assert struct.unpack_from(">Ii", body) == (1, len(body) - 8)
            assert b"The arguments cannot be read" in body
        assert client.raw("Motor.PosGet") == bytes(32)
        assert client.raw("Motor.StartClosedLoop", struct.pack(">IdddI", 0, 0, 0, 0, 1)) == bytes(8)
        assert client.raw("Bias.Get", b"surplus")[4:] == bytes(8)


def test_a_second_client_of_a_port_is_not_heard_until_the_first_leaves(door: Served) -> None:
    """It is connected and gets no answer; other ports answer; when the first client leaves it is served."""
    first = Client(door.door.ports[0])
    assert first.one("Bias.Get") == 0.0
    with Client(door.door.ports[0]) as second, Client(door.door.ports[1]) as other:
        second.send("Bias.Get")
        assert is_silent(second.socket)
        assert other.one("Bias.Get") == 0.0
        first.socket.close()
        assert struct.unpack_from(">f", second.receive("Bias.Get")) == (0.0,)


def test_a_long_command_is_stopped_from_another_port(door: Served) -> None:
    """A sweep of minutes occupies its port; Stop on another port ends it at once, with an error, and the
    controller works on; a withdrawal ends another one."""
    with Client(door.door.ports[0]) as one, Client(door.door.ports[1]) as other:
        one("Bias.Set", 1.0)
        one("ZCtrl.OnOffSet", True)
        one("BiasSpectr.Open")
        one("BiasSpectr.TimingSet", None, None, None, None, 10.0, 10.0, None, None)
        for command, controller in (("BiasSpectr.Stop", True), ("ZCtrl.Withdraw", False)):
            one.send("BiasSpectr.Start", struct.pack(">Ii", 1, 0))
            until(lambda: other.one("BiasSpectr.StatusGet"), "the sweep")
            one.send("Bias.Get")
            assert is_silent(one.socket)
            began = time.monotonic()
            other(command, *((False, 0) if command == "ZCtrl.Withdraw" else ()))
            assert b"the sweep was ended" in one.receive("BiasSpectr.Start")
            one.receive("Bias.Get")
            assert time.monotonic() - began < 5.0
            assert other.one("ZCtrl.OnOffGet") is controller


def test_a_client_that_vanishes_stops_nothing(door: Served) -> None:
    """Its sweep goes on in the world and releases the controller; the port serves the next client at once."""
    with Client(door.door.ports[1]) as other:
        other("Bias.Set", 1.0)
        other("ZCtrl.OnOffSet", True)
        other("BiasSpectr.Open")
        other("BiasSpectr.TimingSet", None, None, None, None, 0.1, 0.1, None, None)
        lost = Client(door.door.ports[0])
        lost.send("BiasSpectr.Start", struct.pack(">Ii", 1, 0))
        until(lambda: other.one("BiasSpectr.StatusGet"), "the sweep")
        lost.socket.close()
        with Client(door.door.ports[0]) as following:
            assert following.one("Bias.Get") is not None
            assert other.one("BiasSpectr.StatusGet")
        until(lambda: not other.one("BiasSpectr.StatusGet"), "the end of the sweep")
        assert other.one("ZCtrl.OnOffGet")
    assert door.events("sweep_done")[0].detail["completed"]


def test_who_waits_for_an_end_that_never_comes_is_let_go(door: Served) -> None:
    """A wait without limit ends when its client has left and another wants the port, and when the door
    closes."""
    waiting = Client(door.door.ports[0])
    waiting.send("Scan.WaitEndOfScan", struct.pack(">i", -1))
    assert is_silent(waiting.socket)
    waiting.socket.close()
    with Client(door.door.ports[0]) as following:
        assert following.one("Bias.Get") == 0.0
        following.send("Scan.WaitEndOfScan", struct.pack(">i", -1))
        assert is_silent(following.socket)
        door.door.close()


def test_a_half_closed_client_gets_its_answers(door: Served) -> None:
    """Who closes its sending side after its requests still gets all answers, also those that take long."""
    with Client(door.door.ports[0]) as client:
        client.socket.sendall(encode_request("Bias.Get") + encode_request("Motor.StartMove", _moved(200)))
        client.socket.shutdown(socket.SHUT_WR)
        client.receive("Bias.Get")
        client.receive("Motor.StartMove")


def _moved(steps: int) -> bytes:
    """Arguments of so many steps away from the sample, waited for."""
    return struct.pack(">IHII", 4, steps, 0, 1)


def test_nonsense_closes_its_connection_and_harms_nobody(door: Served) -> None:
    """Random bytes, sizes that lie, connections that end within a request: for seconds on all ports but one,
    where requests are answered all the time; the ports serve well after it."""
    ended = threading.Event()
    seeds = range(3)
    attackers = [
        threading.Thread(target=_attack, args=(door.door.ports[k + 1], seed, ended), daemon=True)
        for k, seed in enumerate(seeds)
    ]
    end = time.monotonic() + SECONDS_OF_NOISE
    for attacker in attackers:
        attacker.start()
    answered = 0
    with Client(door.door.ports[0]) as client:
        while time.monotonic() < end:
            client("Signals.ValsGet", [0, 24, 30], 0)
            answered += 1
    ended.set()
    for attacker in attackers:
        attacker.join(10.0)
        assert not attacker.is_alive()
    assert answered > 20
    for port in door.door.ports:
        with Client(port) as client:
            assert client("Util.VersionGet")["host_release"] == 14718
    assert door.door.server.statistics["malformed"] > 10
    assert door.door.dispatcher.statistics["broken"] == 0


NAMES = ("Bias.Set", "Scan.BufferSet", "Signals.ValsGet", "Marks.PointsDraw", "BiasSpectr.MLSValsSet", "X.Y")


def _attack(port: int, seed: int, ended: threading.Event) -> None:
    """Connections with random bytes, good headers with random bodies, and torn requests."""
    random_ = random.Random(seed)
    while not ended.is_set():
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.settimeout(0.05)
            kind = random_.randrange(4)
            body = random_.randbytes(random_.randrange(200))
            name = random_.choice(NAMES)
            data = {
                0: random_.randbytes(random_.randrange(1, 400)),
                1: encode_request(name, body),
                2: encode_request(name, body)[: random_.randrange(1, 40 + len(body))],
                3: struct.pack(">32siHH", name.encode(), random_.choice((-1, 2**31 - 1)), 1, 0) + body,
            }[kind]
            try:
                connection.sendall(data)
                connection.recv(4096)
            except OSError:
                pass


def test_a_port_that_is_taken_is_named() -> None:
    """The error says which port, and how to take another one; nothing else is left open."""
    taken = listen(0)
    number = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port {number} on 127.0.0.1 cannot be had"):
        NanonisServer((0, number), lambda request, waiter: b"")
    taken.close()


def test_the_door_listens_on_this_machine_only(door: Served) -> None:
    """Every port is bound to the loopback address."""
    for port in (*door.door.ports, door.door.log_port):
        probe = socket.socket()
        with pytest.raises(OSError), probe:
            probe.bind(("127.0.0.1", port))
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", port))


@pytest.mark.parametrize(
    ("text", "ports"),
    [("6501-6504", (6501, 6502, 6503, 6504)), ("7001,7003", (7001, 7003)), ("0,0", (0, 0)), ("9", (9,))],
)
def test_ports_are_read(text: str, ports: tuple[int, ...]) -> None:
    """Ranges and lists."""
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "a", "1-2-3", "70000", "5,5", "1-100", "-4"])
def test_ports_that_make_no_sense_are_refused(text: str) -> None:
    """With an error that shows what was given."""
    with pytest.raises(ConfigError, match="nanonis-ports"):
        parse_ports(text)


@pytest.mark.parametrize("release", [10862, 13742])
def test_older_releases_speak_their_own_layouts(tmp_path: Path, release: int) -> None:
    """Commands that came later are unknown, others have their older layout."""
    with served(tmp_path, surface=Flat(), release=release) as one:
        client = one.client()
        listed = len(client.raw("Current.GainsGet")) > 100
        assert listed is (release > 10862)
        assert (b"Unknown command" in client.raw("Signals.InSlotsGet")) is (release > 13741)
        assert (b"Unknown command" in client.raw("Util.VersionGet")) is (release == 10862)
