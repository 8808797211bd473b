"""Environments with other people's packages, made once and kept under .conformance."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".conformance"

INSTALL_S = 900.0


class SetUpError(RuntimeError):
    """An environment could not be made; the text holds the end of pip's words."""


def requirements(name: str) -> Path:
    """The pinned packages of an environment."""
    return HERE / "requirements" / f"{name}.txt"


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made if it is not there or its requirements changed.

    Raises:
        SetUpError: pip failed or took too long.
    """
    folder = KEPT / name
    stamp = folder / "stamp"
    recipe = requirements(name).read_bytes() + sys.version.encode()
    wanted = hashlib.sha256(recipe).hexdigest()
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and interpreter.exists():
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _install(name, folder, interpreter)
    stamp.write_text(wanted)
    return interpreter


def _install(name: str, folder: Path, interpreter: Path) -> None:
    """A fresh environment with exactly the packages listed: what they say they need is pinned in the list."""
    pip = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "-r", str(requirements(name))],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired as late:
            raise SetUpError(f"{name}: {' '.join(command)} took more than {INSTALL_S:g} s.") from late
        if done.returncode != 0:
            raise SetUpError(f"{name}: {' '.join(command)} failed:\n{done.stderr[-2000:]}")


def run_client(
    interpreter: Path, arguments: list[str], *, deadline_s: float, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a client in its environment, without ours on its path, in ``folder``; killed after the deadline.

    The client's return code is -9 if it was killed; output is what it had written until then.
    """
    own = {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **variables}
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in dropped} | own
    began = time.monotonic()
    process = subprocess.Popen(
        [str(interpreter), *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        errors += f"\nkilled after {time.monotonic() - began:.0f} s"
    except BaseException:  # an interrupt must not leave the client behind
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
