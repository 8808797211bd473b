"""Wrong input for the processes: each is a clear error that says what to do, and whoever runs goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import psutil
import pytest

from protocols.errors import RefusedError, StaleEpochError
from protocols.files.state_directory import read_endpoints
from protocols.links.server import CommandServer
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import encode
from protocols.messages.control import AcquireLease, Hello, Refusal, RenewLease
from protocols.messages.recipes import Move
from sim_hardware import recorded as recorded_samples
from tests.cluster.gateway_harness import Gateway, Simulator, await_that
from tests.soak.garbage import Dealer
from tests.soak.session import processes
from tests.soak.subjects import PORTS, Port, ask, endpoint, pid

PATIENCE_S = 30.0
NAMES = [port.name for port in PORTS]
GRID = next(Path(folder) for folder in recorded_samples.__path__) / "NanonisReader_STS_grid_lockin.3ds"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """stmsim, journal writer and stmgate of one state directory, for all tests here."""
    with processes(tmp_path_factory.mktemp("lab")) as running:
        yield running


@dataclass
class Ended:
    """What a command ended with."""

    status: int
    errors: str


def run_all(commands: Sequence[Sequence[str]]) -> list[Ended]:
    """Run these modules side by side and wait for their ends."""
    running = [
        subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE_S)
    return [Ended(process.returncode, text) for process, text in zip(running, errors, strict=True)]


class Simulation(Simulator):
    """A stmsim for one test."""

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refusal(where: str, frame: bytes) -> Refusal:
    """The refusal of a frame whose request id is "q", after a greeting."""
    with Dealer(where) as dealer:
        dealer.ask(encode(Hello(peer="test", protocol=PROTOCOL_VERSION), "hello"), "hello")
        answer: Message | None = dealer.ask(frame, "q")
    assert isinstance(answer, Refusal), answer
    return answer


@pytest.mark.parametrize("port", PORTS, ids=NAMES)
def test_an_unknown_kind_means_that_the_peer_is_newer(gate: Gateway, port: Port) -> None:
    """Refused by name with what to do; the process is the same afterwards and answers."""
    where, before = endpoint(gate.state, port), pid(gate.state, port)
    answer = refusal(where, msgpack.packb([PROTOCOL_VERSION, "q", {"t": "Levitate", "height_m": 1.0}]))
    assert answer.code == "unknown-kind"
    assert "Levitate" in answer.reason
    assert "newer" in f"{answer.reason} {answer.advice}"
    ask(where, port.question)
    assert pid(gate.state, port) == before
    assert psutil.pid_exists(before)


@pytest.mark.parametrize("port", PORTS, ids=NAMES)
def test_another_version_is_refused_with_both_numbers(gate: Gateway, port: Port) -> None:
    """A frame of another protocol version is not guessed at."""
    where = endpoint(gate.state, port)
    answer = refusal(where, msgpack.packb([PROTOCOL_VERSION + 41, "q", {"t": "Ping", "sent_s": 0.0}]))
    assert answer.code == "version"
    assert str(PROTOCOL_VERSION + 41) in answer.reason
    assert str(PROTOCOL_VERSION) in answer.reason.replace(str(PROTOCOL_VERSION + 41), "")
    ask(where, port.question)


@pytest.mark.parametrize("port", PORTS, ids=NAMES)
def test_a_known_kind_with_wrong_fields_is_refused(gate: Gateway, port: Port) -> None:
    """Text where a number belongs, and a field that is missing: malformed, and nothing is acted on."""
    where = endpoint(gate.state, port)
    wrong = {"t": "SubmitJob", "job_id": 7, "recipe": {"t": "Park"}, "epoch": "mine"}
    answer = refusal(where, msgpack.packb([PROTOCOL_VERSION, "q", wrong]))
    assert answer.code == "malformed"
    assert "job_id" in answer.reason
    ask(where, port.question)


def test_a_second_process_of_a_kind_is_told_who_runs(gate: Gateway) -> None:
    """stmgate, stmsim and journal writer of a state directory that has one: the pid of the first, and what to
    do; the first ones go on."""
    state = str(gate.state)
    modules = {
        "gateway": "actors.console.stmgate",
        "sim": "sim_hardware.stmsim",
        "journal": "actors.journal.writer",
    }
    first = {folder: int(read_endpoints(gate.state, folder)["pid"]) for folder in modules}
    ended = run_all([(module, "--state", state) for module in modules.values()])
    for folder, end in zip(modules, ended, strict=True):
        assert end.status in (1, 2)
        assert f"(pid {first[folder]}) already runs" in end.errors
        assert "stop it first" in end.errors
        assert "Traceback" not in end.errors
    assert {folder: int(read_endpoints(gate.state, folder)["pid"]) for folder in modules} == first
    for port in PORTS:
        ask(endpoint(gate.state, port), port.question)


@pytest.fixture
def taken() -> Iterator[str]:
    """An endpoint where somebody else listens."""
    with CommandServer("tcp://127.0.0.1:0", "somebody") as somebody:
        yield somebody.endpoint


def test_a_port_in_use_is_named(taken: str, tmp_path: Path) -> None:
    """stmsim, journal writer and guard: the number, and how to find who has it; no process is left."""
    with Simulation(tmp_path / "sim") as sim:
        commands = [
            ("sim_hardware.stmsim", "--endpoint", taken),
            ("actors.journal.writer", "--endpoint", taken),
            ("actors.console.stmgate", "--driver-endpoint", sim.door, "--safety", taken),
        ]
        ended = run_all([(*words, "--state", str(tmp_path / str(k))) for k, words in enumerate(commands)])
    for command, end in zip(commands, ended, strict=True):
        assert end.status in (1, 2), command
        assert in_use(taken) in end.errors, command
        assert "choose another port" in end.errors
        assert "Traceback" not in end.errors


def test_a_port_of_the_worker_in_use_ends_the_gateway(taken: str, tmp_path: Path) -> None:
    """The worker is not started for ever: the guard parks and ends, and its last words name the port."""
    with Simulation(tmp_path / "sim") as sim:
        command = ["--state", str(tmp_path), "--driver-endpoint", sim.door, "--data", taken]
        ended = subprocess.run(
            [sys.executable, "-m", "actors.console.stmgate", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 2
    assert in_use(taken) in ended.stderr


def in_use(taken: str) -> str:
    """How it is said."""
    return f"port {taken.rpartition(':')[2]} of {taken} is in use"


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    """A truncated .3ds and something that is none: which file, and what is wrong with it."""
    files = {"cut.3ds": GRID.read_bytes()[:-1000], "else.3ds": b"\x89PNG\r\n\x1a\n" + bytes(1000)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    ended = run_all(
        [
            (
                "sim_hardware.stmsim",
                "--state",
                str(tmp_path / f"state-{name}"),
                "--sample",
                f"recorded:{tmp_path / name}",
            )
            for name in files
        ]
    )
    for name, end in zip(files, ended, strict=True):
        assert end.status in (1, 2)
        assert str(tmp_path / name) in end.errors
        assert "Traceback" not in end.errors
        assert len(end.errors.strip().splitlines()) == 1
    assert "expected 2916000 bytes" in ended[0].errors


def test_a_second_owner_is_refused_and_the_first_keeps_the_tip(gate: Gateway) -> None:
    """Another owner, and one with a made-up epoch, are told who owns the tip; the first one's lease and tip
    stay."""
    epoch = gate.acquire()
    gate.engage("bad/engage/a1")
    with pytest.raises(RefusedError, match="owned by test"):
        gate.ask(AcquireLease(owner="another"))
    with pytest.raises(StaleEpochError, match=f"the present one is {epoch}"):
        gate.ask(RenewLease(epoch=epoch + 1))
    with pytest.raises(StaleEpochError):
        gate.submit("bad/move/a1", Move(x_m=1e-9, y_m=0.0), epoch=epoch - 1)
    gate.renew()
    gate.submit("bad/move/a2", Move(x_m=1e-9, y_m=0.0))
    assert gate.final("bad/move/a2").state == "finished"
    status = await_that("the guard", gate.guard)
    assert (status.epoch, status.owner, status.park) == (epoch, "test", "engaged")
