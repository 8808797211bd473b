"""How many commands of the Nanonis door are proven, and which of those that it carries out are not."""

from __future__ import annotations

from sim_hardware.nanonis.modules import all_commands
from tests.sim import test_nanonis_effects, test_nanonis_settings
from tests.sim.nanonis_bench import PROVEN

STORED_ONLY = {
    "Util.Lock",
    "Util.UnLock",
    "Util.Quit",
    "Osci1T.Run",
    "Osci2T.Run",
    "OsciHR.Run",
    "OsciHR.TrigRearm",
    "OsciHR.PSDAvrgRestart",
    "SpectrumAnlzr.Run",
    "SignalChart.Open",
}
"""Answered without an effect that anything else shows: nothing runs there that would have to be started."""


def test_at_least_250_commands_show_their_effect() -> None:
    """Every command that the door carries out is proven by a test here, but for a few named ones; there are
    more than 250."""
    assert test_nanonis_effects and test_nanonis_settings
    carried_out = set(all_commands().names())
    proven = set(PROVEN) & carried_out
    assert len(proven - STORED_ONLY) >= 250
    assert carried_out - proven - STORED_ONLY == set()
