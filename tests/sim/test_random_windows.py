"""What the multiscale search is measured against."""

from __future__ import annotations

import msgspec

from actors.console.ready_campaigns import find_campaign
from protocols.files.campaign_toml import parse_campaign
from tests.bench.random_windows import found_at_random


def test_random_windows_find_the_vacancy_at_most_once_in_twenty() -> None:
    """Random choice of windows, run beside the search on 40 surfaces, finds at most 1 in 20."""
    section = msgspec.structs.replace(
        parse_campaign(*find_campaign("multiscale_vacancy")).zoom, selection="random"
    )
    assert sum(found_at_random(section, seed) for seed in range(1, 41)) <= 2
