"""Part "official": methods of the official client one by one, and the examples that come with it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.environments import HERE, python_of, run_client
from tests.conformance.official_calls import CLIENT_BUGS, GROUPS, LEFT_OUT, MODULES
from tests.conformance.results import Findings
from tests.conformance.server import Server, serving

CALLS_S = 240.0
EXAMPLE_S = 120.0
EXAMPLES_TIME_SCALE = 10.0
"""The examples wait for hundreds of samples; the microscope's time runs faster for them."""

EXAMPLES: tuple[str, ...] = (
    "SimpleSignalAcquisition",
    "TipShaper",
    "TipCleaner",
    "LockInSweep",
    "CustomBiasSweep",
    "CustomZSweep",
    "BiasPulsesAtVariousZ",
    "ForceDistanceCurve_OffsetComp",
    "BiasSpectroscopy",
    "BiasSpectroscopy_MultiSegment",
    "AutoApproach",
    "SwitchMode_STM_AFM",
)

EXAMPLE_ERRORS: dict[str, str] = {
    "ForceDistanceCurve_OffsetComp": "it centres the oscillation controller first, which an STM has not",
}
"""Examples that use a module which the simulated microscope lacks: an error answer is right there."""


def run(findings: Findings, folder: Path) -> None:
    """Methods in groups against one server, then each example against a server of its own."""
    _complete(findings, folder)
    with serving() as server:
        for group, calls in GROUPS.items():
            _call(findings, folder, server, group, calls)
        findings.add("the server outlives the calls", server.alive(), server.words())
    for example in EXAMPLES:
        _example(findings, folder, example)


def _complete(findings: Findings, folder: Path) -> None:
    """No method of the modules is forgotten."""
    words = "import nanonis_spm; print('\\n'.join(dir(nanonis_spm.Nanonis)))"
    listed = run_client(python_of("clients"), ["-c", words], deadline_s=60.0, folder=folder).stdout.split()
    there = {name for name in listed if name.partition("_")[0] in MODULES and "_" in name}
    called = {method for calls in GROUPS.values() for method, _, _ in calls}
    forgotten = sorted(there - called - set(LEFT_OUT))
    name = (
        f"all {len(there)} methods of {len(MODULES)} modules are called, less {len(LEFT_OUT)} with a reason"
    )
    findings.add(name, bool(there) and not forgotten, f"forgotten: {', '.join(forgotten)}")


def _call(findings: Findings, folder: Path, server: Server, group: str, calls: list[Any]) -> None:
    wanted, out = folder / "calls.json", folder / "answers.jsonl"
    wanted.write_text(json.dumps([[method, arguments] for method, arguments, _ in calls]))
    script = HERE / "clients" / "call_methods.py"
    arguments = [str(script), str(server.first_port), str(wanted), str(out)]
    done = run_client(python_of("clients"), arguments, deadline_s=CALLS_S, folder=folder)
    answers = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    out.unlink(missing_ok=True)
    again: Counter[str] = Counter()
    for (method, _, expected), answer in zip(calls, answers, strict=False):
        again[method] += 1
        name = method if again[method] == 1 else f"{method} ({again[method]})"
        _judge(findings, name, method, answer, expected)
    if len(answers) < len(calls):
        missing = calls[len(answers)][0]
        findings.add(
            f"{group}: {len(calls)} methods were called",
            good=False,
            note=f"it ended with {done.returncode} at {missing}: {done.stderr.strip()[-300:]}",
        )


def _judge(
    findings: Findings, name: str, method: str, answer: dict[str, Any], expected: list[Any] | None
) -> None:
    good = answer["error"] == "" and answer["parts"] == 3
    note = answer["error"].strip().splitlines()[-1][:300] if answer["error"].strip() else ""
    if good and expected is not None:
        good = same(answer["values"], expected)
        note = "" if good else f"{answer['values']} instead of {expected}"
    if not good and method in CLIENT_BUGS:
        findings.excuse(name, CLIENT_BUGS[method])
    else:
        findings.add(name, good, note or ("" if good else f"{answer['parts']} parts instead of 3"))


def same(found: Any, expected: Any) -> bool:
    """Whether values are the expected ones to float32; None stands for anything."""
    if expected is None:
        return True
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return isinstance(found, int | float) and math.isclose(found, np.float32(expected), rel_tol=1e-6)
    return bool(found == expected)


def _example(findings: Findings, folder: Path, example: str) -> None:
    """It ends by itself, without an exception, and prints no error answer."""
    interpreter = python_of("clients")
    where = "import os, nanonis_spm_examples as e; print(list(e.__path__)[0])"
    package = run_client(interpreter, ["-c", where], deadline_s=60.0, folder=folder).stdout.strip()
    with serving(time_scale=EXAMPLES_TIME_SCALE) as server:
        paths = [str(HERE / "stand_ins"), server.redirection().get("PYTHONPATH", "")]
        variables = {**server.redirection(), "PYTHONPATH": ":".join(path for path in paths if path)}
        done = run_client(
            interpreter,
            [f"{package}/Example_{example}.py"],
            deadline_s=EXAMPLE_S,
            folder=folder,
            **variables,
        )
        alive = server.alive()
    errors = done.stdout.count("The following error appeared")
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    findings.add(
        f"example {example}", done.returncode == 0 and alive, last or f"ended with {done.returncode}"
    )
    if errors and example in EXAMPLE_ERRORS:
        findings.excuse(f"example {example}: {errors} error answer(s)", EXAMPLE_ERRORS[example])
    elif errors:
        begin = done.stdout.index("The following error appeared")
        findings.add(
            f"example {example}: no error answers", good=False, note=done.stdout[begin : begin + 200]
        )
