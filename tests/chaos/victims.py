"""Finds the processes of a laboratory by the files and answers that its users have too, and kills them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from actors.console.daemon_link import DaemonLink
from actors.runtime.ray_cluster import temporary_directory
from protocols.errors import TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.messages.daemon import DaemonStatus
from tests.chaos.schedule import ACTORS

ENDPOINTS = {
    "journal": ("journal", "pid"),
    "guard": ("gateway", "pid"),
    "worker": ("gateway", "worker_pid"),
    "daemon": ("daemon", "pid"),
    "gcs": ("daemon", "gcs_server"),
    "raylet": ("daemon", "raylet"),
}
"""Folder of the state directory and key of its endpoints.json, by victim."""

ALIVE = frozenset({"up", "alive"})
"""States of an actor that answers, as the daemon names them."""


def status(state: Path, timeout_s: float = 2.0) -> DaemonStatus | None:
    """The daemon's status; None while there is none or it does not answer."""
    try:
        with DaemonLink(state) as link:
            return link.status(0, timeout_s)
    except (TunnelpilotError, OSError):
        return None


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(pid > 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def find(state: Path, victim: str) -> int:
    """Process id of a victim that lives and works; 0 if there is none at present."""
    if victim in ACTORS:
        found = status(state)
        if found is None:
            return 0
        pid = next((a.pid for a in found.actors if a.name == victim and a.state in ALIVE), 0)
    else:
        folder, key = ENDPOINTS[victim]
        try:
            pid = int(read_endpoints(state, folder).get(key, 0) or 0)
        except (TunnelpilotError, ValueError):
            return 0
    return pid if is_alive(pid) else 0


def kill(pid: int) -> tuple[float, float]:
    """SIGKILL; (monotonic, Unix) time of it.

    Raises:
        ProcessLookupError: it has gone by itself.
    """
    os.kill(pid, signal.SIGKILL)
    return time.monotonic(), time.time()


def left_behind(state: Path) -> dict[int, str]:
    """Processes that belong to this state directory (by their command line or working files): pid -> what."""
    marks = (str(state), str(temporary_directory(state)))
    found: dict[int, str] = {}
    for process in psutil.process_iter(["pid", "cmdline", "environ", "status"]):
        if process.pid == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        words = process.info["cmdline"] or []
        surroundings = (process.info["environ"] or {}).get("RAY_SESSION_DIR", "")
        if any(mark in word for mark in marks for word in (*words, surroundings)):
            age = time.time() - process.create_time()
            found[process.pid] = f"{process.info['status']}, {age:.0f} s old: {' '.join(words)[:120]}"
    own = {p.pid for p in psutil.Process().parents()}
    return {pid: what for pid, what in found.items() if pid not in own}
