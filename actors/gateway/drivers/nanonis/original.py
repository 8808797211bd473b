"""What the electronics were set to before we changed it: on disk, until it is set again.

The worker writes down each setting before it changes it for the first time; whoever parks the tip (the guard,
or a worker whose guard is gone) sets it again once the tip is withdrawn.  What a crash has left behind is set
again after the next start's park.  The file is beside the gateway's others, one for each address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from actors.gateway.drivers.nanonis.panel import Panel, Setting
from protocols.errors import TunnelpilotError
from protocols.files.state_directory import write_durably
from protocols.nanonis.address import Address

log = structlog.get_logger(__name__)

NOTHING_ANSWERS = frozenset({"not sent", "unknown"})
"""Outcomes after which nothing more is tried: see ``link``."""


class OriginalSettings:
    """The file of one address.  Of several processes only one acts on the electronics at a time."""

    def __init__(self, folder: Path, address: Address) -> None:
        host = "".join(c if c.isalnum() or c in ".-" else "-" for c in address.host)
        self.path = folder / f"nanonis_{host}_{address.ports[0]}.json"
        self._known: dict[str, dict[str, Any]] = {}
        self._signature: tuple[int, ...] | None = None

    def knows(self, setting: Setting) -> bool:
        """Whether it is written down already."""
        self._load()
        return setting.key in self._known

    def keep(self, panel: Panel, setting: Setting, found: Mapping[str, Any]) -> None:
        """Write down what was found before the first change; later ones change nothing here."""
        self._load()
        if setting.key in self._known:
            return
        names = panel.channel.table[f"{setting.stem}Set"].arguments.names
        values = {name: _plain(found[name]) for name in names if name in found and name not in setting.device}
        self._known[setting.key] = {
            "stem": setting.stem,
            "device": dict(setting.device),
            "tolerance": dict(setting.tolerance),
            "values": values,
        }
        self._store()

    @property
    def kept(self) -> tuple[str, ...]:
        """Keys of the settings that wait to be set again."""
        self._load()
        return tuple(self._known)

    def restore(self, panel: Panel, but: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Set everything as it was, in the order of the first changes; what went wrong is told and stays in
        the file.

        ``but``: stems that are left for another time.
        """
        self._load()
        problems = []
        done = False
        for key, entry in list(self._known.items()):
            if entry["stem"] in but:
                continue
            try:
                _set_again(panel, entry)
            except TunnelpilotError as problem:
                problems.append(f"{key}: {problem.text}")
                if problem.details.get("outcome") in NOTHING_ANSWERS:
                    break  # the rest would fail too
            else:
                del self._known[key]
                done = True
        if done:
            self._store()
            log.info("original settings restored", left=list(self._known), problems=problems)
        return tuple(problems)

    def _load(self) -> None:
        """Read the file if it is another one than last time."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._known, self._signature = {}, None
            return
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        if signature == self._signature:
            return
        try:
            entries = dict(json.loads(self.path.read_bytes())["settings"])
        except (ValueError, KeyError, TypeError) as damaged:
            log.error("the original settings cannot be read", path=str(self.path), problem=str(damaged))
            self.path.replace(self.path.with_suffix(".damaged"))
            self._known, self._signature = {}, None
            return
        self._known = {key: entry for key, entry in entries.items() if _makes_sense(entry)}
        if strange := sorted(set(entries) - set(self._known)):
            log.error("original settings that make no sense", path=str(self.path), keys=strange)
            write_durably(self.path.with_suffix(".damaged"), self.path.read_bytes())
        self._signature = signature

    def _store(self) -> None:
        if not self._known:
            self.path.unlink(missing_ok=True)
            self._signature = None
            return
        write_durably(self.path, json.dumps({"settings": self._known}, indent=1).encode())
        found = self.path.stat()
        self._signature = (found.st_ino, found.st_mtime_ns, found.st_size)


def _makes_sense(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("stem"), str)
        and all(isinstance(entry.get(part), dict) for part in ("device", "tolerance", "values"))
    )


def _set_again(panel: Panel, entry: Mapping[str, Any]) -> None:
    setting = Setting(entry["stem"], entry["device"], entry["tolerance"])
    known = panel.channel.table[f"{setting.stem}Set"].arguments.names
    values = {name: value for name, value in entry["values"].items() if name in known}
    panel.ensure(setting, kept=False, **values)


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
