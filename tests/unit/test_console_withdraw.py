"""``stmctl withdraw``: the emergency that must work when everything else is broken."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.console.withdraw import main
from protocols.files.state_directory import publish_endpoints
from protocols.links.server import CommandServer
from protocols.messages.control import Stop, StopAnswer

DEADLINE_S = 20.0


@contextmanager
def guard_at(state: Path, answer: StopAnswer) -> Iterator[list[Stop]]:
    """A guard's stop socket."""
    heard: list[Stop] = []
    ready, stop = threading.Event(), threading.Event()

    def serve() -> None:
        with CommandServer("tcp://127.0.0.1:0", "stmgate") as server:
            publish_endpoints(state, "gateway", safety=server.endpoint)
            ready.set()
            while not stop.is_set():
                for request in server.poll(0.02):
                    if isinstance(request.message, Stop):
                        heard.append(request.message)
                    request.reply(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    try:
        yield heard
    finally:
        stop.set()
        thread.join(10)


def test_withdraw_reaches_the_guard_and_says_when_the_retraction_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guard gets a Stop with the reason; exit code 0."""
    answer = StopAnswer(withdrawn=True, detail="", took_s=0.01)
    with guard_at(tmp_path, answer) as heard:
        assert main(["--state", str(tmp_path), "withdraw", "--reason", "smoke"]) == 0
    assert [stop.reason for stop in heard] == ["smoke"]
    assert "the retraction has begun" in capsys.readouterr().out


def test_withdraw_prints_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys are stable."""
    with guard_at(tmp_path, StopAnswer(withdrawn=True, detail="x", took_s=0.01)):
        assert main(["withdraw", "--state", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"schema", "withdrawn", "detail", "took_s", "round_trip_s"}
    assert document["schema"] == "tunnelpilot/withdraw/1"


def test_a_gateway_that_could_not_withdraw_yet_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a sentence that says so."""
    with guard_at(tmp_path, StopAnswer(withdrawn=False, detail="the electronics do not answer", took_s=0.4)):
        assert main(["withdraw", "--state", str(tmp_path)]) == 1
    assert "NOT WITHDRAWN YET: the electronics do not answer." in capsys.readouterr().err


def test_no_gateway_ever_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an endpoints file there is nobody to ask: exit code 3."""
    assert main(["withdraw", "--state", str(tmp_path)]) == 3
    assert "NOT WITHDRAWN: no gateway has run" in capsys.readouterr().err


def test_a_dead_gateway_ends_with_advice(tmp_path: Path) -> None:
    """As a user would, against an endpoint where nobody listens: exit code 3, advice, no traceback."""
    with CommandServer("tcp://127.0.0.1:0", "gone") as server:
        endpoint = server.endpoint
    publish_endpoints(tmp_path, "gateway", safety=endpoint)
    found = subprocess.run(
        [sys.executable, "-m", "actors.console.stmctl", "--state", str(tmp_path), "withdraw"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert found.returncode == 3
    assert "NOT WITHDRAWN: no gateway at" in found.stderr
    assert "by hand" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_damaged_endpoints_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Garbage where the guard's endpoint should stand is no traceback."""
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "endpoints.json").write_text("{")
    assert main(["withdraw", "--state", str(tmp_path)]) == 3
    (tmp_path / "gateway" / "endpoints.json").write_text("{}")
    assert main(["withdraw", "--state", str(tmp_path)]) == 3
    assert "names no stop socket" in capsys.readouterr().err


def test_withdraw_imports_only_what_cannot_fail(tmp_path: Path) -> None:
    """Beside the standard library and our own files: zmq and msgpack."""
    code = f"""
import sys
before = set(sys.modules)
from actors.console import stmctl
try:
    stmctl.main(["--state", {str(tmp_path)!r}, "withdraw"])
except SystemExit as end:
    assert end.code == 3, end.code
tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
foreign = tops - set(sys.stdlib_module_names) - {{"actors", "protocols", "zmq", "msgpack"}}
sys.exit(", ".join(sorted(t for t in foreign if "cython" not in t)) or 0)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert found.returncode == 0, found.stderr
