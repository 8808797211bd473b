"""Garbage on every port of stmgate, stmsim and the journal writer while a small campaign runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.session import under_garbage

GARBAGE_S = 20.0
"""``make soak`` does it for a minute, with the daemon."""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_garbage_on_every_port(tmp_path: Path) -> None:
    """Every process stays the same, answers all along and gains no memory to speak of; nothing is lost."""
    outcome = under_garbage(tmp_path, GARBAGE_S, seed=1)
    assert not outcome.faults, "\n".join(outcome.faults)
    assert outcome.comparison.measured == outcome.comparison.journaled > 5
    assert min(outcome.sent.values()) > 0
