"""Finding and opening serial ports: by device file, by the name that stays (/dev/serial/by-id), by the site's
file, or the simulated ones."""

from __future__ import annotations

import fcntl
import os
import termios
import tomllib
from pathlib import Path

import serial

from actors.gateway.drivers.serial.adapter import READ_SHARE, PortLostError
from protocols.errors import ConfigError, LinkLostError, TunnelpilotError
from protocols.files.state_directory import read_endpoints
from protocols.instrument.auxiliary import MODELS
from protocols.messages.campaign import AuxiliarySection

SITE_FILE = "ports.toml"
"""In the state directory: a table [ports] with a port for each instrument's name."""
SIMULATED = "simulated"
BY_ID = Path("/dev/serial/by-id")
PTY_MAJORS = range(136, 144)
"""Device numbers of Unix98 pseudo-terminals (Linux, Documentation/admin-guide/devices.txt)."""


def find_port(section: AuxiliarySection, state: Path, by_id: Path = BY_ID) -> str:
    """Device file of an instrument's port.

    Raises:
        ConfigError: the site's file is wrong, no port of that name exists, or several do.
        PortLostError: the simulated instruments do not run.
    """
    wanted = section.port or _of_the_site(section, state / SITE_FILE)
    if wanted == SIMULATED:
        return _simulated(section, state)
    if "/" in wanted or wanted.upper().startswith("COM"):
        return wanted
    names = sorted(p.name for p in by_id.iterdir()) if by_id.is_dir() else []
    found = [n for n in names if n == wanted] or [n for n in names if wanted in n]
    if len(found) == 1:
        return str(by_id / found[0])
    what = f"several ports match: {', '.join(found)}" if found else "there is no such port"
    raise ConfigError(
        f"the port {wanted!r} of {section.name}: {what} in {by_id}.",
        f"There are: {', '.join(names) or 'none'}. A device file such as /dev/ttyUSB0 is possible too.",
    )


def open_port(section: AuxiliarySection, path: str) -> serial.Serial:
    """Open a port for one instrument alone, with the settings of its manual.

    Raises:
        PortLostError: it is not there, may not be used, or somebody else has it.
    """
    model = MODELS[section.model]
    try:
        port = serial.Serial(
            path,
            baudrate=section.baud or model.baud,
            bytesize=model.data_bits,
            parity=model.parity,
            stopbits=1,
            timeout=READ_SHARE * section.timeout_s,
            write_timeout=section.timeout_s,
            exclusive=True,
        )
    except (serial.SerialException, OSError, ValueError) as failed:
        raise PortLostError(
            f"{section.name} ({model.title}): the port {path} cannot be opened: {failed}.",
            "Is it plugged in, may this user use it (group dialout), does another program have it?",
            instrument=section.name,
            port=path,
        ) from failed
    try:
        _claim(port)
        _check_parity(port, model.parity)
    except (OSError, termios.error) as failed:
        port.close()
        raise PortLostError(
            f"{section.name} ({model.title}): the port {path} is gone again: {failed}.",
            "Look at its plug.",
            instrument=section.name,
            port=path,
        ) from failed
    return port


def _claim(port: serial.Serial) -> None:
    """Keep other programs out too, not only those that ask for the lock.  A pseudo-terminal would stay
    claimed if this process was killed, because its other end keeps it."""
    if os.major(os.fstat(port.fileno()).st_rdev) not in PTY_MAJORS:
        try:
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        except OSError:
            pass  # not every driver has it; the lock of pyserial is there


def _check_parity(port: serial.Serial, parity: str) -> None:
    """pyserial sends parity but does not check it: let the kernel deliver a wrong character as a zero byte,
    which no answer may contain."""
    settings = termios.tcgetattr(port.fileno())
    flags = settings[0] & ~(termios.IGNPAR | termios.PARMRK)
    settings[0] = flags | (termios.INPCK if parity != "N" else 0)
    termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)


def _of_the_site(section: AuxiliarySection, path: Path) -> str:
    advice = f'Write port = "..." into [auxiliary.{section.name}], or a line into [ports] of {path}.'
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("ports", {})
    except FileNotFoundError:
        raise ConfigError(f"{section.name} has no port.", advice) from None
    except (OSError, ValueError) as broken:
        raise ConfigError(f"{path} cannot be read: {broken}.", advice) from broken
    named = table.get(section.name) if isinstance(table, dict) else None
    if not isinstance(named, str) or not named:
        raise ConfigError(f"{path} names no port for {section.name}.", advice)
    return named


def _simulated(section: AuxiliarySection, state: Path) -> str:
    try:
        ports = read_endpoints(state, "serial").get("ports", {})
    except LinkLostError as none:
        raise _not_simulated(section, "no instruments are simulated") from none
    except TunnelpilotError as broken:
        raise _not_simulated(section, str(broken)) from broken
    if section.name not in ports:
        known = ", ".join(ports) or "none"
        raise _not_simulated(section, f"the simulated instruments are called {known}")
    return str(ports[section.name])


def _not_simulated(section: AuxiliarySection, why: str) -> PortLostError:
    return PortLostError(
        f"{section.name}: {why}.",
        f"Start them: stmctl simulate serial --instrument {section.name}={section.model}",
        instrument=section.name,
        port=SIMULATED,
    )
