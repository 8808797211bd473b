"""The Ray shell that starts and watches ``stmsim``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import until

from protocols.files.state_directory import ProcessLock

SCRIPT = """
import json, os, signal, sys, time
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[2])
from sim_hardware.actor import SimulatedMicroscope
microscope = ray.remote(SimulatedMicroscope).options(num_cpus=0).remote(sys.argv[1])
ray.get(microscope.keep.remote(["--stepped"]), timeout=60)

def running(starts):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        status = ray.get(microscope.status.remote(), timeout=60)
        if status["running"] and "door" in status and status["starts"] == starts:
            return status
        time.sleep(0.1)
    raise SystemExit(f"not running: {status}")

first = running(1)
os.kill(first["pid"], signal.SIGKILL)
second = running(2)
ray.kill(microscope)
ray.shutdown()
print(json.dumps([first["pid"], second["pid"]]))
"""


@pytest.mark.cluster
def test_it_is_started_again_and_outlives_its_actor(tmp_path: Path) -> None:
    """A killed stmsim is started anew; when actor and cluster are gone it still runs."""
    state, short = tmp_path / "state", Path("/tmp") / f"tp{os.getpid()}"
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(state), str(short)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first != second
    lock = ProcessLock(state, "sim")
    assert lock.held_by_somebody()
    os.kill(second, signal.SIGTERM)
    until(lambda: not lock.held_by_somebody(), "stmsim to end")
