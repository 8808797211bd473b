"""Finding a run by what a person types."""

from __future__ import annotations

import difflib
from pathlib import Path

from protocols.errors import ConfigError

JOURNAL = "journal.db"


def run_names(state: Path) -> list[str]:
    """Names of all runs with a journal, oldest first."""
    found = list((state / "runs").glob(f"*/{JOURNAL}"))
    return [p.parent.name for p in sorted(found, key=lambda p: (p.parent.stat().st_ctime, p.parent.name))]


def find_run(state: Path, name: str) -> Path:
    """Directory of the run called ``name``, of the only run that begins so, or of the newest one for "last".

    Raises:
        ConfigError: none, or several; names what there is.
    """
    names = run_names(state)
    if not names:
        raise ConfigError(
            f"there are no runs in {state}.", "Start one with 'stmctl run', or name another --state."
        )
    if name == "last":
        return state / "runs" / _newest(state)
    if name in names:
        return state / "runs" / name
    beginning = [n for n in names if n.startswith(name)]
    if len(beginning) == 1:
        return state / "runs" / beginning[0]
    if beginning:
        raise ConfigError(f"'{name}' could be {_listed(beginning)}.", "Say more of the name, or 'last'.")
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}? " if close else f"There are {_listed(names)}. "
    raise ConfigError(f"there is no run '{name}' in {state}.", f"{hint}'stmctl runs' lists them all.")


def _newest(state: Path) -> str:
    from actors.journal.reader import runs

    return runs(state)[0].run if runs(state) else run_names(state)[-1]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
