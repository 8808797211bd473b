"""Part "scanbot": an application that others built on nanonisTCP runs a survey and a bias series."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conformance.environments import HERE, python_of, run_client
from tests.conformance.results import Findings
from tests.conformance.server import serving

SCANBOT_S = 400.0
TIME_SCALE = 4.0
"""The microscope's time runs faster: Scanbot's own pauses take most of the time anyway."""

SAID = ("survey", "biasDep")
"""Words that Scanbot logs when a programme is done."""


def run(findings: Findings, folder: Path) -> None:
    """Both programmes end, each with a picture, and nothing is reported as an error."""
    work = folder / "scanbot"
    work.mkdir()
    script = HERE / "clients" / "run_scanbot.py"
    with serving(time_scale=TIME_SCALE) as server:
        done = run_client(
            python_of("scanbot"),
            [str(script), str(work)],
            deadline_s=SCANBOT_S,
            folder=work,
            **server.redirection(),
        )
        findings.add("the server outlives it", server.alive(), server.words())
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    words = f"{done.stdout[-600:]} {done.stderr.strip()[-900:]}"
    findings.add("it ends by itself", bool(lines), f"with {done.returncode}: {words}")
    for what, good, note in json.loads(lines[-1].removeprefix("FOUND ")) if lines else []:
        findings.add(what, good, f"{note}; {words}")
