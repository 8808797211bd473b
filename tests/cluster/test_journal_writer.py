"""The journal writer as a process: killed, replaced, refused, full; what was acknowledged stays."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from actors.journal.client import JournalClient
from actors.journal.integrity import check_run
from actors.journal.reader import JournalReader
from protocols.errors import ConfigError, DeadlineError, DiskFullError, UsageError
from protocols.files.state_directory import publish_endpoints, read_endpoints
from protocols.links.client import CommandClient
from protocols.messages.control import GuardQuery
from protocols.messages.records import (
    CommitRecords,
    Fault,
    OperatorAction,
    Record,
    RunState,
)

START_S = 30.0


def note(key: str, size: int = 200) -> Record:
    """A record of about so many bytes."""
    return Record(key=key, actor="t", body=OperatorAction(command="x" * size, arguments={}, outcome=""))


class WriterProcess:
    """Starts, kills and replaces writers of one state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0

    def start(self, *options: str) -> int:
        """Start one and wait until it has published where it listens; its pid."""
        command = [sys.executable, "-m", "actors.journal.writer", "--state", str(self.state), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        pid = self.process.pid
        self.started += 1
        wait_until(lambda: published(self.state) == pid or self.process_ended())
        assert not self.process_ended(), self.process.communicate()[1]
        return pid

    def process_ended(self) -> bool:
        """Whether it is gone."""
        return self.process is not None and self.process.poll() is not None

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        return self.process.returncode


def published(state: Path) -> int:
    """Pid in the published endpoints, 0 if there are none."""
    try:
        return int(read_endpoints(state, "journal")["pid"])
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, nobody is published
        return 0


def wait_until(condition: Callable[[], bool], deadline_s: float = START_S) -> None:
    """Wait for a condition of another process."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[WriterProcess]:
    """A writer's state directory; whatever runs is ended."""
    made = WriterProcess(tmp_path)
    yield made
    if made.process is not None and not made.process_ended():
        made.end()


def test_commits_come_back_and_repeat_themselves(writer: WriterProcess) -> None:
    """Numbers come in order; the same records again get the same numbers; another content is refused."""
    writer.start()

    async def session() -> None:
        client = JournalClient(writer.state, "test")
        assert await client.commit("r1", [note("a"), note("b")]) == (1, 2)
        assert await client.commit("r1", [note("b"), note("c")]) == (2, 3)
        assert await client.commit("r2", [note("a")]) == (1,)
        with pytest.raises(UsageError, match="another content"):
            await client.commit("r1", [note("d"), note("a", 201)])
        with pytest.raises(UsageError, match="no run name"):
            await client.commit("../r1", [note("a")])
        await client.close()
        assert await client.commit("r1", [note("d")]) == (4,)
        await client.close()

    asyncio.run(session())
    assert writer.end(signal.SIGTERM) == 0
    names = sorted(p.name for p in (writer.state / "runs" / "r1").iterdir())
    assert names == ["journal.db"]
    assert check_file(writer.state, "r1") == ["a", "b", "c", "d"]


def check_file(state: Path, run: str) -> list[str]:
    """Keys of a journal in order."""
    with JournalReader(state / "runs" / run) as reader:
        return [r.key for r in reader.records()]


def test_killed_at_random_moments_it_loses_nothing_acknowledged(writer: WriterProcess) -> None:
    """SIGKILL while clients commit: every acknowledged record is there once, with the number given."""
    chance = random.Random(3)
    kills = 6
    progress = asyncio.Event()

    async def committing(client: JournalClient, name: str, said: dict[str, int], stop: asyncio.Event) -> None:
        k = 0
        while not stop.is_set():
            keys = [f"{name}-{k}-{part}" for part in range(chance.randint(1, 3))]
            seqs = await client.commit(
                "r", [note(key, chance.choice((100, 16_000, 300_000))) for key in keys]
            )
            said.update(zip(keys, seqs, strict=True))
            progress.set()
            k += 1

    async def session() -> dict[str, int]:
        said: dict[str, int] = {}
        stop = asyncio.Event()

        async def beyond(count: int) -> None:
            while len(said) < count:
                progress.clear()
                await progress.wait()

        clients = [JournalClient(writer.state, f"client {k}", deadline_s=60.0) for k in range(3)]
        tasks = [asyncio.create_task(committing(c, f"c{k}", said, stop)) for k, c in enumerate(clients)]
        for _ in range(kills):
            await beyond(len(said) + chance.randint(3, 12))
            await asyncio.to_thread(writer.end)
            await asyncio.to_thread(writer.start)
        await beyond(len(said) + 5)
        stop.set()
        await asyncio.gather(*tasks)
        assert sum(c.retries for c in clients) > 0
        for client in clients:
            await client.close()
        return said

    writer.start()
    endpoint = read_endpoints(writer.state, "journal")["commands"]
    said = asyncio.run(session())
    assert read_endpoints(writer.state, "journal")["commands"] == endpoint
    writer.end()
    with JournalReader(writer.state / "runs" / "r") as reader:
        found = {r.key: r.seq for r in reader.records()}
        assert len(found) == reader.count()
    assert said.items() <= found.items()
    assert set(found) == set(said)
    problems = check_run(writer.state / "runs" / "r").problems
    assert [p for p in problems if "RunStarted" not in p] == []


def test_reader_after_a_kill_sees_what_was_acknowledged(writer: WriterProcess) -> None:
    """A reader opened after SIGKILL, with no writer alive, sees every acknowledged record."""
    writer.start()

    async def session() -> None:
        client = JournalClient(writer.state, "test")
        for k in range(20):
            await client.commit("r", [note(f"k{k}")])
        await client.close()

    asyncio.run(session())
    writer.end()
    assert check_file(writer.state, "r") == [f"k{k}" for k in range(20)]
    log = writer.state / "runs" / "r" / "journal.db-wal"
    assert log.stat().st_size > 0


def test_second_writer_is_told_who_runs(writer: WriterProcess) -> None:
    """A second writer with the same directory ends at once with the pid of the first and what to do."""
    pid = writer.start()
    second = subprocess.run(
        [sys.executable, "-m", "actors.journal.writer", "--state", str(writer.state)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"pid {pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert published(writer.state) == pid


def test_port_taken_by_somebody_else_is_no_obstacle(writer: WriterProcess) -> None:
    """If the old port is taken meanwhile, the new writer listens elsewhere and clients follow it."""
    writer.start()
    endpoint = read_endpoints(writer.state, "journal")["commands"]

    async def session() -> None:
        client = JournalClient(writer.state, "test")
        await client.commit("r", [note("a")])
        writer.end()
        squatter = zmq.Context.instance().socket(zmq.ROUTER)
        try:
            squatter.bind(endpoint)
            await asyncio.to_thread(writer.start)
            assert await client.commit("r", [note("b")]) == (2,)
        finally:
            squatter.close(linger=0)
            await client.close()

    asyncio.run(session())
    assert read_endpoints(writer.state, "journal")["commands"] != endpoint


def test_no_writer_is_a_deadline_that_says_what_to_do(tmp_path: Path) -> None:
    """Without a writer, or with a dead one, the client gives up at its deadline and names the records."""

    async def session() -> None:
        client = JournalClient(tmp_path, "acquirer", deadline_s=0.3)
        with pytest.raises(DeadlineError, match=r"acquirer waited 0\.3 s.*k1") as nobody:
            await client.commit("r", [note("k1")])
        assert "safe to commit again" in nobody.value.advice
        publish_endpoints(tmp_path, "journal", commands="tcp://127.0.0.1:9")
        with pytest.raises(DeadlineError):
            await client.commit("r", [note("k1")])
        await client.close()
        (tmp_path / "journal" / "endpoints.json").write_text("{")
        with pytest.raises(ConfigError, match="damaged"):
            await client.commit("r", [note("k1")])

    asyncio.run(session())


def test_full_disk_is_refused_and_the_writer_lives_on(writer: WriterProcess) -> None:
    """Within the reserve only endings are written; the refusal travels as DiskFullError and is logged."""
    writer.start("--reserve-bytes", str(2**60))

    async def session() -> None:
        client = JournalClient(writer.state, "test")
        for _ in range(2):
            with pytest.raises(DiskFullError, match="no room"):
                await client.commit("r", [note("a")])
        ending = [
            Record(key="s", actor="t", body=RunState(state="held", reason="disk full")),
            Record(key="f", actor="t", body=Fault(actor="journal", what="disk full", action="held")),
        ]
        assert await client.commit("r", ending) == (1, 2)
        await client.close()

    asyncio.run(session())
    assert not writer.process_ended()
    lines = [json.loads(x) for x in (writer.state / "journal" / "writer.log").read_text().splitlines()]
    assert [x["event"] for x in lines].count("disk full") == 1
    assert writer.end(signal.SIGTERM) == 0
    assert check_file(writer.state, "r") == ["s", "f"]


def test_other_messages_are_refused(writer: WriterProcess) -> None:
    """A message that is not for the writer is refused by name, and the next commit goes through."""
    writer.start()
    endpoint = str(read_endpoints(writer.state, "journal")["commands"])
    with CommandClient(endpoint, "test", "journal writer") as client:
        with pytest.raises(UsageError, match="GuardQuery"):
            client.request(GuardQuery(), 5.0)
        assert client.request(CommitRecords(run="r", records=(note("a"),)), 5.0).seqs == (1,)  # type: ignore[attr-defined]


def test_many_commits_at_once_share_one_client(writer: WriterProcess) -> None:
    """Two hundred commits under way at once are all answered, each with its own number."""
    writer.start()

    async def session() -> list[tuple[int, ...]]:
        client = JournalClient(writer.state, "test")
        done = await asyncio.gather(*(client.commit("r", [note(f"k{k}")]) for k in range(200)))
        await client.close()
        return list(done)

    assert sorted(asyncio.run(session())) == [(k,) for k in range(1, 201)]
