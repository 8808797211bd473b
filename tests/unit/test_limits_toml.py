"""The limits file: everything wrong is listed with key and allowed range; campaigns may only narrow."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.files.limits_toml import LIMIT_FIELDS, Limits, limits_from, narrowed, read_limits

SHIPPED = ("simulator.toml", "recorded.toml")


def shipped(name: str = "simulator.toml") -> dict[str, Any]:
    """A shipped file as a table."""
    return tomllib.loads(resources.files("actors.gateway").joinpath("limits", name).read_text("utf-8"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_whole_and_valid(name: str) -> None:
    """Each shipped file sets every limit, in range."""
    limits = limits_from(shipped(name), name)
    assert set(limits.flat()) == set(LIMIT_FIELDS) == set(Limits.__struct_fields__)


def test_quantities_are_read_in_si() -> None:
    """Units in the file become SI numbers."""
    limits = limits_from({**shipped(), "setpoint_max": "2.5nA", "trip_time": "20ms"}, "x")
    assert np.allclose([limits.setpoint_max, limits.trip_time], [2.5e-9, 0.02], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setpoint_max": 5e-9}, ("setpoint_max", "no unit", "allowed")),
        ({"setpoint_max": "5nm"}, ("setpoint_max", "current")),
        ({"setpoint_max": "5A"}, ("setpoint_max", "out of range", "allowed: 10 fA to 1 µA")),
        ({"z_hold_margin": "10nm"}, ("z_hold_margin", "plain number")),
        ({"z_hold_margin": True}, ("z_hold_margin", "plain number")),
        ({"z_hold_margin": float("nan")}, ("z_hold_margin", "out of range")),
        ({"bias_minimum": "1V"}, ("bias_minimum", "no such limit")),
        ({"bias_min": "0V", "bias_max": "0V"}, ("bias_min", "not below bias_max")),
        ({"rest_bias": "9V"}, ("rest_bias",)),
        ({"z_park_margin": 0.2}, ("z_park_margin", "z_hold_margin")),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: tuple[str, ...]) -> None:
    """Errors name the file, the key and what is allowed."""
    with pytest.raises(ConfigError) as refused:
        limits_from({**shipped(), **change}, "limits.toml")
    for word in ("limits.toml", *words):
        assert word in str(refused.value)


def test_every_error_is_listed_at_once() -> None:
    """One reading of a bad file tells all that is wrong with it."""
    table = shipped()
    del table["tip_speed"]
    with pytest.raises(ConfigError) as refused:
        limits_from({**table, "bias_max": "1m", "nonsense": 1}, "limits.toml")
    for word in ("tip_speed: missing", "bias_max", "nonsense"):
        assert word in str(refused.value)


@pytest.mark.parametrize("content", [b"x = ", b"\xff\xfe", b""])
def test_files_that_are_no_limits(tmp_path: Path, content: bytes) -> None:
    """Broken TOML, binary and empty files are refused by name."""
    path = tmp_path / "limits.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"limits\.toml"):
        read_limits(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_limits(tmp_path / "absent.toml")


@given(name=st.sampled_from(sorted(LIMIT_FIELDS)), share=st.floats(0.01, 2.0))
def test_a_campaign_can_narrow_and_never_widen(name: str, share: float) -> None:
    """A narrower value is taken, a wider one refused, in the direction that the field says."""
    limits = limits_from(shipped(), "x")
    present = getattr(limits, name)
    value = present * share
    field = LIMIT_FIELDS[name]
    widens = value > present if field.narrower == "smaller" else value < present
    if widens:
        with pytest.raises(ConfigError, match="widen"):
            narrowed(limits, {name: value}, "campaign.toml")
    else:
        assert getattr(narrowed(limits, {name: value}, "campaign.toml"), name) == value


def test_unknown_names_in_a_campaign() -> None:
    """A name that is no limit is refused."""
    with pytest.raises(ConfigError, match="no such limit"):
        narrowed(limits_from(shipped(), "x"), {"speed": 1.0}, "campaign.toml")
