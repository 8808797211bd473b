"""Runs two of Scanbot's programmes through its web interface; in its environment, knows nothing of ours.

    python run_scanbot.py FOLDER

Prints a JSON list of [what, whether it went well, note].
"""

import json
import sys
import time

sys.argv, folder = ["scanbot"], sys.argv[1]

from scanbot.server.server import app_  # noqa: E402  (it reads the command line while it is imported)

PROGRAMMES = {
    "survey": ["-n=1", "-st=0.1", "-nx=1", "-ny=1", "-xy=10e-9", "-dx=20e-9", "-px=32"],
    "biasdep": ["-n=2", "-bi=0.5", "-bf=1", "-px=32", "-lx=32", "-pxdc=32", "-lxdc=32", "-tdc=0.1"],
}
START_S = 10.0
RUN_S = 150.0
LOOK_S = 0.2


def until(condition, seconds):
    """Whether a condition came about in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(LOOK_S)
    return False


def main():
    """Connect, run each programme, look at what it made."""
    found = []
    web = app_(test=True, tmp_path=folder).test_client()
    answer = web.get("/test_connection")
    found.append(["connection", answer.get_json() == {"status": True}, str(answer.get_json())])
    for name, arguments in PROGRAMMES.items():
        answer = web.post(f"/run_{name}", json={"userArgs": arguments})
        found.append([f"{name} starts", answer.status_code == 200, str(answer.get_json())])
        until(lambda: web.get("/get_state").get_json()["running"], START_S)
        ended = until(lambda: not web.get("/get_state").get_json()["running"], RUN_S)
        found.append([f"{name} ends by itself", ended, f"within {RUN_S:g} s"])
        if not ended:
            web.get("/stop")
            until(lambda: not web.get("/get_state").get_json()["running"], START_S)
        picture = web.post("/image_updates", json={"timestamp": 0})
        good = picture.status_code == 200 and picture.data.startswith(b"\x89PNG")
        found.append(
            [f"{name} serves a picture", good, f"status {picture.status_code}, {len(picture.data)} bytes"]
        )
    film = web.get("/get_gif")
    good = film.status_code == 200 and film.data.startswith(b"GIF8")
    found.append(["biasdep serves a film", good, f"status {film.status_code}"])
    answer = web.get("/stop")
    found.append(["stop", answer.status_code == 200, str(answer.get_json())])
    print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
