"""``stmctl withdraw``: retract the tip now.  Imports pyzmq, msgpack and the standard library, nothing else.

It speaks to the guard's own stop socket, past daemon, Ray, journal and job queue.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path

from protocols.errors import TunnelpilotError
from protocols.files.state_directory import default_state_directory, read_endpoints
from protocols.links.stop import send_stop

DEADLINE_S = 0.7
"""With the start of Python this stays below one second."""

FAILED, UNREACHABLE = 1, 3
"""As in ``actors.console.outcome``, which is not imported here."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="stmctl withdraw",
        description="Emergency: withdraw the tip now and park. Works when the daemon and Ray are dead; needs "
        "the gateway alone. Exit code 0: the retraction has begun; 1: the gateway tries and has not "
        "succeeded yet; 3: no gateway answers, withdraw by hand.",
    )
    parser.add_argument(
        "--state", type=Path, default=None, help="state directory (default: $TUNNELPILOT_STATE)"
    )
    parser.add_argument("--reason", default="", help="for the record")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def main(arguments: list[str]) -> int:
    """Send the stop and say what came of it; the exit code."""
    words = list(arguments)
    words.remove("withdraw")
    options = build_parser().parse_args(words)
    state = options.state or default_state_directory()
    try:
        reason = options.reason or f"stmctl withdraw by {_who()}"
        answer = send_stop(str(_safety_endpoint(state)), reason, DEADLINE_S)
    except TunnelpilotError as problem:
        if options.json:
            _document({"withdrawn": False, "error": problem.code, "text": problem.text})
        by_hand = "" if "by hand" in problem.advice else " Withdraw by hand at the electronics."
        print(f"stmctl: NOT WITHDRAWN: {problem}{by_hand}", file=sys.stderr)
        return UNREACHABLE if problem.code in ("deadline", "link-lost", "config") else FAILED
    withdrawn = bool(answer.get("withdrawn"))
    if options.json:
        _document(
            {
                "withdrawn": withdrawn,
                "detail": str(answer.get("detail", "")),
                "took_s": answer.get("took_s"),
                "round_trip_s": answer.get("round_trip_s"),
            }
        )
    elif withdrawn:
        milliseconds = 1000 * float(answer["round_trip_s"])
        print(f"Withdrawing: the retraction has begun, {milliseconds:.0f} ms after the call.")
    if not withdrawn:
        text = str(answer.get("detail", "")).rstrip(".")
        print(
            f"stmctl: NOT WITHDRAWN YET: {text}. The gateway goes on trying; look at the tip.",
            file=sys.stderr,
        )
        return FAILED
    return 0


def _safety_endpoint(state: Path) -> object:
    endpoint = read_endpoints(state, "gateway").get("safety")
    if not endpoint:
        from protocols.errors import ConfigError

        raise ConfigError(
            f"{state / 'gateway' / 'endpoints.json'} names no stop socket.", "Withdraw by hand."
        )
    return endpoint


def _document(body: dict[str, object]) -> None:
    print(json.dumps({"schema": "tunnelpilot/withdraw/1", **body}))


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
