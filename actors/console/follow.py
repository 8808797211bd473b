"""Following a run until it ends: a live table on a terminal, a line per event elsewhere.

The daemon is asked a few times a second.  When it is gone, the journal says whether the run had ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

from actors.console.commands_daemon import event_line
from actors.console.daemon_link import DaemonLink, daemon_runs
from actors.console.output import note, say, stdout
from actors.console.run_view import FINAL
from actors.console.status_view import alarms, points_table, progress_table
from protocols.errors import DeadlineError, LinkLostError, TunnelpilotError
from protocols.messages.daemon import DaemonStatus, RunProgress, WatchEvents, WatchQuery

PERIOD_S = 0.25
"""Between two questions to the daemon."""
SILENCE_S = 30.0
"""How long a daemon that runs may not answer before following gives up."""


@dataclass(frozen=True)
class Ending:
    """How a run stands when following it ends: a state of the run table, and why."""

    state: str
    reason: str


class View(Protocol):
    """Shows what comes from the daemon."""

    def show(self, status: DaemonStatus, run: RunProgress) -> None:
        """A new status."""

    def events(self, found: WatchEvents) -> None:
        """New events."""

    def __enter__(self) -> View: ...

    def __exit__(self, *_: object) -> None: ...


class LiveView:
    """A table and progress bars that stay in place."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn()
        )
        self._spectra = self._bars.add_task("spectra", total=None)
        self._frame = self._bars.add_task("frame", total=None, visible=False)
        self._live = Live(console=console, refresh_per_second=8, transient=False)

    def show(self, status: DaemonStatus, run: RunProgress) -> None:
        """Replace what is shown."""
        self._bars.update(self._spectra, completed=run.spectra_taken, total=run.spectra_planned or None)
        scanning = run.frame_lines_planned > 0
        self._bars.update(
            self._frame,
            completed=run.frame_lines_done,
            total=run.frame_lines_planned or None,
            visible=scanning,
        )
        parts: list[object] = [progress_table(run), self._bars]
        if run.latest:
            parts.append(points_table(run.latest[-8:]))
        parts += [f"[bold red]ALARM: {_escaped(a)}[/]" for a in alarms(status)]
        self._live.update(Group(*parts))  # type: ignore[arg-type]

    def events(self, found: WatchEvents) -> None:
        """The table says it already."""

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class LineView:
    """For pipes and logs: a line per change of state or window, and one for every ten spectra."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()
        self._alarms: list[str] = []

    def show(self, status: DaemonStatus, run: RunProgress) -> None:
        """Print what changed."""
        window = run.window.index if run.window is not None else -1
        key = (run.state, run.reason, window, run.spectra_taken // 10)
        if key != self._last:
            self._last = key
            where = f"window {window + 1} of {run.windows_planned}, " if run.window is not None else ""
            reason = f" ({run.reason})" if run.reason else ""
            best = f", best {run.best.scalar:.4g}" if run.best is not None else ""
            say(
                f"{run.run}: {run.state}{reason}, {where}{run.spectra_taken} of {run.spectra_planned} "
                f"spectra{best}"
            )
        found = alarms(status)
        for alarm in found:
            if alarm not in self._alarms:
                note(f"ALARM: {alarm}")
        self._alarms = found

    def events(self, found: WatchEvents) -> None:
        """Faults are worth a line of their own."""
        for event in found.events:
            if event.kind in ("fault", "alarm"):
                note(event_line(event))

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def view_for_terminal() -> View:
    """A live table on a terminal, else lines."""
    console = stdout()
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else LineView()


def follow(
    state: Path,
    run: str,
    view: View,
    *,
    until_held: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Ending:
    """Show the run until it is final (or held, if ``until_held``).

    Raises:
        LinkLostError: the daemon is gone and the run had not ended; it goes on with the next daemon.
        DeadlineError: the daemon runs and does not answer.
        KeyboardInterrupt: Ctrl-C, which leaves the run alone.
    """
    next_event = 0
    heard = time.monotonic()
    link: DaemonLink | None = None
    try:
        while True:
            try:
                link = link or DaemonLink(state)
                status = link.status(8)
                found = link.ask(WatchQuery(since=next_event, limit=200), WatchEvents)
                next_event = found.next
                heard = time.monotonic()
            except (DeadlineError, LinkLostError) as silence:
                if link is not None:
                    link.close()
                    link = None
                ending = _ending_on_record(state, run)
                if ending is not None:
                    return ending
                _give_up_on(state, run, heard, silence)
                pause(PERIOD_S)
                continue
            view.events(found)
            current = status.current
            if current is not None and current.run == run:
                view.show(status, current)
                if current.state in FINAL or (until_held and current.state == "held"):
                    return Ending(current.state, current.reason)
            elif (ending := _ending_on_record(state, run)) is not None:
                return ending
            pause(PERIOD_S)
    finally:
        if link is not None:
            link.close()


def _give_up_on(state: Path, run: str, heard: float, silence: TunnelpilotError) -> None:
    if not daemon_runs(state):
        raise LinkLostError(
            f"the daemon is gone and {run} had not ended; nothing that was measured is lost.",
            f"'stmctl up' goes on with it; the daemon's log is {state / 'daemon' / 'daemon.log'}.",
        ) from silence
    if time.monotonic() - heard > SILENCE_S:
        raise DeadlineError(
            f"the daemon has not answered for {SILENCE_S:g} s.", "See its log, or 'stmctl withdraw'."
        ) from silence


def _ending_on_record(state: Path, run: str) -> Ending | None:
    """The end of the run, if its journal has one."""
    from actors.journal.reader import JournalReader
    from protocols.messages.records import Conclusion

    try:
        with JournalReader(state / "runs" / run) as reader:
            record = reader.last(Conclusion)
    except TunnelpilotError:
        return None
    if record is None or not isinstance(record.body, Conclusion):
        return None
    return Ending(record.body.outcome, record.body.reason)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
