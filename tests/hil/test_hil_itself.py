"""The tests' own tools: addresses, comparing settings, relay, table, and what is refused at the start."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from actors.gateway.interlocks import check_recipe
from actors.gateway.limits_file import _shipped
from protocols.errors import ConfigError, LimitError
from protocols.files.limits_toml import Limits, limits_from
from protocols.instrument.driver import DriverInfo
from tests.hil.as_found import BIAS, MOTOR, X, alike, differences, driver_settings
from tests.hil.electronics import parse_electronics
from tests.hil.figures import Row, Table, milliseconds, row_of, title_of
from tests.hil.plan import Choices, Plan, whole_pixels
from tests.hil.refusals import REFUSALS
from tests.hil.relay import Relay
from tests.hil.scenarios import SCENARIOS, End

INFO = DriverInfo(
    name="test",
    simulated=True,
    time_scale=1.0,
    x_range_m=(-500e-9, 500e-9),
    y_range_m=(-500e-9, 500e-9),
    z_range_m=(-250e-9, 250e-9),
    bias_range_v=(-10.0, 10.0),
    preamplifier_rail_a=1e-8,
)


@pytest.fixture
def limits() -> Limits:
    """Those of the simulated microscope."""
    return limits_from(tomllib.loads(_shipped("simulator.toml").decode()), "test")


def test_addresses_are_read_or_explained() -> None:
    """sim, sim-nanonis and DRIVER://ADDRESS; what somebody else has started counts as real."""
    assert parse_electronics("sim").simulated
    assert parse_electronics("sim-nanonis").driver == "nanonis"
    real = parse_electronics("nanonis://10.0.0.5:6501-6504")
    assert (real.driver, real.endpoint, real.simulated) == ("nanonis", "10.0.0.5:6501-6504", False)
    for text in ("", "nanonis", "nanonis://", "nanonis://10.0.0.5:6501", "://x"):
        with pytest.raises(ConfigError):
            parse_electronics(text)


def test_real_electronics_are_not_touched_without_limits(tmp_path: Path) -> None:
    """Without --limits nothing is even connected to: exit status 4, and one sentence that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        port = listener.getsockname()[1]
        command = [
            *(sys.executable, "-m", "pytest", str(Path(__file__).parent), "-q", "-k", "test_engage"),
            *("--electronics", f"nanonis://127.0.0.1:{port},{port + 1},{port + 2},{port + 3}"),
            *("-p", "no:cacheprovider"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path.cwd())
        assert done.returncode == 4
        assert "give --limits FILE" in done.stdout + done.stderr
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_every_refusal_is_beyond_one_limit_and_the_plan_is_not(limits: Limits) -> None:
    """Each request breaks the limit it names, and what the tests want carried out breaks none."""
    plan = Plan(Choices(), limits, INFO, 0.0, 0.0)
    plan.check()
    for refusal in REFUSALS:
        with pytest.raises(LimitError) as refused:
            check_recipe(refusal.ask(plan), limits, INFO)
        assert refused.value.details["limit"] == refusal.limit
    assert len({refusal.title for refusal in REFUSALS}) == len(REFUSALS)


def test_a_plan_outside_the_limits_says_which_option_to_change(limits: Limits) -> None:
    """A bias that the limits refuse stops the tests before anything moves."""
    with pytest.raises(ConfigError, match="--bias"):
        Plan(Choices(bias_v=9.0), limits, INFO, 0.0, 0.0).check()
    with pytest.raises(ConfigError, match="stand elsewhere"):
        Plan(Choices(), limits, INFO, 499e-9, 0.0).check()
    tight = msgspec.structs.replace(limits, feedback_off_time_max=2.0)
    assert Plan(Choices(), tight, INFO, 0.0, 0.0).long_sweep().spectrum.sweep_duration_s < 2.0
    assert whole_pixels(65, 16) == 80


def test_settings_are_compared_as_electronics_round_them(limits: Limits) -> None:
    """float32 is no difference, a changed value is; a place within its tolerance is the same."""
    before = {BIAS: 0.1, X: 1e-9, "Scan.Buffer": {"channel_indexes": [0, 30], "pixels": 64}, MOTOR: {"z": 3}}
    after = {BIAS: 0.10000000149, X: 1.05e-9, "Scan.Buffer": {"channel_indexes": [0, 30], "pixels": 64}}
    assert differences(before, {**after, MOTOR: {"z": 3}}, limits) == {}
    assert list(differences(before, {**after, BIAS: 0.2, MOTOR: {"z": 4}}, limits)) == [BIAS, MOTOR]
    assert list(differences(before, after, limits, {MOTOR})) == []
    assert list(differences(before, after, limits)) == [MOTOR]
    assert alike(math.nan, math.nan)
    assert not alike("not available", 1.0)
    assert {"Scan.Frame", "SafeTip.Props", "BiasSpectr.Timing"} <= {s.stem for s in driver_settings()}


def test_a_relay_passes_bytes_until_it_hangs() -> None:
    """Bytes pass both ways; while it hangs none do and the connection stays; the other port goes on."""
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        with Relay("127.0.0.1", [one.getsockname()[1], two.getsockname()[1]]) as relay:
            ports = [int(port) for port in relay.endpoint.partition(":")[2].split(",")]
            clients = [socket.create_connection(("127.0.0.1", port)) for port in ports]
            servers = [listener.accept()[0] for listener in (one, two)]
            clients[0].sendall(b"ask")
            assert servers[0].recv(10) == b"ask"
            servers[0].sendall(b"answer")
            assert clients[0].recv(10) == b"answer"
            relay.hang(0)
            clients[0].sendall(b"lost")
            clients[1].sendall(b"through")
            assert servers[1].recv(10) == b"through"
            servers[0].setblocking(False)
            with pytest.raises(BlockingIOError):
                servers[0].recv(10)
            for connection in (*clients, *servers):
                connection.close()


def test_the_table_reads_like_a_protocol() -> None:
    """Titles are first sentences, figures stand below, tests skipped for one reason are one row."""
    assert title_of("Engage: the tip arrives. More.", "name") == "Engage: the tip arrives"
    assert milliseconds([0.001, 0.003, 0.002]) == "median 2.0 ms, worst 3.0 ms of 3"
    properties = [("hil title", "engage"), ("hil electronics", "sim"), ("hil figure", "current\t50 pA")]
    row = row_of(properties, "passed", "")
    assert row is not None
    skipped = [Row("sim", "skipped", title, (), "not here") for title in ("crash", "rail")]
    table = Table([row, *skipped])
    assert list(table.lines("sim")) == [
        "passed    engage",
        "            current  50 pA",
        "skipped   2 tests",
        "          not here: crash; rail",
    ]
    assert table.counts("sim") == "1 passed, 2 skipped"
    assert row_of([], "passed", "") is None


def test_every_scenario_says_why_and_how_it_must_end() -> None:
    """A scenario that latches names the causes that may latch; one that goes on has none; titles differ."""
    assert len({scenario.title for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.why
        assert bool(scenario.causes) == (scenario.end is End.LATCHED)
        assert not set(scenario.happened) & set(scenario.never)
