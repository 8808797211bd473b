"""Error families.  Each error names what was awaited, from whom, for how long, the last value, what to do.

Two families are kept apart: ``UsageError`` (you broke the rules) and ``PeerError`` (the other side did).
Every class survives pickling, also with keyword arguments: the constructor takes one text and optional
details, and ``__reduce__`` restores both.
"""

from __future__ import annotations

from typing import Any


class TunnelpilotError(Exception):
    """Base of all our errors.  ``code`` is stable and machine-readable; ``advice`` says what to do."""

    code = "error"

    def __init__(self, text: str, advice: str = "", **details: Any) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice
        self.details = details

    def __str__(self) -> str:
        return f"{self.text} {self.advice}".rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (type(self), self.text, self.advice, self.details))


def _restore(
    kind: type[TunnelpilotError], text: str, advice: str, details: dict[str, Any]
) -> TunnelpilotError:
    return kind(text, advice, **details)


class UsageError(TunnelpilotError):
    """We were asked for something that is not allowed or makes no sense."""

    code = "usage"


class ConfigError(UsageError):
    """A file or option is wrong; the text names file, key and allowed range."""

    code = "config"


class LimitError(UsageError):
    """An interlock refuses; ``details["limit"]`` names the limit."""

    code = "limit"


class LatchedError(UsageError):
    """The tip is latched parked until a person acknowledges."""

    code = "latched"


class StaleEpochError(UsageError):
    """The sender no longer owns the tip."""

    code = "stale-epoch"


class PeerError(TunnelpilotError):
    """The other side failed or broke the protocol."""

    code = "peer"


class DeadlineError(PeerError):
    """Nothing came in time."""

    code = "deadline"


class LinkLostError(PeerError):
    """The peer is gone."""

    code = "link-lost"


class MalformedMessageError(PeerError):
    """Bytes that are no message of ours."""

    code = "malformed"


class UnknownMessageError(PeerError):
    """A message kind we do not know: the peer is newer."""

    code = "unknown-kind"


class VersionError(PeerError):
    """The peer speaks another protocol version."""

    code = "version"


class RefusedError(PeerError):
    """The peer understood and refused; ``details["refusal_code"]`` holds its code."""

    code = "refused"


class DriverError(PeerError):
    """The electronics refused, failed or answered nonsense."""

    code = "driver"


class StorageError(TunnelpilotError):
    """A journal or spool could not be written or read."""

    code = "storage"


class DiskFullError(StorageError):
    """No room for the next result; nothing was measured."""

    code = "disk-full"


class DataFormatError(UsageError):
    """A data file is truncated or not what it claims to be."""

    code = "format"


ERROR_CLASSES: dict[str, type[TunnelpilotError]] = {
    c.code: c
    for c in (
        TunnelpilotError,
        UsageError,
        ConfigError,
        LimitError,
        LatchedError,
        StaleEpochError,
        PeerError,
        DeadlineError,
        LinkLostError,
        MalformedMessageError,
        UnknownMessageError,
        VersionError,
        RefusedError,
        DriverError,
        StorageError,
        DiskFullError,
        DataFormatError,
    )
}
"""By code, for refusals that travel."""
