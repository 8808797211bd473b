"""``stmsim``: the simulated microscope as a process of its own, which outlives its clients."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from protocols.errors import ConfigError, TunnelpilotError
from protocols.files.logs import configure_logging
from protocols.files.state_directory import (
    AlreadyRunningError,
    ProcessLock,
    default_state_directory,
    publish_endpoints,
)
from protocols.files.truth_log import TruthEntry, read_truth, truth_path
from protocols.links.reactor import Waker
from protocols.nanonis.commands import KNOWN_RELEASES, RELEASE
from protocols.nanonis.conventions import PORTS
from sim_hardware.clock import Clock, ScaledClock, SteppedClock
from sim_hardware.controller import warm_up
from sim_hardware.damage import Crater, crater_at
from sim_hardware.door import Door
from sim_hardware.drift import DriftSettings
from sim_hardware.faults import parse_faults
from sim_hardware.nanonis.door import NanonisDoor, session_path
from sim_hardware.nanonis.loggers import TCP_LOG_PORT
from sim_hardware.nanonis.server import parse_ports
from sim_hardware.scanner import PRESETS
from sim_hardware.surfaces.base import Surface
from sim_hardware.surfaces.catalogue import make_surface
from sim_hardware.surfaces.recorded import RecordedSurface
from sim_hardware.surfaces.recording import Recorded
from sim_hardware.tip_at_surface import WorldSettings
from sim_hardware.truth import TruthPen
from sim_hardware.world import World

SWITCH_INTERVAL_S = 0.5e-3
"""How long one thread may keep the interpreter from another: bounds the latency of a withdrawal."""
PRIORITY = -5
LOCK_ATTEMPTS = 4
LOCK_PAUSE_S = 0.05
ALREADY_RUNNING = 2
FAILED = 1

log = structlog.get_logger()


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="stmsim",
        description="A simulated scanning tunneling microscope. It serves one ZeroMQ door, writes what "
        "really happened to STATE/sim/truth.jsonl, and goes on when its clients vanish.",
    )
    parser.add_argument("--state", type=Path, default=default_state_directory(), help="state directory")
    parser.add_argument(
        "--sample",
        default="vacancy",
        help="vacancy, terraces, au111, ws2, wse2, fese, euzn2as2, recorded:demo or recorded:PATH",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of surface, drift, tip and noise")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="instrument seconds per wall second (1 is real time)"
    )
    parser.add_argument(
        "--stepped", action="store_true", help="time passes only while the microscope acts, and then at once"
    )
    parser.add_argument(
        "--drift", type=float, help="factor on the thermal drift (default: 1, for recorded samples 0)"
    )
    parser.add_argument(
        "--distortions",
        choices=sorted(PRESETS),
        default="ideal",
        help="creep, hysteresis, tilt and tip changes of the microscope (default: ideal, none of them)",
    )
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:0", help="the door (port 0: any free one)")
    parser.add_argument(
        "--nanonis-ports",
        default="",
        help="open the Nanonis door too, on these ports: 6501-6504, or 0,0,0,0 for any free ones",
    )
    parser.add_argument(
        "--nanonis-release",
        type=int,
        choices=KNOWN_RELEASES,
        default=RELEASE,
        help="release of the Nanonis software whose layouts that door speaks (default: the newest)",
    )
    parser.add_argument(
        "--faults",
        default="",
        help="faults of the first answers, KIND[:COUNT[:SECONDS]],... for example drop:3",
    )
    parser.add_argument("--verbose", action="store_true", help="log to the terminal too")
    parser.add_argument("--announce", action="store_true", help="say on the terminal when the doors are open")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT, then withdraw and exit."""
    options = build_parser().parse_args(arguments)
    lock = ProcessLock(options.state, "sim")
    try:
        acquire(lock)
        run(options)
    except AlreadyRunningError as running:
        print(f"stmsim: {running}", file=sys.stderr)
        sys.exit(ALREADY_RUNNING)
    except TunnelpilotError as failed:
        print(f"stmsim: {failed}", file=sys.stderr)
        sys.exit(FAILED)
    finally:
        lock.release()


def acquire(lock: ProcessLock) -> None:
    """Take the lock.  Who only looks whether it is taken holds it for a moment: try more than once.

    Raises:
        AlreadyRunningError: another stmsim has it.
    """
    for _ in range(LOCK_ATTEMPTS - 1):
        try:
            lock.acquire()
        except AlreadyRunningError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return
    lock.acquire()


def run(options: argparse.Namespace) -> None:
    """Build the world, open the door, serve."""
    configure_logging("stmsim", options.state / "sim" / "stmsim.log", terminal=options.verbose)
    surface = make_surface(options.sample, options.seed)
    faults = parse_faults(options.faults)
    waker = Waker()
    pen, world = make_world(options, surface, waker)
    door: Door | None = None
    nanonis: NanonisDoor | None = None
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()
        waker.wake()

    try:
        door = Door(world, options.endpoint, options.seed, truth_path(options.state), waker)
        for fault in faults:
            door.faults.plan(fault, 0.0)
        nanonis = open_nanonis(options, world)
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        raise_priority()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        world.start()
        ports = list(nanonis.ports) if nanonis is not None else []
        if nanonis is not None:
            nanonis.start()
        publish_endpoints(
            options.state,
            "sim",
            door=door.server.endpoint,
            sample=options.sample,
            nanonis_ports=ports,
            nanonis_log_port=nanonis.log_port if nanonis is not None else 0,
        )
        log.info("open", door=door.server.endpoint, nanonis=ports, sample=options.sample, seed=options.seed)
        if options.announce:
            announce(options, door, nanonis)
        while not ended.is_set():
            door.serve_once()
        if nanonis is not None:
            nanonis.close()
        world.close()
        world.note("exit")
    finally:
        if nanonis is not None:
            nanonis.close()
        if door is not None:
            door.close()
        pen.close()
        waker.close()
        log.info("closed")


def announce(options: argparse.Namespace, door: Door, nanonis: NanonisDoor | None) -> None:
    """Tell a person where the microscope can be reached."""
    ports = " ".join(str(port) for port in nanonis.ports) if nanonis is not None else "none"
    print(f"A simulated microscope over {options.sample}, time scale {options.time_scale:g}.")
    print(f"  Nanonis TCP  127.0.0.1, ports {ports}" + (f", log {nanonis.log_port}" if nanonis else ""))
    print(f"  Tunnelpilot  {door.server.endpoint}")
    print(f"  files        {session_path(options.state)}")
    print("Ctrl-C withdraws the tip and ends it.", flush=True)


def open_nanonis(options: argparse.Namespace, world: World) -> NanonisDoor | None:
    """The Nanonis door, if it is wanted.

    Raises:
        ConfigError: its ports make no sense or cannot be had.
    """
    if not options.nanonis_ports:
        return None
    ports = parse_ports(options.nanonis_ports)
    log_port = TCP_LOG_PORT if PORTS[0] in ports else 0
    return NanonisDoor(world, session_path(options.state), ports, options.nanonis_release, log_port)


def make_world(options: argparse.Namespace, surface: Surface, waker: Waker) -> tuple[TruthPen, World]:
    """The world as an earlier process with this state directory left it: its clock goes on, the tip is
    as worn as it was, and withdrawn.

    Raises:
        DataFormatError: the truth log is damaged.
    """
    path = truth_path(options.state)
    earlier = read_truth(path) if path.exists() else []
    start_s = max((entry.time_s for entry in earlier), default=0.0)
    tip_changes, tip_cause = last_tip(earlier)
    clock: Clock = SteppedClock(start_s) if options.stepped else ScaledClock(options.time_scale, start_s)
    pen = TruthPen(path)
    settings = WorldSettings(
        drift=drift_settings(options.drift, surface), scanner=PRESETS[options.distortions]
    )
    craters = () if isinstance(surface, Recorded) else craters_of(earlier, options.sample, options.seed)
    world = World(surface, clock, pen, options.seed, settings, tip_changes, waker.wake, tip_cause, craters)
    warm_up()
    world.note(
        "start",
        pid=os.getpid(),
        sample=options.sample,
        seed=options.seed,
        time_scale=clock.scale,
        stepped=clock.stepped,
        restart=bool(earlier),
    )
    told = [entry.detail for entry in earlier if entry.event == "ground_truth"]
    if not told or (told[-1].get("sample"), told[-1].get("seed")) != (options.sample, options.seed):
        world.note("ground_truth", **ground_truth(world, options.sample))
    return pen, world


def last_tip(earlier: Sequence[TruthEntry]) -> tuple[int, str]:
    """How often the tip has changed according to the truth log, and what changed it last."""
    changed = [(int(e.detail.get("tip_changes", 0)), e) for e in earlier]
    changes = max((count for count, _ in changed), default=0)
    if changes == 0:
        return 0, "crash"
    entry = next(e for count, e in changed if count == changes)
    known = {"crash": "crash", "pulse": "pulse", "indentation": "indentation"}
    return changes, known.get(entry.event, str(entry.detail.get("cause", "spontaneous")))


def craters_of(earlier: Sequence[TruthEntry], sample: str, seed: int) -> tuple[Crater, ...]:
    """What earlier crashes left on this surface; those into another sample of this directory do not count."""
    crashes: list[dict[str, Any]] = []
    same = False
    for entry in earlier:
        if entry.event == "ground_truth":  # written whenever another surface is put in
            same = (entry.detail.get("sample"), entry.detail.get("seed")) == (sample, seed)
            crashes = []
        elif same and entry.event == "crash" and "sample_x_m" in entry.detail:
            crashes.append(entry.detail)
    return tuple(
        crater_at(float(where["sample_x_m"]), float(where["sample_y_m"]), seed, number)
        for number, where in enumerate(crashes)
    )


def drift_settings(factor: float | None, surface: Surface) -> DriftSettings:
    """The usual drift times a factor; a recorded sample stands still unless it is told otherwise.

    Raises:
        ConfigError: a negative or absurd factor.
    """
    share = factor if factor is not None else 0.0 if isinstance(surface, Recorded) else 1.0
    if not 0.0 <= share <= 1000.0:
        raise ConfigError(f"a drift factor of {share:g} is outside 0 to 1000.")
    usual = DriftSettings()
    return DriftSettings(share * usual.lateral_m_s, share * usual.vertical_m_s)


def ground_truth(world: World, sample: str) -> dict[str, object]:
    """Everything on the surface, for the truth log."""
    found: dict[str, object] = {
        "sample": sample,
        "seed": world.seed,
        "extent_m": world.surface.extent_m,
        "objects": [
            {
                "kind": o.kind,
                "form": o.form,
                "x_m": o.x_m,
                "y_m": o.y_m,
                "size_m": o.size_m,
                "height_m": o.height_m,
                "footprint_m": o.footprint_m,
                "spectrum": o.spectrum,
                **o.detail,
            }
            for o in world.surface.objects
        ],
    }
    if isinstance(world.surface, RecordedSurface):
        grid = world.surface.grid
        ny, nx = grid.shape
        found["grid"] = {
            "file": grid.path.name,
            "nx": nx,
            "ny": ny,
            "width_m": grid.width_m,
            "height_m": grid.height_m,
            "recorded_angle_rad": grid.angle_rad,
            "recorded_centre_m": [grid.centre_x_m, grid.centre_y_m],
        }
    return found


def raise_priority() -> None:
    """Electronics do not wait for analysis: go before other processes where the system allows it."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except PermissionError:
        log.info("priority not raised: not permitted")


if __name__ == "__main__":
    main()
