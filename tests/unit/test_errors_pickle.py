"""Error classes: every one survives the trip between processes."""

from __future__ import annotations

import importlib
import pickle
import pkgutil

import pytest

from protocols.errors import ERROR_CLASSES, TunnelpilotError


def error_classes() -> list[type[TunnelpilotError]]:
    """Every error class that any module of ours defines."""
    for package in ("protocols", "actors", "sim_hardware"):
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[TunnelpilotError]] = []
    waiting = [TunnelpilotError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    ours = ("protocols.", "actors.", "sim_hardware.")
    return sorted((k for k in set(found) if k.__module__.startswith(ours)), key=lambda k: k.__qualname__)


@pytest.fixture(scope="module")
def classes() -> list[type[TunnelpilotError]]:
    """The classes, once the modules are imported."""
    return error_classes()


def test_every_error_survives_pickling(classes: list[type[TunnelpilotError]]) -> None:
    """Class, text, advice and details (given by keyword) come back from pickle."""
    assert len(classes) >= len(ERROR_CLASSES)
    for kind in classes:
        error = kind("what was awaited", "what to do", limit="bias", last_value=1.5)
        back = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
        assert type(back) is kind
        assert (back.text, back.advice, back.details) == (error.text, error.advice, error.details)
        assert str(back) == "what was awaited what to do"


def test_codes_are_unique(classes: list[type[TunnelpilotError]]) -> None:
    """A code that may travel names one class, so that a refusal can be turned back into its error."""
    codes = [kind.code for kind in classes if kind.__module__.startswith("protocols.")]
    assert sorted(codes) == sorted(set(codes))
    assert ERROR_CLASSES.items() <= {k.code: k for k in classes if k.__module__ == "protocols.errors"}.items()
