"""Simulated instruments on pseudo-terminals: for our drivers, for any program, for a person."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial
from click.testing import CliRunner
from pymeasure.adapters import SerialAdapter
from pymeasure.instruments.lakeshore import LakeShore3xx
from pymeasure.instruments.srs import SR830

from actors.gateway.auxiliary_process import AuxiliaryReader, open_serial
from actors.gateway.drivers.serial.adapter import GarbledError, PortLostError, SilenceError
from actors.gateway.drivers.serial.instruments import open_instrument
from actors.runtime.auxiliary import auxiliary_process
from protocols.errors import ConfigError, TunnelpilotError, UnknownMessageError
from protocols.files.state_directory import ProcessLock, publish_endpoints, read_endpoints
from protocols.instrument.auxiliary import LATEST_ANSWER, AuxiliaryInstrument
from protocols.links.client import CommandClient
from protocols.messages.auxiliary import AuxiliaryNews, AuxiliaryQuery, AuxiliaryReading, SetUpAuxiliary
from protocols.messages.campaign import AuxiliarySection
from protocols.messages.control import Ping
from protocols.messages.serialdoor import SerialSimFault, SerialSimQuery, SerialSimSet, SerialSimStatus
from sim_hardware.serial_line.ports import SerialRack
from sim_hardware.serial_line.serve import answer, make_rack, serial_command
from tests.cluster.gateway_harness import await_that

THERMOMETER = AuxiliarySection(
    name="temperature", model="lakeshore335", port="simulated", timeout_s=0.2, period_s=0.1, inputs=("A", "B")
)
LOCKIN = AuxiliarySection(
    name="lockin", model="sr830", port="simulated", timeout_s=0.3, period_s=0.1, amplitude_v=0.01
)


@contextlib.contextmanager
def served(rack: SerialRack) -> Iterator[SerialRack]:
    """Served from a thread, until the end."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            rack.serve_once(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield rack
    finally:
        ended.set()
        thread.join()
        rack.close()


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[SerialRack]:
    """A thermometer and a lock-in, as published by their process."""
    made = make_rack(["temperature=lakeshore335", "lockin=sr830"], paced=False)
    publish_endpoints(tmp_path, "serial", ports={name: port.path for name, port in made.ports.items()})
    with served(made):
        yield made


def test_readings_over_a_pseudo_terminal(rack: SerialRack, tmp_path: Path) -> None:
    """Found by name, opened with the manual's settings, identified, set, read."""
    thermometer = open_instrument(THERMOMETER, tmp_path)
    lockin = open_instrument(LOCKIN, tmp_path)
    try:
        kelvin = [v.value for v in thermometer.read().values]
        assert np.allclose(kelvin, 4.3, rtol=1e-3, atol=0)
        found = {v.quantity: v.value for v in lockin.read().values}
        assert found["amplitude"] == 0.01
        assert lockin.settings == {"amplitude": 0.01}
    finally:
        thermometer.close()
        lockin.close()


def test_plain_pymeasure_drives_them_too(rack: SerialRack) -> None:
    """The command sets are real enough for the library's own drivers and adapter, setters included."""
    with contextlib.closing(serial.Serial(rack.ports["lockin"].path, 9600, timeout=2)) as port:
        lockin = SR830(SerialAdapter(port, read_termination="\r", write_termination="\r"))
        lockin.sine_voltage, lockin.frequency, lockin.time_constant = 0.02, 777.0, 0.01
        lockin.sensitivity, lockin.phase, lockin.harmonic, lockin.filter_slope = 0.1, 30.0, 1, 24
        assert (lockin.sine_voltage, lockin.frequency, lockin.time_constant) == (0.02, 777.0, 0.01)
        assert (lockin.sensitivity, lockin.phase, lockin.harmonic, lockin.filter_slope) == (0.1, 30.0, 1, 24)
        assert lockin.reference_source == "Internal"
        assert lockin.input_config == "A"
        assert int(lockin.lia_status) == 0
        assert len(lockin.xy) == 2
        assert all(
            isinstance(v, float) for v in (lockin.x, lockin.y, lockin.magnitude, lockin.theta, lockin.adc1)
        )
        assert lockin.get_scaling("X") == (0.0, 1)
    with contextlib.closing(serial.Serial(rack.ports["temperature"].path, 57600, timeout=2)) as port:
        controller = LakeShore3xx(SerialAdapter(port, read_termination="\r\n", write_termination="\n"))
        controller.output_1.setpoint = 10.0
        controller.output_1.range = "medium"
        assert (controller.output_1.setpoint, controller.output_1.range) == (10.0, "medium")
        assert controller.input_A.kelvin > 4.0
        assert controller.input_B.celsius < -260.0
        assert controller.input_A.sensor > 1.0
        assert controller.output_1.output >= 0.0
        controller.output_1.mout = 12.5
        assert controller.output_1.mout == 12.5


def test_a_port_belongs_to_one(rack: SerialRack, tmp_path: Path) -> None:
    """A second opener is told so, and has the port when the first lets go of it."""
    first = open_instrument(THERMOMETER, tmp_path)
    try:
        with pytest.raises(PortLostError, match="Could not exclusively lock port"):
            open_instrument(THERMOMETER, tmp_path)
    finally:
        first.close()
    open_instrument(THERMOMETER, tmp_path).close()


def test_late_and_missing_answers_over_a_pseudo_terminal(rack: SerialRack, tmp_path: Path) -> None:
    """The same as in virtual time, through the kernel: errors, then right readings."""
    thermometer = open_instrument(THERMOMETER, tmp_path)
    try:
        for kind, seconds in (("silent", 0.0), ("late", 0.3), ("cut", 0.0)):
            rack.ports["temperature"].line.faults.plan(kind, 1, seconds)
            with pytest.raises(SilenceError):
                thermometer.read()
            assert abs(read_when_nothing_is_owed(thermometer).values[0].value - 4.3) < 0.01
    finally:
        thermometer.close()


def read_when_nothing_is_owed(instrument: AuxiliaryInstrument) -> AuxiliaryReading:
    """The first reading after an error; each try that is refused drains the line for a time-out."""
    for _ in range(LATEST_ANSWER):
        try:
            return instrument.read()
        except GarbledError as refused:
            assert "because an answer may still come" in str(refused)
    return instrument.read()


def test_an_instrument_that_is_unplugged_is_lost(tmp_path: Path) -> None:
    """And another kind on its port is a mistake in the campaign."""
    made = make_rack(["temperature=sr830"], paced=False)
    publish_endpoints(tmp_path, "serial", ports={"temperature": made.ports["temperature"].path})
    with served(made), pytest.raises((ConfigError, SilenceError)):
        open_instrument(THERMOMETER, tmp_path)
    made = make_rack(["temperature=lakeshore335"], paced=False)
    publish_endpoints(tmp_path, "serial", ports={"temperature": made.ports["temperature"].path})
    with served(made):
        thermometer = open_instrument(THERMOMETER, tmp_path)
    with pytest.raises(PortLostError):
        thermometer.read()
    thermometer.close()


def test_the_control_changes_the_world(rack: SerialRack) -> None:
    """Temperature, faults, and what is true; what is not there is refused by name."""
    found = answer(rack, SerialSimSet(instrument="temperature", quantity="A", value=7.5))
    assert isinstance(found, SerialSimStatus)
    assert found.instruments[0].truth["A"] == 7.5
    answer(rack, SerialSimFault(instrument="lockin", kind="silent", count=3))
    assert len(rack.ports["lockin"].line.faults.planned) == 3
    for wrong in (
        SerialSimSet(instrument="nobody", quantity="A", value=1.0),
        SerialSimSet(instrument="lockin", quantity="A", value=1.0),
        SerialSimFault(instrument="temperature", kind="silent", count=0),
    ):
        with pytest.raises(ConfigError):
            answer(rack, wrong)
    with pytest.raises(UnknownMessageError):
        answer(rack, Ping())


@pytest.mark.parametrize("names", [["a"], ["a=sr830", "a=sr830"], ["a=keithley"], ["=sr830"]])
def test_instruments_have_names_and_known_models(names: list[str]) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError):
        make_rack(names)


def typed(path: str, text: bytes, until: bytes) -> bytes:
    """What a person sees who types into the terminal; like ``cat`` and ``echo``, without any settings."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(descriptor, text)
        got, deadline = b"", time.monotonic() + 10.0
        while until not in got and time.monotonic() < deadline:
            if select.select([descriptor], [], [], 0.1)[0]:
                got += os.read(descriptor, 1000)
        return got
    finally:
        os.close(descriptor)


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """``stmctl simulate serial`` in a process: ports on standard output and in the state directory, a
    control, answers for a person, and nothing left behind."""
    module = [sys.executable, "-m", "sim_hardware.serial_line.serve", "--state", str(tmp_path)]
    options = [
        "--temperature",
        "4.5K",
        "--faults",
        "temperature:silent",
        "--instrument",
        "temperature=lakeshore336",
    ]
    process = subprocess.Popen([*module, *options], stdout=subprocess.PIPE, text=True)
    try:
        found = await_that("the instruments", lambda: read_endpoints(tmp_path, "serial"))
        path = found["ports"]["temperature"]
        with CommandClient(str(found["commands"]), "test", "instruments") as client:
            status: Any = client.request(SerialSimQuery(), 3.0)
            assert (status.pid, status.instruments[0].model) == (process.pid, "lakeshore336")
            assert status.instruments[0].truth["C"] == 4.5
            with pytest.raises(TunnelpilotError, match="there is no instrument 'nobody'"):
                client.request(SerialSimFault(instrument="nobody", kind="cut"), 3.0)
        identity = b"LSCI,MODEL336,3350137/0000000,1.6\r\n"
        # The first answer is the planned fault.
        assert typed(path, b"KRDG? A\n*IDN?\n", b"1.6\r\n") == identity
        assert abs(float(typed(path, b"krdg? a\r\n", b"\r\n")) - 4.5) < 0.01
        second = subprocess.run(module, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode != 0
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stdout is not None
        assert f"temperature: Lake Shore 336 at {path} (57600 baud, 7O1)" in process.stdout.read()
        assert not ProcessLock(tmp_path, "serial").held_by_somebody()
        assert not (tmp_path / "serial" / "endpoints.json").exists()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_the_command_explains_itself() -> None:
    """Models and faults stand in its help."""
    text = CliRunner().invoke(serial_command, ["--help"]).output
    for word in ("lakeshore336", "sr830", "--faults", "late", "NAME=MODEL"):
        assert word in text


# ---- the process that reads them ----


def test_a_reader_reads_what_it_is_told_and_nothing_else(rack: SerialRack, tmp_path: Path) -> None:
    """Said again it changes nothing; what is no longer wanted lets go of its port."""
    reader = AuxiliaryReader(lambda section: open_serial(tmp_path, section))
    try:
        reader.answer(SetUpAuxiliary(instruments=(THERMOMETER, LOCKIN)))

        def both() -> bool:
            names = {r.reading.instrument for r in reader.ring.after(0, 1000)}
            return names == {"temperature", "lockin"}

        await_that("readings of both", both)
        threads = list(reader._threads)
        reader.answer(SetUpAuxiliary(instruments=(THERMOMETER, LOCKIN)))
        assert reader._threads == threads
        reader.answer(SetUpAuxiliary(instruments=(THERMOMETER,)))
        assert [t.poller.section.name for t in reader._threads] == ["temperature"]
        open_instrument(LOCKIN, tmp_path).close()
        with pytest.raises(UnknownMessageError):
            reader.answer(Ping())
    finally:
        reader.close()
    open_instrument(THERMOMETER, tmp_path).close()


def test_the_process_survives_its_instruments_and_frees_their_ports_when_killed(
    rack: SerialRack, tmp_path: Path
) -> None:
    """Readings come through its socket; after SIGKILL the next one has the port at once; SIGTERM ends it."""
    import asyncio

    companion = auxiliary_process(tmp_path)

    def readings(pid: int = 0) -> AuxiliaryNews | None:
        found = read_endpoints(tmp_path, "auxiliary")
        with CommandClient(str(found["commands"]), "test", "auxiliary") as client:
            client.request(SetUpAuxiliary(instruments=(THERMOMETER,)), 5.0)
            news: Any = client.request(AuxiliaryQuery(), 3.0)
        return news if news.readings and news.pid != pid else None

    try:
        asyncio.run(companion.ensure())
        first = await_that("readings", readings)
        assert first.instruments[0].state == "answers"
        assert all(abs(v.value - 4.3) < 0.01 for r in first.readings for v in r.reading.values)
        os.kill(first.pid, signal.SIGKILL)
        await_that("its end", lambda: not companion.runs)
        asyncio.run(companion.ensure())
        second = await_that("readings of the next", lambda: readings(first.pid))
        assert second.instruments[0].connections == 1
    finally:
        asyncio.run(companion.stop())
    assert not companion.runs
    open_instrument(THERMOMETER, tmp_path).close()
