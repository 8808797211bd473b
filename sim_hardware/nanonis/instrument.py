"""What the electronics' panels hold: settings, open windows, the session's folder; and the world they act on.

Panels that need more than plain settings keep a dataclass of their own here, found by its type (``of``).
Nothing here waits for the world while it holds ``lock``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from protocols.errors import DriverError, TunnelpilotError
from sim_hardware.nanonis.registry import Settings
from sim_hardware.situation import Activity
from sim_hardware.world import World

_P = TypeVar("_P")
log = structlog.get_logger()

PATIENCE_S = 1.5
"""Wall seconds that a command waits for a short action before it (every plain command answers within 2 s)."""
SHORT = frozenset({"ramp", "move", "settle", "z", "home", "switching off", "pulse", "tip shaper"})
"""Activities that a following command waits for instead of being refused."""

WINDOWS = {
    "biasspectr": "Bias Spectroscopy",
    "zspectr": "Z Spectroscopy",
    "autoapproach": "Auto Approach",
    "datalog": "Data Logger",
}
"""Modules whose commands fail until their window was opened (those that have an Open command)."""


class Instrument:
    """See the module's text."""

    def __init__(self, world: World, session: Path, settings: Mapping[str, Settings], release: int) -> None:
        self.world = world
        self.session = session
        self.release = release
        self.lock = threading.RLock()
        self.started_s = time.monotonic()
        self._settings = settings
        self._kept: dict[tuple[str, int], dict[str, Any]] = {}
        self._windows: set[str] = set()
        self._panels: dict[type[Any], Any] = {}
        self._begun: Activity | None = None
        self.experiments: dict[str, Callable[..., Any]] = {}
        """What can be carried out at a point, by the name that patterns and point-and-shoot use: called with
        a call and a base name."""
        self.counters: dict[str, int] = {}
        """Last number of each series of files."""
        self._closing: list[Callable[[], None]] = []
        self._attended: dict[int, threading.Event] = {}
        self._waiting: set[threading.Event] = set()
        self._waiting_lock = threading.Lock()
        told = world.on_change

        def on_change() -> None:
            told()
            self.world_changed()

        world.on_change = on_change

    # -- settings and panels ---------------------------------------------------------------------------------

    def setting(self, stem: str, place: int = 0) -> dict[str, Any]:
        """The values that a pair of commands keeps (a copy)."""
        with self.lock:
            kept = self._kept.get((stem, place))
            return dict(self._settings[stem].first if kept is None else kept)

    def store_setting(self, stem: str, place: int, values: Mapping[str, Any]) -> None:
        """Keep values."""
        with self.lock:
            self._kept[stem, place] = dict(values)

    def change_setting(self, stem: str, place: int = 0, **values: Any) -> None:
        """Change some of the values that a pair of commands keeps."""
        with self.lock:
            self._kept[stem, place] = {**self.setting(stem, place), **values}

    def was_set(self, stem: str, place: int = 0) -> bool:
        """Whether a setting was ever changed."""
        return (stem, place) in self._kept

    def all_settings(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What was set so far, by stem and device."""
        with self.lock:
            return {key: dict(values) for key, values in self._kept.items()}

    def apply_setting(self, stem: str, place: int, values: Mapping[str, Any]) -> None:
        """Set values as a command would, with what follows from it."""
        pair = self._settings.get(stem)
        if pair is None:
            raise DriverError(f"the settings file names {stem!r}, which is none of ours")
        self.store_setting(stem, place, {**self.setting(stem, place), **values})
        if pair.changed is not None:
            more = {pair.index: place} if pair.index else {}
            pair.changed(self, {**self.setting(stem, place), **more})

    def of(self, panel: type[_P]) -> _P:
        """The one panel of that type; made when it is first asked for."""
        with self.lock:
            if panel not in self._panels:
                self._panels[panel] = panel()
            found: _P = self._panels[panel]
            return found

    # -- windows ---------------------------------------------------------------------------------------------

    def open(self, module: str) -> None:
        """Open a module's window."""
        with self.lock:
            self._windows.add(module.lower())

    def is_open(self, module: str) -> bool:
        """Whether the commands of a module can be used."""
        return module.lower() not in WINDOWS or module.lower() in self._windows

    def windows(self) -> list[str]:
        """Modules whose windows were opened."""
        with self.lock:
            return sorted(self._windows)

    def window_title(self, module: str) -> str:
        """What the module's window is called."""
        return WINDOWS.get(module.lower(), module)

    # -- the world -------------------------------------------------------------------------------------------

    def begin(self, kind: str, expected_s: float, run: Callable[[World, Activity], None]) -> Activity:
        """Begin an activity of the world; a short one that runs is waited for.

        Raises:
            DriverError: a long one runs, or the tip is being withdrawn.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            running = self._begun
            if running is not None and running.kind in SHORT and not running.done.is_set():
                running.done.wait(max(0.0, deadline - time.monotonic()))
            try:
                self._begun = activity = self.world.submit(kind, expected_s, run)
            except DriverError:
                if running is self._begun or time.monotonic() >= deadline:
                    raise
            else:
                return activity

    def running(self, *kinds: str) -> Activity | None:
        """The activity that this door began last, if it runs still and is of one of these kinds."""
        activity = self._begun
        if activity is None or activity.done.is_set() or (kinds and activity.kind not in kinds):
            return None
        return activity

    def after(self, activity: Activity, act: Callable[[Activity], None]) -> None:
        """Have something done when an activity has ended, whoever waits for it or not."""

        def attend() -> None:
            activity.done.wait()
            try:
                act(activity)
            except (TunnelpilotError, OSError) as failed:
                log.warning("what follows an activity failed", kind=activity.kind, text=str(failed))
            finally:
                with self.lock:
                    event = self._attended.pop(activity.number, None)
                if event is not None:
                    event.set()

        with self.lock:
            self._attended[activity.number] = threading.Event()
        threading.Thread(target=attend, name=f"after {activity.kind}", daemon=True).start()

    def settled(self, activity: Activity) -> None:
        """Wait until what was to follow an activity is done (``after``)."""
        with self.lock:
            event = self._attended.get(activity.number)
        if event is not None:
            event.wait(PATIENCE_S)

    def patiently(self, act: Callable[[], None]) -> None:
        """Do something that the world refuses while it is busy; short actions are waited for."""
        running = self.running(*SHORT)
        if running is not None:
            running.done.wait(PATIENCE_S)
        act()

    def between_lines(self, frame: Activity, act: Callable[[World], None]) -> None:
        """Have something done at the end of the scan's present line, in the world's own thread."""
        frame.between.append(act)

    @contextmanager
    def changes(self) -> Iterator[threading.Event]:
        """An event that is set whenever the world says that something progressed or ended."""
        event = threading.Event()
        with self._waiting_lock:
            self._waiting.add(event)
        try:
            yield event
        finally:
            with self._waiting_lock:
                self._waiting.discard(event)

    @property
    def waiting_for_changes(self) -> int:
        """How many wait for the world at the moment."""
        return len(self._waiting)

    def world_changed(self) -> None:
        """The world says that something progressed or ended (from any thread)."""
        with self._waiting_lock:
            for event in self._waiting:
                event.set()

    def brief(self, kind: str, run: Callable[[World, Activity], None]) -> Activity:
        """Carry out something that is over at once, and wait for it.

        Raises:
            DriverError: it could not be begun, failed, or was not over in time.
        """
        activity = self.begin(kind, 0.0, run)
        if not activity.done.wait(PATIENCE_S):
            raise DriverError(f"the {kind} is not over after {PATIENCE_S:g} s.")
        if activity.state == "failed":
            raise activity.error or DriverError(activity.reason)
        return activity

    def pass_time(self, wait: Callable[[threading.Event, int], bool], seconds: float) -> None:
        """Let instrument time pass for a caller without an activity; a stepped clock does not wait."""
        clock = self.world.clock
        if not clock.stepped and seconds > 0.0:
            wait(threading.Event(), int(1000.0 * seconds / clock.scale))

    def bias_v(self) -> float:
        """The junction's bias, cheaper to read than everything."""
        with self.world.lock:
            if not self.world.busy:
                return self.world.situation.bias_v
        return self.world.state().bias_v

    def place_m(self) -> tuple[float, float]:
        """Where the tip is laterally, cheaper to read than everything."""
        with self.world.lock:
            if not self.world.busy:
                return self.world.situation.x_m, self.world.situation.y_m
        state = self.world.state()
        return state.x_m, state.y_m

    # -- life ------------------------------------------------------------------------------------------------

    def at_close(self, close: Callable[[], None]) -> None:
        """Have something closed with the instrument."""
        with self.lock:
            self._closing.append(close)

    def close(self) -> None:
        """Close what was opened: files, the logger's port."""
        with self.lock:
            closing, self._closing = self._closing, []
        for close in reversed(closing):
            close()
