"""Part "nanonistcp": the test suite shipped in nanonisTCP, unmodified, against a fresh server."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.environments import python_of, run_client
from tests.conformance.results import Findings
from tests.conformance.server import serving

MODULES = 18
SUITE_S = 240.0

SWALLOWED: dict[str, str] = {
    "Warning in Motor.StartClosedLoop:": "the suite asks the motor to go 10 m; a refusal is right",
}
"""Exceptions that the suite itself catches and prints, and that are no fault of the server."""

_BLOCK = re.compile(r"^Testing (?P<module>.+?) module\.\.\.$(?P<words>.*?)(?=^\*{32}$|\Z)", re.M | re.S)


def run(findings: Findings, folder: Path) -> None:
    """Every module's script must say "success", and none may have swallowed an exception."""
    interpreter = python_of("clients")
    where = "import os, nanonisTCP; print(os.path.dirname(nanonisTCP.__file__))"
    package = run_client(interpreter, ["-c", where], deadline_s=60.0, folder=folder).stdout.strip()
    with serving() as server:
        done = run_client(
            interpreter,
            ["-u", f"{package}/test/test.py"],
            deadline_s=SUITE_S,
            folder=folder,
            **server.redirection(),
        )
        findings.add("the server outlives the suite", server.alive(), server.words())
    judge(findings, done.stdout, done.stderr)
    findings.add("the suite ends by itself", done.returncode == 0, done.stderr.strip()[-500:])


def judge(findings: Findings, output: str, errors: str) -> None:
    """Note one check per module from the suite's output."""
    blocks = list(_BLOCK.finditer(output))
    for block in blocks:
        lines = block["words"].strip().splitlines()
        good = "success" in lines
        findings.add(f"module {block['module']}", good, "; ".join(lines)[-600:] if not good else "")
        for line in lines:
            if line.startswith("Warning"):
                why = next((text for start, text in SWALLOWED.items() if line.startswith(start)), "")
                name = f"module {block['module']}: {line[:200]}"
                findings.excuse(name, why) if why else findings.add(name, good=False, note="swallowed")
    findings.add(
        f"{MODULES} modules were tested",
        len(blocks) == MODULES,
        f"{len(blocks)} were; the end of its words: {errors.strip()[-500:]}",
    )
