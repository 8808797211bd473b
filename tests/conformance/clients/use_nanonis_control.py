"""Drives the tip with nanonis-control, which takes each answer from a single read of the socket; runs in its
environment and knows nothing of ours.

    python use_nanonis_control.py PORT

Prints a JSON list of [what, whether it went well, note].
"""

import json
import math
import sys
import time
import traceback

from nanonis_control.nanonis_tcp import nanonis_programming_interface

WAIT_S = 20.0


def close_to(found, wanted):
    """Whether a number is the one that was set, to float32."""
    return math.isclose(found, wanted, rel_tol=1e-6)


def bias(tip):
    """A bias by number and by text."""
    tip.BiasSet("250m")
    yield close_to(tip.BiasGet(), 0.25), tip.BiasGet()
    tip.BiasSet(-0.5)
    yield close_to(tip.BiasGet(), -0.5), tip.BiasGet()


def setpoint(tip):
    """The setpoint."""
    tip.SetpointSet("80p")
    yield close_to(tip.SetpointGet(), 80e-12), tip.SetpointGet()


def feedback(tip):
    """Feedback on: the current comes to its setpoint."""
    tip.FeedbackOnOffSet("On")
    yield tip.FeedbackOnOffGet() == "On", tip.FeedbackOnOffGet()
    end, current = time.monotonic() + WAIT_S, 0.0
    while not 20e-12 < abs(current) < 320e-12 and time.monotonic() < end:
        current = tip.CurrentGet()
    yield 20e-12 < abs(current) < 320e-12, current


def position(tip):
    """The tip goes to a place and says that it is there."""
    tip.TipXYSet("2n", -3e-9)
    place = tip.TipXYGet()
    yield math.hypot(place["X"] - 2e-9, place["Y"] + 3e-9) < 1e-11, place


def height(tip):
    """Feedback off: the height can be set, 1 nm higher."""
    tip.FeedbackOnOffSet("Off")
    end = time.monotonic() + WAIT_S
    while tip.FeedbackOnOffGet() != "Off" and time.monotonic() < end:
        pass
    before = tip.TipZGet()
    tip.TipZSet(before + 1e-9)
    end = time.monotonic() + WAIT_S
    while abs(tip.TipZGet() - before - 1e-9) > 2e-11 and time.monotonic() < end:
        pass
    yield abs(tip.TipZGet() - before - 1e-9) < 2e-11, [before, tip.TipZGet()]


def withdraw(tip):
    """Withdrawn, the feedback is off and no current flows."""
    tip.Withdraw()
    yield tip.FeedbackOnOffGet() == "Off", tip.FeedbackOnOffGet()
    yield abs(tip.CurrentGet()) < 20e-12, tip.CurrentGet()


def unknown(tip):
    """A command that does not exist gets an answer that names an error."""
    answer = tip.send("Nothing.Get")
    yield answer["body_size"] > 8 and int.from_bytes(answer["body"][:4], "big") == 1, str(answer)


def main(port):
    """Do all of it."""
    tip = nanonis_programming_interface(PORT=port)
    tip.socket.settimeout(WAIT_S)
    found = []
    for step in (bias, setpoint, feedback, position, height, withdraw, unknown):
        try:
            found += [[step.__name__, bool(good), str(note)] for good, note in step(tip)]
        except Exception:  # noqa: BLE001  (whatever the client raises is what is looked for)
            found.append([step.__name__, False, traceback.format_exc(limit=-2)])
    tip.close()
    print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
