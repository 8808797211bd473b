"""A run over the Nanonis door is held by somebody else's hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from actors.gateway.drivers.sim import SimDriver
from protocols.errors import LinkLostError
from protocols.files.state_directory import read_endpoints
from protocols.messages.daemon import DaemonStatus
from protocols.messages.jobs import CHANGED_BY_OTHERS
from tests.chaos.victims import left_behind, status
from tests.cluster.gateway_harness import await_that
from tests.cluster.test_lockstep import CAMPAIGN
from tests.cluster.test_nanonis_gateway import free_ports

SIMULATED = 'sample = "vacancy"'
BETWEEN_LOOKS = threading.Event()


def over_nanonis(text: str) -> str:
    """The campaign with the simulated microscope behind Nanonis ports that nobody uses."""
    address = f"127.0.0.1:{','.join(map(str, free_ports(4)))}"
    keys = f'driver = "nanonis"\nsimulated = true\naddress = "{address}"\n{SIMULATED}'
    return text.replace(SIMULATED, keys)


def stmctl(state: Path, *arguments: str) -> list[str]:
    """A command line."""
    return [str(Path(sys.executable).parent / "stmctl"), "--state", str(state), *arguments]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_second_person_at_the_instrument_holds_the_run(tmp_path: Path) -> None:
    """Somebody turns the bias during a run: it holds and says what changed, from what to what; told to go on
    it goes on."""
    state, file = tmp_path / "state", tmp_path / "campaign.toml"
    text = over_nanonis(CAMPAIGN).replace("lockstep = true", "lockstep = false")
    file.write_text(text.replace("points = 9", "points = 40").replace("every = 6", "every = 0"))
    subprocess.run(stmctl(state, "run", str(file), "--detach"), check=True, timeout=60)

    def found() -> DaemonStatus:
        BETWEEN_LOOKS.wait(0.1)  # the daemon has better things to do than to answer us
        answer = status(state)
        if answer is None:
            raise LinkLostError("no daemon answers")
        return answer

    def spectra() -> int:
        current = found().current
        return current.spectra_taken if current is not None else 0

    def held() -> str:
        current = found().current
        return current.reason if current is not None and current.state == "held" else ""

    try:
        await_that("two spectra", lambda: spectra() >= 2, 60.0)
        person = SimDriver(str(read_endpoints(state, "sim")["door"]), "a person")

        def turned() -> bool:
            person.set_bias(0.7, 50.0)  # refused while a sweep runs
            return True

        await_that("a hand on the bias", turned)
        reason = await_that("the hold", held, 30.0)
        assert CHANGED_BY_OTHERS in reason
        assert "bias is 700 mV instead of 1 V" in reason
        person.close()
        before = spectra()
        subprocess.run(stmctl(state, "resume"), check=True, timeout=60)
        await_that("more spectra", lambda: spectra() > before, 60.0)
    finally:
        subprocess.run(stmctl(state, "abort"), check=False, timeout=60)
        await_that("the end of the daemon", lambda: status(state) is None and not left_behind(state), 30.0)
