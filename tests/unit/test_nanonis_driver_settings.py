"""What the electronics were set to before we came: kept on disk, and set again while the tip is withdrawn."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.drivers import open_driver
from actors.gateway.drivers.nanonis import sweeps
from actors.gateway.drivers.nanonis.channel import Channel
from actors.gateway.drivers.nanonis.driver import NanonisDriver
from actors.gateway.drivers.nanonis.link import Link
from actors.gateway.drivers.nanonis.panel import same
from protocols.errors import DriverError
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from protocols.nanonis import replies
from protocols.nanonis.commands import RELEASE, table
from tests.unit.scripted_nanonis import ScriptedNanonis, scripted

LOCKIN = LockIn(amplitude_v=0.005, frequency_hz=900.0, time_constant_s=0.001)
SPECTRUM = SpectrumRecipe(
    stabilise_bias_v=0.5,
    stabilise_current_a=1e-10,
    settle_s=0.05,
    z_offset_m=0.0,
    start_v=-0.5,
    stop_v=0.5,
    points=11,
    dwell_s=0.01,
    lockin=LOCKIN,
)
FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=20e-9,
    height_m=20e-9,
    pixels=16,
    lines=4,
    bias_v=0.5,
    setpoint_a=1e-10,
    line_time_s=0.05,
)
OURS = ("Bias", "ZCtrl")
"""Stems that are not lent: bias, setpoint and controller belong to the job."""


@pytest.fixture
def electronics() -> Iterator[ScriptedNanonis]:
    """Scripted electronics."""
    with scripted() as found:
        yield found


def work(driver: NanonisDriver) -> None:
    """Everything that changes settings: engage, lock-in, sweep, frame, move, indentation."""
    driver.set_bias(0.5, 50.0)
    driver.set_setpoint(1e-10)
    driver.arm_trip(5e-9)
    driver.set_feedback(True)
    driver.set_lockin(LOCKIN)
    driver.sweep(SPECTRUM)
    list(driver.frame(FRAME))
    driver.move(1e-9, 1e-9, 1e-6)
    driver.indent(0.5e-9, 0.1, 0.1)


def settings_of(electronics: ScriptedNanonis) -> dict[str, dict[str, Any]]:
    """All settings as plain values, those that nobody ever set as they read: zero."""
    plain: dict[str, dict[str, Any]] = {}
    for key, values in copy.deepcopy(electronics.settings).items():
        plain[key] = {name: _plain(value) for name, value in values.items()}
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | tuple):
        return list(value)
    return float(np.float32(value)) if isinstance(value, float) else value


def blank(value: Any) -> bool:
    """Whether a value is what electronics say of a setting that was never set."""
    return value in (0, 0.0, "", [], False, None, "linear speed", "x/y")


def test_everything_that_was_changed_is_set_again(electronics: ScriptedNanonis, tmp_path: Path) -> None:
    """After a campaign's work and a park, each setting reads as it was found; the file is gone."""
    before = settings_of(electronics)
    worker = open_driver("nanonis", tmp_path, electronics.address, "worker")
    guard = open_driver("nanonis", tmp_path, electronics.address, "guard")
    assert isinstance(worker, NanonisDriver)
    assert isinstance(guard, NanonisDriver)
    work(worker)
    (kept,) = (tmp_path / "gateway").glob("nanonis_*.json")
    assert "Scan.Frame" in json.loads(kept.read_bytes())["settings"]
    guard.withdraw()
    guard.set_lockin(None)
    assert guard.restore_settings() == ()
    assert set(json.loads(kept.read_bytes())["settings"]) == {"LockIn.ModOnOff 1"}
    guard.close()
    assert not kept.exists()
    after = settings_of(electronics)
    for key, values in after.items():
        for name, value in values.items():
            was = before.get(key, {}).get(name)
            assert value == was or (was is None and blank(value)), (key, name, was, value)
    worker.close()


def test_nothing_is_restored_while_the_tip_is_not_withdrawn(
    electronics: ScriptedNanonis, tmp_path: Path
) -> None:
    """It says so, and everything stays as it is, on disk too."""
    driver = open_driver("nanonis", tmp_path, electronics.address, "worker")
    assert isinstance(driver, NanonisDriver)
    work(driver)
    kept = driver._originals.kept
    calls = len(electronics.names())
    assert driver.restore_settings() == ("the tip is not withdrawn: nothing is restored",)
    assert len(electronics.names()) == calls
    assert driver._originals.kept == kept
    driver.close()


def test_after_a_crash_the_next_start_restores(electronics: ScriptedNanonis, tmp_path: Path) -> None:
    """A worker that died without a word left the file: another process sets everything as it was."""
    died = open_driver("nanonis", tmp_path, electronics.address, "worker")
    assert isinstance(died, NanonisDriver)
    work(died)
    del died
    guard = open_driver("nanonis", tmp_path, electronics.address, "guard")
    assert isinstance(guard, NanonisDriver)
    guard.withdraw()
    assert guard.restore_settings() == ()
    assert electronics.settings["BiasSpectr.Props"]["number_of_points"] == 256
    assert electronics.settings["Scan.Props"]["series_name"] == "mine"
    assert electronics.settings["BiasSpectr.MLSMode"]["sweep_mode"] == "MLS"
    guard.close()


def test_the_first_value_is_kept_and_not_a_later_one(electronics: ScriptedNanonis, tmp_path: Path) -> None:
    """Our own values of yesterday are never taken for the original ones, also by another worker."""
    for points in (11, 21):
        driver = open_driver("nanonis", tmp_path, electronics.address, "worker")
        assert isinstance(driver, NanonisDriver)
        driver._open_windows()
        sweeps.configure(
            driver._panel,
            driver._who().signals,
            SpectrumRecipe(
                stabilise_bias_v=0.5,
                stabilise_current_a=1e-10,
                settle_s=0.0,
                z_offset_m=0.0,
                start_v=-0.5,
                stop_v=0.5,
                points=points,
                dwell_s=0.01,
            ),
        )
        driver.close()
    (kept,) = (tmp_path / "gateway").glob("nanonis_*.json")
    saved = json.loads(kept.read_bytes())["settings"]["BiasSpectr.Props"]["values"]
    assert saved["number_of_points"] == 256


def test_what_cannot_be_restored_is_told_and_tried_again(
    electronics: ScriptedNanonis, tmp_path: Path
) -> None:
    """One refusal does not keep the others from being restored."""
    driver = open_driver("nanonis", tmp_path, electronics.address, "worker")
    assert isinstance(driver, NanonisDriver)
    work(driver)
    driver.withdraw()
    electronics.plan("BiasSpectr.TimingSet", "zeros")
    (problem,) = driver.restore_settings()
    assert problem.startswith("BiasSpectr.Timing")
    assert set(driver._originals.kept) == {"BiasSpectr.Timing", "LockIn.ModOnOff 1"}
    assert driver.restore_settings() == ()
    driver.close()


def test_a_damaged_file_is_put_aside(electronics: ScriptedNanonis, tmp_path: Path) -> None:
    """It is kept for a person to look at, and the work goes on."""
    driver = open_driver("nanonis", tmp_path, electronics.address, "worker")
    assert isinstance(driver, NanonisDriver)
    path = driver._originals.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"settings": [')
    driver.set_lockin(LOCKIN)
    assert path.with_suffix(".damaged").exists()
    assert "LockIn.ModAmp 1" in driver._originals.kept
    driver.close()


@given(asked=st.floats(-1e3, 1e3, allow_subnormal=False, width=64))
def test_float32_rounding_is_no_coercion(asked: float) -> None:
    """What float32 makes of a value is the value; a thousandth more is another one."""
    back = float(np.float32(asked))
    assert same("f", asked, back)
    if abs(asked) > 1e-30:
        assert not same("f", asked, back * 1.001)


def test_no_number_is_the_same_as_not_a_number() -> None:
    """NaN, infinity, text and numbers are told apart."""
    assert same("f", math.nan, math.nan)
    assert same("f", math.inf, math.inf)
    assert not same("f", 0.0, math.nan)
    assert not same("f", 0.0, "0")
    assert same("[i]", [1, 2], np.array([1, 2]))
    assert not same("[i]", [1, 2], np.array([2, 1]))


@given(
    points=st.integers(2, 40),
    repeats=st.integers(1, 4),
    backward=st.booleans(),
    lockin=st.booleans(),
    start=st.floats(-2, 2),
    span=st.one_of(st.floats(0.01, 3), st.floats(-3, -0.01)),
    order=st.randoms(use_true_random=False),
)
def test_any_answer_of_a_sweep_is_sorted_into_place(
    points: int, repeats: int, backward: bool, lockin: bool, start: float, span: float, order: Any
) -> None:
    """However the electronics order their channels, each sample lands at its repeat, direction and bias."""
    recipe = SpectrumRecipe(
        stabilise_bias_v=0.5,
        stabilise_current_a=1e-10,
        settle_s=0.0,
        z_offset_m=0.0,
        start_v=start,
        stop_v=start + span,
        points=points,
        dwell_s=0.01,
        repeats=repeats,
        backward=backward,
        lockin=LOCKIN if lockin else None,
    )
    bias = np.linspace(recipe.start_v, recipe.stop_v, points)
    directions = 2 if backward else 1
    truth = np.random.default_rng(points).normal(size=(3, repeats, directions, points)) * 1e-10
    rows: list[tuple[str, Any]] = []
    for k, quantity in enumerate(("Current", "LI Demod 1 X", "LI Demod 1 Y")):
        for repeat in range(repeats):
            for way in range(directions):
                tag = f" [{repeat + 1:05d}]" if repeats > 1 else ""
                name = f"{quantity}{tag}{' [bwd]' if way else ''} (A)"
                rows.append((name, truth[k, repeat, way].astype(np.float32)))
        if repeats > 1:
            rows.append((f"{quantity} [AVG] (A)", truth[k, :, 0].mean(axis=0)))
    order.shuffle(rows)
    answer = {
        "channels": ("Bias calc (V)", *(name for name, _ in rows)),
        "data": np.array([bias.astype(np.float32), *(row for _, row in rows)]),
    }
    _, channels, saturated = sweeps.spectrum(answer, recipe, 1e-8)
    assert not saturated
    for k, channel in enumerate(channels):
        assert np.allclose(channel.values, truth[k].astype(np.float32), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"channels": (), "data": np.zeros((0, 0))}, "without data"),
        ({"channels": ("Bias calc (V)",), "data": np.linspace(-0.5, 0.5, 11)[None]}, "without Current"),
        (
            {"channels": ("Bias calc (V)", "Current (A)"), "data": np.zeros((2, 20))},
            "20 points instead of 11",
        ),
    ],
)
def test_an_answer_that_is_no_sweep_of_ours_is_refused(answer: dict[str, Any], text: str) -> None:
    """Nothing, no current, too many points: an error that says what came."""
    recipe = SpectrumRecipe(
        stabilise_bias_v=0.5,
        stabilise_current_a=1e-10,
        settle_s=0.0,
        z_offset_m=0.0,
        start_v=-0.5,
        stop_v=0.5,
        points=11,
        dwell_s=0.01,
    )
    with pytest.raises(DriverError, match=text):
        sweeps.spectrum(answer, recipe, 1e-8)


COMMANDS = sorted(table(RELEASE))


@given(name=st.sampled_from(COMMANDS), body=st.binary(max_size=200))
def test_whatever_is_answered_becomes_values_or_an_error_of_ours(name: str, body: bytes) -> None:
    """Any bytes as the answer to any command: a result, or a DriverError that names the port."""
    channel = Channel(Link("127.0.0.1", 6501, "test"))
    try:
        channel._decoded(table(RELEASE)[name], body)
    except DriverError as refused:
        assert "127.0.0.1:6501" in str(refused)
        assert refused.details["outcome"] in ("refused", "unknown")


@given(
    name=st.sampled_from(COMMANDS),
    reason=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=80),
    layout=st.sampled_from(["block", "zeros", "stray"]),
    stray=st.binary(min_size=1, max_size=16),
)
def test_the_electronics_own_words_come_out_of_every_layout_of_an_error(
    name: str, reason: str, layout: str, stray: bytes
) -> None:
    """Error alone, behind zeros for the result, behind stray bytes: the reason is in the error."""
    command = table(RELEASE)[name]
    body = {
        "block": replies.refusal(name, reason),
        "zeros": replies.failure(command, reason),
        "stray": bytes(len(stray)) + replies.refusal(name, reason),
    }[layout]
    with pytest.raises(DriverError) as refused:
        Channel(Link("127.0.0.1", 6501, "test"))._decoded(command, body)
    assert reason.strip() in str(refused.value)
    assert refused.value.details["outcome"] == "refused"
