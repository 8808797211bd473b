"""Whether the gateway that runs is the one for a campaign's electronics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.runtime.world import World
from protocols.files.state_directory import publish_endpoints
from protocols.messages.campaign import InstrumentSection


@pytest.mark.parametrize(
    ("runs", "driver", "address", "other"),
    [
        ("", "nanonis", "127.0.0.1:6501-6504", False),
        ("127.0.0.1:6501-6504", "nanonis", "127.0.0.1:6501,6502,6503,6504", False),
        ("127.0.0.1:6501-6504", "nanonis", "127.0.0.1:6504,6503,6502,6501", True),
        ("127.0.0.1:6501-6504", "nanonis", "127.0.0.1:6501-6504?release=13742", True),
        ("10.0.0.5:6501-6504", "nanonis", "", True),
        ("", "sim", "", True),
    ],
)
def test_one_address_can_be_written_in_several_ways(
    tmp_path: Path, runs: str, driver: str, address: str, other: bool
) -> None:
    """A gateway that a person has started on the same ports is not replaced, and not refused."""
    nothing = cast(Any, None)
    world = World(tmp_path, nothing, None)
    world.gateway = cast(Any, SimpleNamespace(runs=True))
    publish_endpoints(tmp_path, "gateway", driver="nanonis", electronics=runs)
    wanted = InstrumentSection(driver=driver, address=address)
    assert world._drives_other(wanted) is other
