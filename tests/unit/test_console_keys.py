"""The table of JSON keys in the README is the truth."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from actors.console import evaluation
from actors.console.outcome import ExitCode, exit_code_of
from actors.journal.auxiliary import AuxiliaryData, QuantityData
from protocols.errors import ERROR_CLASSES
from protocols.messages import daemon
from protocols.messages.auxiliary import AuxiliaryHealth
from protocols.messages.records import Decision, WindowOpened

README = Path(evaluation.__file__).parents[2] / "README.md"


def keys_of(row: str) -> set[str]:
    """Keys in the last column of the row that begins with ``row`` in its first or second column."""
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 3 and row in (cells[0], cells[1]):
            return set(re.findall(r"`(\w+)`", cells[2]))
    raise AssertionError(f"no row {row}")


@pytest.mark.parametrize(
    ("row", "struct"),
    [
        ("`runs[]`", daemon.RunSummary),
        ("`current`", daemon.RunProgress),
        ("`current.latest[]`, `current.best`", daemon.PointSummary),
        ("`current.window`", WindowOpened),
        ("`actors[]`", daemon.ActorHealth),
        ("`edges[]`", daemon.EdgeStatistics),
        ("`auxiliary[]`", AuxiliaryHealth),
        ("`auxiliary[]` of a run", AuxiliaryData),
        ("`auxiliary[].quantities[]`", QuantityData),
        ("`truth` (simulation only)", evaluation.Evaluation),
        ("`truth.target`", evaluation.Target),
        ("`truth.correlation`", evaluation.Correlation),
    ],
)
def test_documented_keys_are_those_of_the_message(row: str, struct: type[msgspec.Struct]) -> None:
    """A field that is added or renamed must be written down."""
    assert keys_of(row) == set(struct.__struct_fields__)


def test_documented_keys_of_status_and_decisions() -> None:
    """The message's fields and what the console adds."""
    assert keys_of("`tunnelpilot/status/1`") == set(daemon.DaemonStatus.__struct_fields__) | {
        "latched",
        "needs_person",
    }
    added = {"run", "explanation", "job_id", "scalar", "valid", "quality", "label"}
    assert keys_of("`tunnelpilot/decision/1`") == set(Decision.__struct_fields__) | added


def test_documented_exit_codes_are_all_there_are() -> None:
    """And every error of ours has one."""
    text = README.read_text(encoding="utf-8")
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {int(c) for c in ExitCode}
    assert all(exit_code_of(kind("x")) != ExitCode.OK for kind in ERROR_CLASSES.values())
