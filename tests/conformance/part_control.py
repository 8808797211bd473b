"""Part "control": nanonis-control, whose lineage many laboratories use: one read of the socket per answer."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conformance.environments import HERE, python_of, run_client
from tests.conformance.results import Findings
from tests.conformance.server import serving

CONTROL_S = 120.0


def run(findings: Findings, folder: Path) -> None:
    """Bias, setpoint, feedback, position, height and withdrawal, each set and read back."""
    with serving() as server:
        arguments = [str(HERE / "clients" / "use_nanonis_control.py"), str(server.first_port)]
        done = run_client(python_of("clients"), arguments, deadline_s=CONTROL_S, folder=folder)
        findings.add("the server outlives it", server.alive(), server.words())
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    findings.add("it ends by itself", bool(lines), f"with {done.returncode}: {done.stderr.strip()[-500:]}")
    for what, good, note in json.loads(lines[-1].removeprefix("FOUND ")) if lines else []:
        findings.add(what, good, note)
