"""``stmctl up``, ``down``, ``status``, ``watch``."""

from __future__ import annotations

from pathlib import Path

import click

from actors.console.app import state_of
from actors.console.daemon_link import DaemonLink, daemon_runs
from actors.console.options import json_option, state_option
from actors.console.outcome import ExitCode
from actors.console.output import emit, note, say
from protocols.messages.daemon import Event, WatchEvents, WatchQuery

LONG_POLL_S = 5.0


@click.command("up")
@click.option("--ray-address", metavar="ADDRESS", help="Join this Ray cluster instead of an embedded one.")
@click.option(
    "--limits",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The gateway's limits file.",
)
@state_option
@click.pass_context
def up_command(ctx: click.Context, ray_address: str | None, limits: Path | None) -> None:
    """Start the daemon in the background, in a session of its own, and wait until it answers.

    It goes on with runs that were under way.  'stmctl down' stops it.
    """
    from actors.console.daemon_process import ensure_daemon

    state = state_of(ctx)
    options: list[str] = []
    if ray_address:
        options += ["--ray-address", ray_address]
    if limits is not None:
        options += ["--limits", str(limits.absolute())]
    if not daemon_runs(state):
        note("Starting the daemon ...")
    started = ensure_daemon(state, options=tuple(options))
    with DaemonLink(state) as link:
        status = link.status(0)
    words = "Started" if started.daemon else "Already running:"
    say(f"{words} daemon {status.pid} with {state}.")
    if not started.daemon and options:
        note("Its options stay as they are; 'stmctl down' first to change them.")


@click.command("down")
@click.option("--keep-gateway", is_flag=True, help="Leave the gateway running, with the tip parked.")
@state_option
@click.pass_context
def down_command(ctx: click.Context, keep_gateway: bool) -> None:
    """Park the tip, then stop the daemon and what it started.

    A run under way is not lost: the next 'stmctl up' goes on with it.
    """
    from actors.console.daemon_process import running, shut_down

    state = state_of(ctx)
    if not daemon_runs(state):
        left = sorted(running(state))
        extra = f" Still running: {', '.join(left)}; 'stmctl withdraw' parks the tip." if left else ""
        say(f"No daemon runs with {state}.{extra}")
        return
    shut_down(state, gateway=not keep_gateway)
    say("The tip is parked and the daemon is down.")


@click.command("status")
@click.option("--points", default=10, show_default=True, help="How many of the latest points.")
@json_option
@state_option
@click.pass_context
def status_command(ctx: click.Context, points: int, as_json: bool) -> None:
    """Show the daemon, its run, the latest points, actors, gateway and queues with what they dropped.

    Exit code 4 if a person is needed: the run holds, or the tip is latched.
    """
    from actors.console.status_view import needs_person, print_status, status_document

    with DaemonLink(state_of(ctx)) as link:
        status = link.status(max(0, min(points, 100)))
    if as_json:
        emit("status", status_document(status))
    else:
        print_status(status)
    ctx.exit(ExitCode.HELD if needs_person(status) else ExitCode.OK)


@click.command("watch")
@click.option("--since", default=0, help="Begin after the event with this number.")
@click.option("--last", default=20, show_default=True, help="Begin with so many past events.")
@json_option
@state_option
@click.pass_context
def watch_command(ctx: click.Context, since: int, last: int, as_json: bool) -> None:
    """Follow what happens, a line per event, until Ctrl-C.

    With --json: the events there are, in one document; ask again with --since its "next".
    """
    state = state_of(ctx)
    with DaemonLink(state) as link:
        found = link.ask(WatchQuery(since=since, limit=1000), WatchEvents)
        if as_json:
            emit("events", events_document(found))
            return
        shown = found.events if since else found.events[-last:] if last > 0 else ()
        _print_events(shown, found.dropped if since else 0)
        try:
            while True:
                question = WatchQuery(since=found.next, limit=200, wait_s=LONG_POLL_S)
                found = link.ask(question, WatchEvents, LONG_POLL_S + 10.0)
                _print_events(found.events, found.dropped)
        except KeyboardInterrupt:
            note("\nStopped watching; the daemon goes on.")


def events_document(found: WatchEvents) -> dict[str, object]:
    """Events as they stand in the JSON document."""
    return {
        "next": found.next,
        "dropped": found.dropped,
        "events": [
            {
                "number": e.number,
                "wall_s": e.wall_s,
                "source": e.source,
                "kind": e.kind,
                "text": e.text,
                "run": e.run,
                "job_id": e.job_id,
            }
            for e in found.events
        ],
    }


def _print_events(events: tuple[Event, ...], dropped: int) -> None:
    if dropped:
        note(f"({dropped} events were dropped before they could be shown; the journal has all that matters)")
    for event in events:
        say(event_line(event))


def event_line(event: Event) -> str:
    """One event in a line."""
    from datetime import datetime

    clock = datetime.fromtimestamp(event.wall_s).astimezone().strftime("%H:%M:%S")
    return f"{clock}  {event.kind:<10} {event.text}  ({event.job_id or event.run or event.source})"
