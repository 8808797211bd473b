"""Runs a console script in this interpreter and says when its stop message left.

python tests/bench/stamped_command.py .venv/bin/stmctl withdraw ...

The script is the installed one, unchanged; only the last step before the socket, packing the message, is
watched.  After the command's own output one more line comes on stdout: the message's
``sent_monotonic_s``, which is on the system-wide monotonic clock, like the truth log's.
"""

from __future__ import annotations

import atexit
import runpy
import sys
from typing import Any

import msgpack

_pack = msgpack.packb


def _watched(message: Any) -> bytes:
    packed: bytes = _pack(message)
    sent_s = message[2].get("sent_monotonic_s")
    atexit.register(lambda: print(f"sent_monotonic_s {sent_s!r}"))
    return packed


if __name__ == "__main__":
    msgpack.packb = _watched
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
