"""Logging: structlog to a JSON-lines file that is bounded on disk, and a readable form on a terminal.

Ids (run, job, actor) are bound with ``structlog.contextvars`` and so travel through every line.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

import structlog
from structlog.typing import EventDict, WrappedLogger

MAXIMUM_BYTES = 10_000_000
KEPT_FILES = 5


def configure_logging(
    process: str, file: Path | None, *, terminal: bool = False, level: str = "INFO"
) -> None:
    """Send logs of this process to ``file`` (JSON lines, at most 5 x 10 MB) and, if asked, to stderr.

    ``process`` is bound to every line.  Call once at start.
    """
    handlers: list[logging.Handler] = []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rotating = logging.handlers.RotatingFileHandler(
            file, maxBytes=MAXIMUM_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
        rotating.setFormatter(
            structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer(default=str))
        )
        handlers.append(rotating)
    if terminal:
        stream = logging.StreamHandler(sys.stderr)
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        stream.setFormatter(
            structlog.stdlib.ProcessorFormatter(processor=structlog.dev.ConsoleRenderer(colors=colours))
        )
        handlers.append(stream)
    root = logging.getLogger()
    root.handlers[:] = handlers or [logging.NullHandler()]
    root.setLevel(level)

    def name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        event.setdefault("pid", os.getpid())
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            name_process,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
