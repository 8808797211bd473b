"""Exit codes, and how an error becomes one."""

from __future__ import annotations

import enum

from protocols.errors import TunnelpilotError


class ExitCode(enum.IntEnum):
    """What the shell is told."""

    OK = 0
    FAILED = 1
    """It was tried and came out badly: a run failed or was aborted, a job was refused, a replay differs."""
    USAGE = 2
    """The command, a file or a value is wrong; nothing was done."""
    UNREACHABLE = 3
    """No daemon or no gateway answers."""
    HELD = 4
    """A person is needed: the tip is latched, or the run holds."""
    INTERRUPTED = 130
    """Ctrl-C."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 tried, and it came out badly; 2 the command, a file or a value is wrong; "
    "3 no daemon or gateway answers; 4 a person is needed (latched, held); 130 interrupted."
)

_BY_CODE = {
    "usage": ExitCode.USAGE,
    "config": ExitCode.USAGE,
    "format": ExitCode.USAGE,
    "limit": ExitCode.FAILED,
    "latched": ExitCode.HELD,
    "deadline": ExitCode.UNREACHABLE,
    "link-lost": ExitCode.UNREACHABLE,
}


def exit_code_of(error: TunnelpilotError) -> ExitCode:
    """The exit code an error stands for."""
    code = str(error.details.get("refusal_code", error.code))
    return _BY_CODE.get(code, ExitCode.FAILED)
