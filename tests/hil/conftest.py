"""Hardware-in-the-loop tests: options, the microscope under test, order of the tests, the table at the end.

    pytest tests/hil                                   the simulated microscope, through both of its doors
    pytest tests/hil --electronics nanonis://127.0.0.1:6501-6504 --limits limits.toml

``deploy/qualify-a-microscope.md`` tells a laboratory what happens and how to read the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocols.errors import ConfigError, TunnelpilotError
from protocols.files.quantities import parse_quantity
from protocols.messages.recipes import LockIn
from tests.cluster.gateway_harness import is_alive
from tests.hil.electronics import SIM, SIM_NANONIS, Electronics, SimulatedMicroscope, parse_electronics
from tests.hil.figures import FIGURE, HEADER, TITLE, Table, row_of, title_of
from tests.hil.laboratory import Laboratory
from tests.hil.plan import Choices

ORDER = (
    "test_hil_itself",
    "test_hil_approach",
    "test_hil_limits",
    "test_hil_engage",
    "test_hil_topograph",
    "test_hil_spectroscopy",
    "test_hil_stop",
    "test_hil_parking",
    "test_hil_scenarios",
    "test_hil_as_found",
)
"""From the harmless to the rough, and at the very end the look whether all is as it was."""

SIMULATED_CHOICES = Choices(
    line_time_s=0.01,
    settle_s=0.05,
    drift_s=0.0,
    trials=5,
    lockin=LockIn(amplitude_v=20e-3, frequency_hz=977.0, time_constant_s=1e-3),
)
"""A simulated microscope needs no patience."""
AMONG_OTHERS = {"pixels": 32, "repeats": 3, "trials": 2, "settle_s": 0.02}
"""Where these tests run among all others, less is enough."""
SIMULATED_ENGAGE = "1s"
"""How long the simulated microscope looks for a surface that is not there."""
SAMPLE = ("--sample", "vacancy", "--seed", "3")

FAILED = pytest.StashKey[bool]()
TABLE = pytest.StashKey[Table]()
HEADERS = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the qualification."""
    group = parser.getgroup("microscope qualification")
    group.addoption(
        "--electronics",
        action="append",
        help="sim, sim-nanonis, or DRIVER://ADDRESS of real electronics, nanonis://127.0.0.1:6501-6504 for "
        "example; may be given more than once (default: both simulated ones)",
    )
    group.addoption("--limits", help="limits file of the real microscope (needed for real electronics)")
    group.addoption("--allow-motion", action="store_true", help="the coarse motor may be moved")
    group.addoption("--bias", help="bias of engage and frames, for example 500mV")
    group.addoption("--setpoint", help="for example 50pA")
    group.addoption("--frame-size", help="side of the topographs, for example 20nm")
    group.addoption("--line-time", help="time of one forward line, for example 300ms")
    group.addoption("--trials", type=int, help="how often the emergency stop is measured")
    group.addoption("--drift-time", help="how long the drift is watched, for example 60s")
    group.addoption("--lockin", help="AMPLITUDE,FREQUENCY,TIME CONSTANT of the spectra's modulation, such as "
                    "10mV,973Hz,5ms (default: no modulation on real electronics)")  # fmt: skip
    group.addoption(
        "--lab-state", help="where settings as found and logs are kept (default: state/hil/ADDRESS)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker, which every test here has."""
    config.addinivalue_line(
        "markers", "hil(circumstances): runs against electronics, by default simulated ones"
    )
    config.stash[TABLE] = Table()
    config.stash[HEADERS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test, for each of the electronics."""
    if "lab" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--electronics", None) or [SIM, SIM_NANONIS]
        metafunc.parametrize("lab", chosen, indirect=True, scope="session", ids=chosen)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of ``ORDER``, whatever the files are called."""
    here = Path(__file__).parent
    ours = [item for item in items if item.path.parent == here]
    for item in ours:
        item.add_marker(pytest.mark.hil)
        item.add_marker(pytest.mark.timeout(900))
    ranked = iter(
        sorted(ours, key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else 99)
    )
    items[:] = [next(ranked) if item.path.parent == here else item for item in items]


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """The microscope under test; in the end as it was found, and no process left behind."""
    try:
        electronics = parse_electronics(request.param)
        choices = chosen(request.config, electronics)
        if electronics.simulated:
            made = simulated_laboratory(electronics, choices, tmp_path_factory.mktemp("hil"))
        else:
            made = real_laboratory(electronics, choices, request.config)
    except TunnelpilotError as problem:
        pytest.exit(f"{request.param}: {problem}", returncode=4)
    request.config.stash[HEADERS][request.param] = str(made)
    try:
        yield made
    finally:
        try:
            changed = made.leave()
        finally:
            made.close()
        left = processes_of(made.state)
        assert not left, f"processes are left behind: {left}"
        assert not changed, f"settings were not given back: {changed}"


def simulated_laboratory(electronics: Electronics, choices: Choices, state: Path) -> Laboratory:
    """A microscope of its own, with the limits shipped for it, less patient in looking for a surface."""
    text = resources.files("actors.gateway").joinpath("limits", "simulator.toml").read_text("utf-8")
    limits = state / "limits.toml"
    limits.write_text(re.sub(r'engage_time_max = "[^"]*"', f'engage_time_max = "{SIMULATED_ENGAGE}"', text))
    microscope = SimulatedMicroscope(state, SAMPLE)
    try:
        found = electronics.at(microscope.endpoints[electronics.address])
        return Laboratory(found, state, limits, choices, microscope, motion_allowed=True)
    except BaseException:
        microscope.close()
        raise


def real_laboratory(electronics: Electronics, choices: Choices, config: pytest.Config) -> Laboratory:
    """Somebody's microscope: within the limits he declares, and settings kept where a second run finds them.

    Raises:
        ConfigError: no limits were given.
    """
    limits = config.getoption("--limits", None)
    if not limits:
        raise ConfigError(
            "real electronics are touched only within declared limits: give --limits FILE.",
            "Begin with a copy of actors/gateway/limits/simulator.toml and set every limit for yours.",
        )
    slug = re.sub(r"[^\w.-]+", "_", electronics.address)
    state = Path(config.getoption("--lab-state", None) or Path("state") / "hil" / slug).absolute()
    state.mkdir(parents=True, exist_ok=True)
    motion = bool(config.getoption("--allow-motion", False))
    return Laboratory(electronics, state, Path(limits).absolute(), choices, None, motion)


def chosen(config: pytest.Config, electronics: Electronics) -> Choices:
    """What the options say, over the defaults.

    Raises:
        ConfigError: a quantity without its unit, or no number of trials.
    """
    defaults = SIMULATED_CHOICES if electronics.simulated else Choices()
    values = {**vars(defaults), **(AMONG_OTHERS if among_others(config) else {})}
    for option, name, dimension in (
        ("--bias", "bias_v", "voltage"),
        ("--setpoint", "setpoint_a", "current"),
        ("--frame-size", "frame_m", "length"),
        ("--line-time", "line_time_s", "time"),
        ("--drift-time", "drift_s", "time"),
    ):
        text = config.getoption(option, None)
        if text is not None:
            values[name] = parse_quantity(text, dimension)
    if (trials := config.getoption("--trials", None)) is not None:
        if not 1 <= trials <= 1000:
            raise ConfigError(f"--trials {trials}: 1 to 1000 are possible.")
        values["trials"] = trials
    if text := config.getoption("--lockin", None):
        parts = text.split(",")
        if len(parts) != 3:
            raise ConfigError(f"--lockin {text!r} is not like 10mV,973Hz,5ms.")
        values["lockin"] = LockIn(
            amplitude_v=parse_quantity(parts[0], "voltage"),
            frequency_hz=parse_quantity(parts[1], "frequency"),
            time_constant_s=parse_quantity(parts[2], "time"),
        )
    return Choices(**values)


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test's title goes into the table; after a failure the tip is withdrawn before anything else."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Laboratory = request.getfixturevalue("lab")
    title = title_of(request.node.function.__doc__, request.node.name)
    told_by = [
        value
        for value in request.node.callspec.params.values()
        if isinstance(getattr(value, "title", None), str)
    ]
    circumstances = [mark.args[0] for mark in request.node.iter_markers("hil") if mark.args]
    title = ", ".join([told_by[0].title if told_by else title, *circumstances])
    request.node.user_properties.append((TITLE, title))
    request.node.user_properties.append((HEADER, lab.electronics.address))
    yield
    if request.node.stash.get(FAILED, False):
        lab.after_failure()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Notes a figure for the table: quantity, value with its unit."""

    def note(quantity: str, value: str) -> None:
        request.node.user_properties.append((FIGURE, f"{quantity}\t{value}"))

    return note


@pytest.fixture
def microscope(lab: Laboratory) -> SimulatedMicroscope:
    """The hands that break the simulated microscope; a test that needs them is skipped elsewhere."""
    if lab.microscope is None:
        pytest.skip("the microscope would have to be damaged: done on the simulated one only")
    return lab.microscope


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember failures for the fixture that withdraws, and rows for the table."""
    result: Any = yield
    report = result.get_result()
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    shown = report.when == "call" or (report.when == "setup" and not report.passed)
    shown = shown or (report.when == "teardown" and report.failed)
    table = item.config.stash.get(TABLE, None)
    if table is None or not shown:
        return
    outcome = report.outcome if report.when == "call" or report.skipped else "error"
    row = row_of(item.user_properties, outcome, reason_of(report, call))
    if row is not None:
        table.rows.append(row)


def reason_of(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    """Why a test was skipped or failed, in one line."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    if report.failed and call.excinfo is not None:
        return str(call.excinfo.value).strip().split("\n")[0][:300]
    return ""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table; left out where these tests ran among all others."""
    if among_others(config):
        return
    table = config.stash[TABLE]
    for electronics, header in config.stash[HEADERS].items():
        terminalreporter.section(f"microscope qualification: {electronics}")
        for line in header.split("\n"):
            terminalreporter.write_line(line)
        terminalreporter.write_line("")
        for line in table.lines(electronics):
            terminalreporter.write_line(line)
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{electronics}: {table.counts(electronics)}")


def among_others(config: pytest.Config) -> bool:
    """Whether these tests run as a part of the whole suite: nobody has named them."""
    here = Path(__file__).parent
    named = [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]
    return not any(path.is_relative_to(here) for path in named)


def processes_of(state: Path) -> list[str]:
    """Processes that work in a state directory."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if ("--state", str(state)) in pairwise(arguments) and is_alive(process.info["pid"]):
            found.append(f"{process.info['pid']}: {' '.join(arguments[:6])}")
    return found
