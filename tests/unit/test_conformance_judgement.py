"""The conformance run fails where it should: what its judges make of outputs and arrays that are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance import part_nanonistcp
from tests.conformance.official_calls import CLIENT_BUGS, GROUPS, LEFT_OUT
from tests.conformance.part_official import same
from tests.conformance.reading import difference
from tests.conformance.results import Findings, failures, table


def suite_output(modules: int, *, broken: int = -1) -> str:
    """What the suite prints: a block for each module; one of them failed."""
    blocks = []
    for k in range(modules):
        words = f"Module{k} test failed\nsome traceback" if k == broken else "success"
        blocks.append(f"{'*' * 32}\nTesting Module{k} module...\n{words}\n")
    return "".join(blocks)


def judged(output: str) -> Findings:
    """What the judge finds in it."""
    findings = Findings("nanonistcp")
    part_nanonistcp.judge(findings, output, "")
    return findings


def test_eighteen_successes_pass() -> None:
    """A block for each of 18 modules, all successful: 19 checks, none failed."""
    assert judged(suite_output(18)).count() == (19, 0, 0)


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (suite_output(18, broken=3), "module Module3"),
        (suite_output(17), "18 modules were tested"),
        ("", "18 modules were tested"),
        (suite_output(18).replace("success", "Warning in X.Get: broken\nsuccess", 1), "Warning in X.Get"),
    ],
)
def test_a_failed_or_missing_module_fails(output: str, failed: str) -> None:
    """A traceback instead of success, a module that was not reached, nothing at all, an exception that the
    suite swallowed: the part fails and names it."""
    findings = judged(output)
    assert not findings.good
    assert failed in failures([findings])


def test_a_part_without_checks_is_not_good() -> None:
    """Nothing looked at is nothing shown."""
    assert not Findings("empty").good


def test_excused_checks_are_shown_and_do_not_fail() -> None:
    """A client's own fault appears in the table in its own column."""
    findings = Findings("x")
    findings.add("works", good=True)
    findings.excuse("broken client", "its own fault")
    assert findings.good and findings.count() == (1, 0, 1)
    assert table([findings]).splitlines()[-1].split() == ["x", "1", "0", "1", "0", "0"]
    assert failures([findings]) == ""


def test_differences_are_named() -> None:
    """The same to float32 is no difference; one number, a shape, a missing array or a turned image is, and
    how it is turned is said."""
    truth = np.arange(12.0).reshape(3, 4) * 1e-12
    assert difference(truth.astype(np.float32), truth) == ""
    assert "11 of 12 differ" not in difference(truth, truth)
    wrong = truth.astype(np.float32)
    wrong[2, 3] *= np.float32(1.000001)
    assert difference(wrong, truth).startswith("1 of 12 differ, first at (2, 3)")
    assert "turned up-down" in difference(truth[::-1].astype(np.float32), truth)
    assert "turned left-right" in difference(truth[:, ::-1].astype(np.float32), truth)
    assert "shape (4, 3)" in difference(truth.T, truth)
    assert difference(None, truth) == "the reader did not find it"
    missing = truth.copy()
    missing[1] = np.nan
    assert difference(missing, truth) != "" and difference(missing, missing) == ""


def test_values_are_compared_to_float32() -> None:
    """None stands for any value, numbers are compared to float32, lengths and texts exactly."""
    assert same([1, float(np.float32(0.1)), "x", [3]], [1, 0.1, "x", None])
    assert not same([1, 0.1001], [1, 0.1])
    assert not same([1], [1, 2])
    assert not same([2], [1])
    assert not same(["y"], ["x"])


def test_the_excuses_are_for_methods_that_are_called() -> None:
    """Every fault on record belongs to a method of the list; none is both called and left out."""
    called = {method for calls in GROUPS.values() for method, _, _ in calls}
    assert set(CLIENT_BUGS) <= called
    assert not set(LEFT_OUT) & called
