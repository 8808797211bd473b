"""A run, its daemon, and simulated instruments on serial lines: it waits for the temperature and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from actors.journal.integrity import check_run
from protocols.files.state_directory import ProcessLock, read_endpoints
from protocols.links.client import CommandClient
from protocols.messages.auxiliary import AuxiliaryConnected, AuxiliaryReading
from protocols.messages.base import Message
from protocols.messages.records import RunState
from protocols.messages.serialdoor import SerialSimFault, SerialSimQuery, SerialSimSet, SerialSimStatus
from protocols.states.park import ENGAGED, PARKED
from tests.chaos.victims import left_behind
from tests.cluster.gateway_harness import await_that
from tests.cluster.test_daemon_commands import CAMPAIGN, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

AUXILIARY = """
[auxiliary.temperature]
model = "lakeshore335"
port = "simulated"
timeout = "0.3s"
period = "0.2s"
journal_period = "1s"

[auxiliary.lockin]
model = "sr830"
port = "simulated"
timeout = "0.5s"
period = "0.5s"
required = false
amplitude = "10mV"
frequency = "973Hz"
time_constant = "30ms"

[[wait_on]]
instrument = "temperature"
channel = "A"
low = "4.0K"
high = "4.6K"
hold_after = "0.3s"
resume_after = "0.5s"
"""


class Instruments:
    """The process of ``stmctl simulate serial``, and its control."""

    def __init__(self, lab: Lab) -> None:
        module = [sys.executable, "-m", "sim_hardware.serial_line.serve", "--state", str(lab.state)]
        self.process = subprocess.Popen(module, stdout=subprocess.DEVNULL)
        found = await_that("the instruments", lambda: read_endpoints(lab.state, "serial"))
        self.client = CommandClient(str(found["commands"]), "test", "simulated instruments")

    def ask(self, message: Message) -> SerialSimStatus:
        """Ask the control."""
        answer = self.client.request(message, 3.0)
        assert isinstance(answer, SerialSimStatus)
        return answer

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        assert self.process.wait(10) == 0


@pytest.fixture
def lab(tmp_path: Any) -> Iterator[Lab]:
    """A daemon; whatever is left at the end is ended."""
    made = Lab(tmp_path / "state", tmp_path)
    made.alarm.write_text("#!/bin/sh\n", encoding="utf-8")
    made.alarm.chmod(0o755)
    try:
        made.good("up")
        yield made
        made.stmctl("down")
        assert not ProcessLock(made.state, "auxiliary").held_by_somebody()
    finally:
        for number in left_behind(made.state):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended in between


def test_a_run_waits_for_the_temperature_and_goes_on_by_itself(lab: Lab) -> None:
    """Held and withdrawn while it is too warm or the instrument is silent, measuring again when it is back;
    readings, settings and reasons are in the journal, in ``status``, ``show`` and the export."""
    instruments = Instruments(lab)
    try:
        path = lab.folder / "cold.toml"
        path.write_text(CAMPAIGN.format(alarm=lab.alarm, limits="") + AUXILIARY, encoding="utf-8")
        instruments.ask(SerialSimSet(instrument="temperature", quantity="A", value=5.2))
        lab.good("run", str(path), "--detach")
        current = lab.await_state("waiting").current
        assert current is not None
        lab.run = current.run
        assert "temperature A is 5.2" in current.reason
        assert "outside 4 K to 4.6 K" in current.reason
        assert lab.spectra() == 0  # too warm from the beginning: nothing was engaged

        instruments.ask(SerialSimSet(instrument="temperature", quantity="A", value=4.3))
        lab.await_state("running")
        lab.await_spectra(2)

        instruments.ask(SerialSimSet(instrument="temperature", quantity="A", value=6.0))
        lab.await_state("waiting")
        lab.await_status("the tip withdrawn", lambda s: s.guard is not None and s.guard.park == PARKED)
        measured = lab.spectra()

        instruments.ask(SerialSimSet(instrument="temperature", quantity="A", value=4.2))
        found = lab.await_status(
            "the tip back", lambda s: s.guard is not None and s.guard.park == ENGAGED and s.lease == "held"
        )
        assert found.current is not None
        assert found.current.spectra_total == measured
        lab.await_spectra(1)

        instruments.ask(SerialSimFault(instrument="temperature", kind="silent", count=4))
        found = lab.await_state("waiting")
        assert found.current is not None
        assert "temperature gives no reading" in found.current.reason
        assert "no answer (command" in found.current.reason
        health = {h.name: h for h in found.auxiliary}
        assert health["temperature"].failures > 0
        assert health["lockin"].connected is not None
        assert health["lockin"].connected.settings == {
            "amplitude": 0.01,
            "frequency": 973.0,
            "time_constant": 0.03,
        }
        lab.await_state("running")
        lab.await_spectra(1)
        assert instruments.ask(SerialSimQuery()).instruments[0].commands > 20
        lab.good("abort")
    finally:
        instruments.close()

    assert not check_run(lab.journal).problems
    states = [r.body.state for r in lab.records(RunState) if isinstance(r.body, RunState)]
    assert states.count("waiting") >= 3
    readings = [r.body for r in lab.records(AuxiliaryReading) if isinstance(r.body, AuxiliaryReading)]
    warm = [v.value for r in readings for v in r.values if v.quantity == "A"]
    assert all(min(abs(v - t) for t in (4.2, 4.3, 5.2, 6.0)) < 0.3 for v in warm)
    assert {r.instrument for r in readings} == {"temperature", "lockin"}
    assert len(lab.records(AuxiliaryConnected)) >= 2
    shown = lab.good("show", "last", "--json").document
    assert [a["instrument"] for a in shown["auxiliary"]] == ["lockin", "temperature"]
    assert shown["auxiliary"][1]["quantities"][0]["maximum"] > 5.5
    assert shown["waited_s"] > 0.5
    lab.good("export", "last", "--to", str(lab.folder / "out"))
    rows = (lab.folder / "out" / "auxiliary.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "wall_s,instrument,quantity,value,unit,note"
    assert len(rows) > len(readings)
