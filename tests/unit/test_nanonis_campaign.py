"""Campaigns over Nanonis electronics: keys, what is refused before a run, and how gateway and simulator are
started."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_campaign_toml import GOOD

from actors.runtime.world import _nanonis_arguments, gateway_arguments
from protocols.errors import ConfigError
from protocols.files.campaign_toml import parse_campaign
from protocols.messages.campaign import Campaign, InstrumentSection
from protocols.nanonis.address import Address, parse_address


def campaign(keys: str, pixels: int = 128) -> Campaign:
    """A good campaign on other electronics."""
    text = GOOD.replace("[imaging]", f"[imaging]\npixels = {pixels}", 1).replace("pixels = 64\n", "", 1)
    return parse_campaign(f"{text}\n[instrument]\n{keys}\n", "test.toml")


def test_real_electronics_are_named_by_their_address() -> None:
    """No simulator is started, and the gateway gets driver and address."""
    found = campaign('driver = "nanonis"\naddress = "10.0.0.5:6501-6504"').instrument
    assert not found.starts_simulator
    arguments = gateway_arguments(Path("/state"), Path("/limits.toml"), found)
    assert arguments[-4:] == ("--driver", "nanonis", "--driver-endpoint", "10.0.0.5:6501-6504")
    assert arguments[arguments.index("--limits") + 1] == "/limits.toml"


def test_a_simulated_campaign_opens_the_door_where_it_looks_for_it() -> None:
    """The simulator gets the ports, and the release if one is named."""
    found = campaign(
        'driver = "nanonis"\nsimulated = true\naddress = "127.0.0.1:7001-7004?release=13742"'
    ).instrument
    assert found.starts_simulator
    assert _nanonis_arguments(found) == (
        *("--nanonis-ports", "7001,7002,7003,7004"),
        *("--nanonis-release", "13742"),
    )


def test_the_other_simulator_needs_none_of_it() -> None:
    """Without the driver's name everything is as it was."""
    assert InstrumentSection().starts_simulator
    assert _nanonis_arguments(InstrumentSection()) == ()
    assert gateway_arguments(Path("/state"), None, InstrumentSection())[-2:] == ("--state", "/state")


@pytest.mark.parametrize(
    ("keys", "pixels", "text"),
    [
        ('driver = "nanonis"\naddress = "10.0.0.5"', 128, "names no ports"),
        ('driver = "nanonis"\naddress = "10.0.0.5:6501-6502"', 128, "4 different ones are needed"),
        ('driver = "nanonis"\nsimulated = true\naddress = "10.0.0.5:6501-6504"', 128, "is on this computer"),
        ('driver = "nanonis"', 100, "multiples of 16 only. Take 96 or 112"),
        ('driver = "nanonis"\ntime_scale = 20.0', 128, "real electronics run at 1"),
        ("simulated = true", 128, "means nothing without"),
        ('driver = "nanonsi"', 128, 'did you mean "nanonis"'),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(keys: str, pixels: int, text: str) -> None:
    """With line, key and what is allowed."""
    with pytest.raises(ConfigError) as refused:
        campaign(keys, pixels)
    assert text in str(refused.value)


@given(ports=st.lists(st.integers(1, 65535), min_size=4, max_size=4, unique=True), release=st.booleans())
def test_an_address_reads_as_it_is_written(ports: list[int], release: bool) -> None:
    """Host, ports in their order, release; each half of the gateway has two ports of its own."""
    text = f"10.0.0.5:{','.join(map(str, ports))}" + ("?release=13742" if release else "")
    found = parse_address(text)
    assert found == Address("10.0.0.5", tuple(ports), 13742 if release else None)
    assert {*found.pair("worker"), *found.pair("guard")} == set(ports)
    assert parse_address(str(found)) == Address("10.0.0.5", tuple(ports))


def test_no_address_is_the_usual_one() -> None:
    """As every public client assumes."""
    assert str(parse_address("")) == "127.0.0.1:6501,6502,6503,6504"
