"""Simulated SR830 and Lake Shore: command sets as in the manuals, and the physics behind them."""

from __future__ import annotations

import cmath
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from protocols.errors import ConfigError
from protocols.instrument.auxiliary import MODELS, SR830_TIME_CONSTANTS_S
from sim_hardware.serial_line.device import COMMAND_ERROR, EXECUTION_ERROR, Device
from sim_hardware.serial_line.faults import KINDS, LineFaults, parse_faults
from sim_hardware.serial_line.lakeshore import POWER_W, Cryostat, SimulatedLakeShore
from sim_hardware.serial_line.line import MOST_WAITING, Line
from sim_hardware.serial_line.sr830 import SENSITIVITIES_V, Sample, SimulatedSR830, filter_step


def ask(device: Device, command: str, now_s: float = 0.0) -> str:
    """One command's answers in one text."""
    return "|".join(device.obey(command, now_s))


def events(device: Device) -> int:
    """The standard event register, cleared by reading."""
    return int(ask(device, "*ESR?"))


# ---- SR830 ----


def test_identities_are_those_that_the_driver_expects() -> None:
    """The pattern of each model fits its simulated counterpart and no other."""
    devices = {
        "sr830": SimulatedSR830(),
        "lakeshore335": SimulatedLakeShore(335),
        "lakeshore336": SimulatedLakeShore(336),
    }
    assert set(devices) == set(MODELS)
    for name, device in devices.items():
        fits = [m for m, model in MODELS.items() if model.identity.fullmatch(ask(device, "*IDN?").strip())]
        assert fits == [name]
        assert device.terminator == MODELS[name].read_termination
        assert MODELS[name].write_termination.encode() in {
            device.ends[k : k + 1] for k in range(len(device.ends))
        }


@pytest.mark.parametrize(
    ("command", "question", "answer"),
    [
        ("SLVL 0.1", "SLVL?", "0.100"),
        ("SLVL0.0111", "SLVL?", "0.012"),  # steps of 2 mV
        ("slvl 5", "slvl ?", "5.000"),
        ("FREQ 9.73000e+02", "FREQ?", "973"),
        ("FREQ 12345.678", "FREQ?", "12346"),  # five digits
        ("FREQ 0.00123", "FREQ?", "0.0012"),  # or 0.1 mHz
        ("PHAS 541", "PHAS?", "-179.00"),
        ("HARM 3", "HARM?", "3"),
        ("OFLT 7", "OFLT?", "7"),
        ("OFSL 3", "OFSL?", "3"),
        ("SENS 12", "SENS?", "12"),
        ("ISRC 1;ICPL 1;RMOD 0", "ISRC?;ICPL?;RMOD?", "1|1|0"),
        ("DDEF1,1,0", "DDEF?1", "1,0"),
        ("OEXP 1,10.5,1", "OEXP?1", "10.50,1"),
        ("AUXV2,1.5", "AUXV?2", "1.500"),
        ("*RST;SLVL?", "FREQ?;OFLT?;SENS?;OFSL?;FMOD?", "1000|8|26|1|1"),
    ],
)
def test_what_is_set_can_be_asked_for(command: str, question: str, answer: str) -> None:
    """With the steps and rounding of the instrument; several commands in a line, each with its own answer."""
    device = SimulatedSR830()
    ask(device, command)
    assert ask(device, question) == answer


@pytest.mark.parametrize(
    ("command", "bit"),
    [
        ("SLVL 0.003", EXECUTION_ERROR),
        ("SLVL 5.1", EXECUTION_ERROR),
        ("FREQ 102001", EXECUTION_ERROR),
        ("HARM 200", EXECUTION_ERROR),  # 200 kHz
        ("OFLT 20", EXECUTION_ERROR),
        ("OFLT 14", EXECUTION_ERROR),  # 100 s at 1 kHz
        ("SENS 27", EXECUTION_ERROR),
        ("SNAP? 1", EXECUTION_ERROR),
        ("FMOD 2", EXECUTION_ERROR),
        ("BLAH", COMMAND_ERROR),
        ("SLVL x", COMMAND_ERROR),
        ("OUTP?", COMMAND_ERROR),
        ("A" * 300, COMMAND_ERROR),
    ],
)
def test_what_is_not_taken_changes_nothing_and_is_in_the_event_register(command: str, bit: int) -> None:
    """No answer; the register says whether the command or its parameter was wrong."""
    device = SimulatedSR830()
    events(device)
    before = ask(device, "SLVL?;FREQ?;HARM?;OFLT?;SENS?;FMOD?")
    assert ask(device, command) == ""
    assert events(device) == bit
    assert ask(device, "SLVL?;FREQ?;HARM?;OFLT?;SENS?;FMOD?") == before


def test_answers_go_where_outx_says() -> None:
    """1 is GPIB: then this line is silent until OUTX 0."""
    device = SimulatedSR830()
    assert ask(device, "OUTX 1;*IDN?") == ""
    assert ask(device, "OUTX 0;OUTX?") == "0"


@pytest.mark.parametrize(("frequency", "phase"), [(100.0, 0.0), (20e3, 0.0), (1000.0, 30.0)])
def test_x_and_y_are_the_sample_in_the_reference_frame(frequency: float, phase: float) -> None:
    """V gain exp(i (sample - phase)) / (1 + i 2 pi f RC) to 1e-6; double gain or a missing phase is seen."""
    sample = Sample(gain=0.05, phase_rad=-0.4, rc_s=2e-6)
    device = SimulatedSR830(sample=sample)
    ask(device, f"SLVL 0.1;FREQ {frequency};PHAS {phase};OFLT 5")
    device.now_s = 1e3
    found = complex(device.quantities()["x"], device.quantities()["y"])
    wiring = 1 / (1 + 2j * math.pi * frequency * 2e-6)
    expected = 0.1 * 0.05 * wiring * cmath.exp(1j * (-0.4 - math.radians(phase)))
    assert abs(found - expected) < 1e-6 * abs(expected)
    r, theta = (float(v) for v in ask(device, "SNAP?3,4", 1e3).split(","))
    assert np.isclose(r, abs(expected), rtol=1e-3, atol=0)
    assert np.isclose(theta, math.degrees(cmath.phase(expected)), rtol=1e-2, atol=0)


def test_auto_phase_leaves_nothing_in_y() -> None:
    """And auto gain picks the smallest range that holds the signal."""
    device = SimulatedSR830(sample=Sample(gain=0.05, phase_rad=0.7))
    ask(device, "SLVL 0.1;APHS;AGAN", 100.0)
    x, y = (float(v) for v in ask(device, "SNAP?1,2", 200.0).split(","))
    assert abs(y) < 1e-3 * abs(x)
    assert SENSITIVITIES_V[int(ask(device, "SENS?"))] == 1e-2


def test_the_second_harmonic_grows_with_the_square() -> None:
    """Twice the amplitude, four times the signal."""
    found = []
    for amplitude in (0.1, 0.2):
        device = SimulatedSR830()
        ask(device, f"HARM 2;SLVL {amplitude}")
        device.now_s = 1e3
        found.append(abs(complex(device.quantities()["x"], device.quantities()["y"])))
    assert np.isclose(found[1] / found[0], 4.0, rtol=1e-9, atol=0)


@given(tau=st.sampled_from(SR830_TIME_CONSTANTS_S), order=st.integers(1, 4), u=st.floats(0.0, 30.0))
def test_the_filter_follows_a_step_as_equal_rc_filters_in_a_row(tau: float, order: int, u: float) -> None:
    """Against the integral of u^(n-1) exp(-u) / (n-1)!, to 1e-5."""
    grid = np.linspace(0.0, u, 4001)
    density = grid ** (order - 1) * np.exp(-grid) / math.factorial(order - 1)
    expected = float(np.sum(0.5 * (density[1:] + density[:-1]) * np.diff(grid)))
    assert abs(filter_step(u * tau, tau, order) - expected) < 1e-5


def test_the_output_goes_on_from_where_it_is() -> None:
    """A change of the amplitude is seen as the filter lets it through, from the value before; the next change
    in the middle does not make it jump."""
    device = SimulatedSR830()
    ask(device, "OFLT 10;OFSL 0;SLVL 1.0", 0.0)
    device.now_s = 1000.0
    before = device.quantities()["x"]
    ask(device, "SLVL 2.0", 1000.0)
    assert np.isclose(device.quantities()["x"], before, rtol=1e-9, atol=0)
    device.now_s = 1001.0
    middle = device.quantities()["x"]
    assert np.isclose(middle / before, 2 - math.exp(-1.0), rtol=1e-9, atol=0)
    ask(device, "SLVL 1.0", 1001.0)
    assert np.isclose(device.quantities()["x"], middle, rtol=1e-9, atol=0)


def test_an_output_over_its_range_saturates_and_says_so() -> None:
    """At 109 % of the sensitivity; the bit is gone when it was read and the range is large enough."""
    device = SimulatedSR830()
    ask(device, "SENS 20;SLVL 1.0", 0.0)  # 10 mV
    assert float(ask(device, "OUTP?1", 1e3)) == pytest.approx(1.09 * SENSITIVITIES_V[20], rel=1e-6)
    assert ask(device, "LIAS?") == "4"
    ask(device, "SENS 26")
    ask(device, "LIAS?")
    assert ask(device, "LIAS?") == "0"


def test_noise_falls_with_the_root_of_the_time_constant() -> None:
    """6 nV per root Hz at the input, bandwidth 1 / (4 tau): within a tenth over 4000 readings."""
    for index in (4, 8):
        device = SimulatedSR830(seed=3, sample=Sample(gain=0.0))
        ask(device, f"OFLT {index};SENS 26")
        device.now_s = 1e6
        values = [device._output().real for _ in range(4000)]
        expected = 6e-9 / math.sqrt(4 * SR830_TIME_CONSTANTS_S[index])
        assert np.isclose(np.std(values), expected, rtol=0.1, atol=0)


# ---- Lake Shore ----


def cold(**fields: Any) -> SimulatedLakeShore:
    """A controller on a cryostat without noise."""
    return SimulatedLakeShore(335, cryostat=Cryostat(noise_k=0.0, **fields))


@pytest.mark.parametrize(
    ("command", "question", "answer"),
    [
        ("SETP 1,10.5", "SETP? 1", "+10.5000"),
        ("SETP 2, 77", "SETP? 2", "+77.0000"),
        ("RANGE 1,2", "RANGE? 1", "2"),
        ("PID 1,100,30,5", "PID? 1", "+0100.0,+0030.0,+0005.0"),
        ("RAMP 1,1,2.5", "RAMP? 1", "1,+02.50"),
        ("MOUT 1,25", "MOUT? 1", "+25.00"),
        ("OUTMODE 1,3,1,0", "OUTMODE? 1", "3,1,0"),
        ('INNAME A,"stage"', "INNAME? A", "Stage          "),
        ("TLIMIT A,320", "TLIMIT? A", "+0320.00"),
        ("", "KRDG? A;KRDG? B;RDGST? A", "+4.20000;+4.20000;000"),
        ("", "CRDG? A", "-268.950"),
        ("", "HTR? 1", "+000.0"),
        ("*ESE 32;*SRE 16", "*ESE?;*SRE?;*OPC?;*TST?", "32;16;1;0"),
        ("BRIGT 3", "BRIGT?", "3"),
    ],
)
def test_the_controller_answers_as_its_manual_says(command: str, question: str, answer: str) -> None:
    """Formats with sign and digits; queries in one line share an answer."""
    device = cold()
    ask(device, command)
    assert ask(device, question) == answer


@pytest.mark.parametrize(
    ("command", "bit"),
    [
        ("KRDG? C", EXECUTION_ERROR),
        ("SETP 1,2000", EXECUTION_ERROR),
        ("SETP 3,4", EXECUTION_ERROR),
        ("RANGE 1,4", EXECUTION_ERROR),
        ("KRDG?", COMMAND_ERROR),
        ("NONSENSE? A", COMMAND_ERROR),
        ("SETP 1", COMMAND_ERROR),
    ],
)
def test_what_the_controller_does_not_know_has_no_answer(command: str, bit: int) -> None:
    """Only the register says so; nothing changes."""
    device = cold()
    events(device)
    assert ask(device, command) == ""
    assert events(device) == bit
    assert ask(device, "SETP? 1;RANGE? 1") == "+4.20000;0"


def test_without_heater_the_stage_relaxes_to_the_bath() -> None:
    """exp(-t G / C), to 1e-6; the second sensor follows with its lag."""
    device = cold(capacity_j_k=2.0, link_w_k=0.1, bath_k=4.2)
    device._sensors.update(A=10.0, B=10.0)
    ask(device, "*OPC?;KRDG? A", 7.0)
    assert np.isclose(device._sensors["A"], 4.2 + 5.8 * math.exp(-7.0 * 0.1 / 2.0), rtol=1e-6, atol=0)
    assert device._sensors["B"] > device._sensors["A"]


def test_the_loop_brings_the_stage_to_the_setpoint() -> None:
    """With its time constant where the range has the power; the heater shows P / P_max, on the way too:
    P = C (aim - T) / loop + G (T - bath)."""
    device = cold(loop_s=3.0)
    device._sensors.update(A=9.0, B=9.0)
    ask(device, "SETP 1,10;RANGE 1,2", 0.0)
    on_the_way = float(ask(device, "HTR? 1", 1e-6))
    assert np.isclose(on_the_way, 100 * (0.5 * 1.0 / 3.0 + 0.05 * 4.8) / POWER_W[2], atol=0.06, rtol=0)
    ask(device, "RANGE 1,3", 1e-6)
    ask(device, "KRDG? A", 6.0)
    assert np.isclose(device._sensors["A"], 10.0 - math.exp(-2.0), rtol=1e-6, atol=0)
    percent = float(ask(device, "HTR? 1", 1e4))
    assert np.isclose(percent, 100 * 0.05 * (10.0 - 4.2) / POWER_W[3], atol=0.05, rtol=0)


def test_a_range_that_is_too_small_ends_below_the_setpoint() -> None:
    """At bath + P_max / G, at full power; the way there is that of scipy's integrator to 1e-4."""
    device = cold(capacity_j_k=0.5, link_w_k=0.05)
    ask(device, "SETP 1,100;RANGE 1,1", 0.0)

    def rate(_t: float, temperature: Any) -> Any:
        return (0.5 - 0.05 * (temperature - 4.2)) / 0.5

    times = [1.0, 3.0, 10.0, 40.0]
    exact = solve_ivp(rate, (0.0, 40.0), [4.2], t_eval=times, rtol=1e-10, atol=1e-12)
    for time_s, expected in zip(times, exact.y[0], strict=True):
        ask(device, "KRDG? A", time_s)
        assert np.isclose(device._sensors["A"], expected, rtol=1e-4, atol=0)
    ask(device, "KRDG? A", 1e4)
    assert np.isclose(device._sensors["A"], 4.2 + 0.5 / 0.05, rtol=1e-6, atol=0)
    assert ask(device, "HTR? 1", 1e4) == "+100.0"


def test_a_ramp_moves_the_setpoint_at_its_rate() -> None:
    """6 K per minute: after 30 s the stage is 3 K warmer, less the loop's lag; then it arrives."""
    device = cold(loop_s=0.5)
    ask(device, "RANGE 1,3;RAMP 1,1,6;SETP 1,10", 0.0)
    ask(device, "KRDG? A", 30.0)
    assert np.isclose(device._sensors["A"], 4.2 + 3.0 - 0.1 * 0.5, rtol=2e-3, atol=0)
    assert ask(device, "RAMPST? 1", 30.0) == "1"
    ask(device, "KRDG? A", 70.0)
    assert (ask(device, "RAMPST? 1", 71.0), round(device._sensors["A"], 3)) == ("0", 10.0)


def test_a_sensor_that_is_gone_reads_zero_with_a_status() -> None:
    """As the controller does: the number alone would lie."""
    device = cold()
    device.set_quantity("broken B", 1.0)
    assert ask(device, "KRDG? B;RDGST? B;RDGST? A") == "+0.00000;001;000"
    device.set_quantity("A", 5.5)
    assert ask(device, "KRDG? A", 1e3) == "+5.50000"
    for wrong in ("C", "broken X", "nothing"):
        with pytest.raises(ConfigError):
            device.set_quantity(wrong, 1.0)


def test_a_diode_falls_with_temperature() -> None:
    """Sensor units: 1.6 V at 4.2 K, 1.1 V at 30 K, 0.5 V at room temperature, falling everywhere."""
    device = cold()
    volts = []
    for kelvin in (2.0, 4.2, 10.0, 29.0, 31.0, 77.0, 295.0):
        device.set_quantity("A", kelvin)
        volts.append(float(ask(device, "SRDG? A")))
    assert all(a > b for a, b in itertools.pairwise(volts))
    assert volts[1] == pytest.approx(1.6, abs=0.05)


# ---- the line ----


@given(
    commands=st.lists(st.sampled_from(["KRDG? A", "SETP? 1", "*IDN?", "RANGE? 1"]), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 120), max_size=8),
    ending=st.sampled_from([b"\n", b"\r\n"]),
)
def test_commands_may_come_in_any_pieces(commands: list[str], cuts: list[int], ending: bytes) -> None:
    """The answers are those to whole commands, in order."""
    whole = b"".join(c.encode() + ending for c in commands)
    edges = sorted({0, len(whole), *(c % (len(whole) + 1) for c in cuts)})
    split, at_once = Line(cold()), Line(cold())
    for a, b in itertools.pairwise(edges):
        split.receive(whole[a:b], 0.0)
    at_once.receive(whole, 0.0)
    found = split.due(0.0)
    assert found == at_once.due(0.0)
    assert found.count(b"\r\n") == len(commands)


def test_characters_take_their_time() -> None:
    """At 9600 baud a character takes 1.04 ms: an answer is there when its last character is."""
    line = Line(SimulatedSR830(), byte_s=10 / 9600)
    line.receive(b"SLVL?\r", 100.0)
    assert line.next_s() == pytest.approx(100.0 + 6 * 10 / 9600)
    assert line.due(100.006) == b""
    assert line.due(100.00626) == b"1.000\r"


def test_a_client_that_never_reads_costs_a_bounded_amount() -> None:
    """What finds no room is lost and counted."""
    line = Line(cold())
    for _ in range(4000):
        line.receive(b"*IDN?\n", 0.0)
    assert line.lost > 0
    assert len(line.due(0.0)) <= MOST_WAITING


@given(data=st.binary(max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    """Garbage makes command errors at most; afterwards the instrument answers."""
    for device in (cold(), SimulatedSR830()):
        line = Line(device)
        line.receive(data, 0.0)
        line.receive(b"\r\n", 0.0)
        line.due(0.0)
        line.receive(b"OUTX 0\n*IDN?\n", 0.0)
        assert line.due(0.0).decode().strip() == device.identity.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_faults_hit_so_many_answers(kind: str) -> None:
    """And no more; each does what it says."""
    faults = LineFaults(seed=1)
    faults.plan(kind, 2, 1.5)
    whole = b"+4.20000\r\n"
    for _ in range(2):
        sent = faults.apply(b"+4.20000", b"\r\n")
        assert sent != [(0.0, whole)]
        if kind == "late":
            assert sent == [(1.5, whole)]
        if kind == "split":
            assert b"".join(piece for _, piece in sent) == whole
            assert sent[-1][0] == 1.5
    assert faults.apply(b"+4.20000", b"\r\n") == [(0.0, whole)]


def test_faults_from_the_command_line() -> None:
    """NAME:KIND[:COUNT[:SECONDS]],...; nonsense is refused."""
    assert parse_faults("a:late:2:1.5,b:cut") == [("a", "late", 2, 1.5), ("b", "cut", 1, 2.0)]
    for wrong in ("a", "a:late:x", "a:late:1:y"):
        with pytest.raises(ConfigError):
            parse_faults(wrong)
    for kind, count in (("nonsense", 1), ("late", 0), ("late", 10**6)):
        with pytest.raises(ConfigError):
            LineFaults().plan(kind, count)
