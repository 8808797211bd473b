"""What people and programs see of the auxiliary instruments: status, show, export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from console_world import answering, fake_daemon, make_run, progress, status

from actors.console.app import app
from actors.journal.auxiliary import auxiliary_data, waited_s
from actors.journal.reader import JournalReader
from actors.journal.store import RunStore
from protocols.messages.auxiliary import (
    AuxiliaryConnected,
    AuxiliaryHealth,
    AuxiliaryReading,
    AuxiliaryValue,
)
from protocols.messages.daemon import DaemonQuery
from protocols.messages.records import Record, RunState, StoredRecord

CONNECTED = AuxiliaryConnected(
    instrument="temperature",
    model="lakeshore335",
    identity="LSCI,MODEL335,1/1,1.0",
    port="/dev/ttyUSB0",
    settings={},
    wall_s=1.7e9,
)


def reading(a_k: float, b_k: float, wall_s: float, note: str = "") -> AuxiliaryReading:
    """Two temperatures."""
    values = tuple(AuxiliaryValue(quantity=q, value=v, unit="K") for q, v in (("A", a_k), ("B", b_k)))
    return AuxiliaryReading(instrument="temperature", wall_s=wall_s, values=values, note=note)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a run that had a thermometer."""
    made = tmp_path_factory.mktemp("state")
    store = RunStore(make_run(made) / "journal.db")
    bodies = [
        CONNECTED,
        *(reading(4.2 + 0.1 * k, 5.0, 1.7e9 + k) for k in range(3)),
        reading(4.1, 5.0, 1.7e9 + 9),
    ]
    store.commit([Record(key=f"aux:{k}", actor="auxiliary", body=body) for k, body in enumerate(bodies)])
    store.close()
    return made


def test_show_has_the_figures_of_every_channel(state: Path) -> None:
    """Count, last, smallest, largest, mean, in SI units; who the instrument was."""
    result = CliRunner().invoke(app, ["--state", str(state), "show", "last", "--json"])
    (found,) = json.loads(result.stdout)["auxiliary"]
    assert (found["instrument"], found["model"], found["port"]) == (
        "temperature",
        "lakeshore335",
        "/dev/ttyUSB0",
    )
    assert (found["connections"], found["readings"], found["last_wall_s"]) == (1, 4, 1.7e9 + 9)
    a, b = found["quantities"]
    assert (a["quantity"], a["unit"], a["readings"], a["last"]) == ("A", "K", 4, 4.1)
    assert (a["minimum"], a["maximum"]) == (4.1, pytest.approx(4.4, rel=1e-12))
    assert a["mean"] == pytest.approx(4.25, rel=1e-12)
    assert b["minimum"] == b["maximum"] == 5.0
    text = CliRunner().invoke(app, ["--state", str(state), "show", "last"]).stdout
    assert "Auxiliary instruments" in text
    assert "4.25 K" in text


def test_every_reading_is_in_the_export(state: Path, tmp_path: Path) -> None:
    """One value in a row, with its unit; not a second time among the events."""
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, ["--state", str(state), "export", "last", "--to", str(folder)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((folder / "auxiliary.csv").open()))
    assert len(rows) == 8
    assert rows[0] == {
        "wall_s": "1700000000.0", "instrument": "temperature", "quantity": "A", "value": "4.2", "unit": "K",
        "note": "",
    }  # fmt: skip
    events = (folder / "events.csv").read_text()
    assert "AuxiliaryConnected" in events
    assert "AuxiliaryReading" not in events
    assert "auxiliary.csv" in (folder / "README.txt").read_text()


def test_a_run_without_instruments_has_none(tmp_path: Path) -> None:
    """Empty, not missing."""
    directory = make_run(tmp_path)
    with JournalReader(directory) as reader:
        assert auxiliary_data(reader) == ()
    found = json.loads(CliRunner().invoke(app, ["--state", str(tmp_path), "show", "last", "--json"]).stdout)
    assert (found["auxiliary"], found["waited_s"]) == ([], 0.0)


def test_the_time_that_a_run_has_waited_is_added_up() -> None:
    """From "waiting" to whatever comes next; said again within a wait it counts once."""
    states = [("running", 0.0), ("waiting", 10.0), ("waiting", 12.0), ("engaging", 15.0), ("waiting", 20.0)]
    records = [
        StoredRecord(seq=k, key=str(k), actor="d", wall_s=at, body=RunState(state=s, reason=""))
        for k, (s, at) in enumerate(states)
    ]
    assert waited_s(records) == 5.0
    held = StoredRecord(seq=9, key="9", actor="d", wall_s=27.0, body=RunState(state="held", reason=""))
    assert waited_s([*records, held]) == 12.0


def test_status_shows_the_instruments_and_why_one_is_silent(tmp_path: Path) -> None:
    """Reading, port, counts; a run that waits needs no person, and says for what it waits."""
    waiting = progress("waiting", "waits: temperature A is 5.25 K, outside 4 K to 4.6 K")
    instruments = (
        AuxiliaryHealth(
            name="temperature",
            model="lakeshore335",
            state="answers",
            port="/dev/ttyUSB0",
            connected=CONNECTED,
            last=reading(5.25, 5.0, 1.7e9), readings=77, failures=2,
        ),
        AuxiliaryHealth(name="lockin", model="sr830", state="silent", reason="no answer (SNAP? 1,2)"),
    )  # fmt: skip
    answer = msgspec.structs.replace(status(waiting), auxiliary=instruments)
    with fake_daemon(tmp_path, answering({DaemonQuery: answer})):
        runner = CliRunner(env={"COLUMNS": "250"})
        people = runner.invoke(app, ["--state", str(tmp_path), "status"])
        programs = runner.invoke(app, ["--state", str(tmp_path), "status", "--json"])
    assert people.exit_code == 0
    for words in (
        "temperature A is 5.25 K, outside",
        "/dev/ttyUSB0",
        "A 5.25 K",
        "77 read, 2 failed",
        "no answer",
    ):
        assert words in people.stdout
    found = json.loads(programs.stdout)
    assert found["needs_person"] is False
    assert found["current"]["state"] == "waiting"
    assert [a["state"] for a in found["auxiliary"]] == ["answers", "silent"]
    assert found["auxiliary"][0]["last"]["values"][0] == {"quantity": "A", "value": 5.25, "unit": "K"}
