"""The daemon's own embedded Ray: settings that must be made before ``import ray``, start, watch, end.

Ray's processes listen on the loopback interface only and ask for a token; nothing leaves the machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import Any

from protocols.errors import ConfigError

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps GCS, raylet and workers on the loopback interface
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave the accelerators' variables alone
    "OMP_NUM_THREADS": "1",  # two cores: the fit must leave room for what talks to the instrument
}
CONNECT_S = 5.0
OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is about 75 MiB; we pass ids, not arrays


def prepare_environment(*, own_cluster: bool) -> None:
    """Set the variables Ray reads when it is imported.  Call before the first ``import ray``.

    A cluster that is joined has its own way to authenticate: the user's environment says which.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if own_cluster:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def temporary_directory(state: Path) -> Path:
    """Ray's directory: below 40 characters, because it puts sockets with long names in there."""
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
    return Path("/tmp") / f"tp{os.getuid()}-{digest}"


class RayCluster:
    """Ray of this daemon: its own (``address`` None) or a cluster that is joined."""

    def __init__(self, state: Path, address: str | None = None) -> None:
        self.state = state
        self.address = address
        self.pids: dict[str, int] = {}

    def start(self) -> None:
        """Start or join; takes 3 to 6 s, so call it in a thread.

        Raises:
            ConfigError: the cluster cannot be joined.
        """
        prepare_environment(own_cluster=self.address is None)
        import ray

        directory = temporary_directory(self.state)
        if self.address is None:
            # What an earlier daemon of this directory left: it is gone, we hold its lock.
            shutil.rmtree(directory, ignore_errors=True)
            ray.init(
                address="local",
                _temp_dir=str(directory),
                include_dashboard=False,
                num_cpus=os.cpu_count() or 2,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
            self.pids = _process_ids()
            return
        require_answer(self.address)
        try:
            ray.init(address=self.address, log_to_driver=False, configure_logging=False)
        except ConnectionError as refused:
            raise ConfigError(
                f"no Ray cluster answers at {self.address}: {refused}.",
                "Check --ray-address, or leave it out: the daemon then starts its own.",
            ) from refused

    def lost(self) -> str:
        """Which of Ray's processes is gone ("" while all live); looks at the processes themselves, because
        Ray reports a dead GCS only after a minute."""
        for name, pid in self.pids.items():
            if not process_lives(pid):
                return f"Ray's {name} (pid {pid})"
        return ""

    def stop(self) -> None:
        """End the embedded cluster, or leave the joined one."""
        import ray

        ray.shutdown()
        if self.address is None:
            shutil.rmtree(temporary_directory(self.state), ignore_errors=True)

    def kill(self) -> None:
        """End what is left of a broken cluster without asking it."""
        node = _node()
        if node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def require_answer(address: str) -> None:
    """Ray itself asks an address that nobody answers for minutes, deaf to signals.

    Raises:
        ConfigError: it is no HOST:PORT, or nobody listens there.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(
            f"--ray-address {address!r} is no address of a cluster.",
            "Write HOST:PORT, as 'ray start' says it.",
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as refused:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {refused}.",
            "Check --ray-address, or leave it out: the daemon then starts its own.",
        ) from refused


def process_lives(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _signal_reaches(pid)
    return status.rpartition(")")[2].split()[0] != "Z"


def _signal_reaches(pid: int) -> bool:
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _node() -> Any:
    import ray

    return ray._private.worker._global_node


def _process_ids() -> dict[str, int]:
    node = _node()
    if node is None:
        return {}
    essential = ("gcs_server", "raylet")
    return {
        name: infos[0].process.pid
        for name, infos in node.all_processes.items()
        if name in essential and infos
    }
