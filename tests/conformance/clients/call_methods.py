"""Calls methods of the official client one by one; runs in its environment and knows nothing of ours.

    python call_methods.py PORT CALLS.json OUT.jsonl

CALLS.json is a list of [method, arguments]; an argument "$METHOD.2" is the third value that METHOD gave
before.  For each call a line of OUT.jsonl tells the error text, how many parts the answer had, its values and
the seconds it took.  After a call that broke the connection or took too long a new one is opened.
"""

import contextlib
import io
import json
import socket
import sys
import time
import traceback
from pathlib import Path

import nanonis_spm
import numpy as np

ANSWER_S = 30.0


def plain(value):
    """A value as JSON can hold it; long arrays by their shape and ends."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist()) if value.size <= 64 else {"shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value[:300]]
    if isinstance(value, np.generic):
        return value.item()
    return value


def argument(text, before):
    """An argument as it is meant."""
    if text == "NaN":
        return float("nan")
    if isinstance(text, str) and text.startswith("$"):
        method, place = text[1:].split(".")
        return before[method][int(place)] if before.get(method) else 0
    return text


def connect(port):
    """A new client."""
    link = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
    return nanonis_spm.Nanonis(link)


def main(port, calls, out):
    """Call them all."""
    client = connect(port)
    before = {}
    with Path(out).open("w") as lines:
        for method, arguments in calls:
            arguments = [argument(value, before) for value in arguments]
            client.connection.settimeout(ANSWER_S)
            words = io.StringIO()
            began = time.monotonic()
            entry = {"method": method, "error": "", "parts": 0, "values": []}
            try:
                with contextlib.redirect_stdout(words):
                    answer = getattr(client, method)(*arguments)
                entry["parts"] = len(answer)
                entry["error"] = answer[0] if answer else words.getvalue().strip()
                entry["values"] = plain(answer[2]) if len(answer) == 3 else []
            except Exception:  # noqa: BLE001  (whatever the client raises is what is looked for)
                entry["error"] = traceback.format_exc(limit=-2).strip()
                client.close()
                time.sleep(0.3)
                client = connect(port)
            before[method] = entry["values"]
            entry["seconds"] = time.monotonic() - began
            lines.write(json.dumps(entry) + "\n")
            lines.flush()
    client.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
