"""The commands of ``stmctl``: names and one-line helps here, the work in modules that are imported when their
command is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from protocols.errors import TunnelpilotError

PROGRAM = "stmctl"

# Section of the help -> command -> (module, what it does in a line).
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Runs": {
        "run": ("commands_run", "Start a run of a campaign and watch it."),
        "validate": ("commands_campaign", "Check a campaign file and show everything it says."),
        "init": ("commands_campaign", "Write a commented campaign file to start from."),
        "pause": ("commands_control", "Pause the run at the next safe point (--now: at once)."),
        "resume": ("commands_control", "Go on with a paused or held run."),
        "abort": ("commands_control", "End the run and park the tip."),
    },
    "Looking": {
        "status": ("commands_daemon", "Show the daemon, its run, actors, gateway and queues."),
        "watch": ("commands_daemon", "Follow what happens, line by line."),
        "runs": ("commands_records", "List all runs."),
        "show": ("commands_records", "Show one run: windows, best point, figures."),
        "explain": ("commands_records", "Say why a spectrum was taken where it was."),
        "report": ("commands_records", "Write the report of a run: one HTML file."),
        "export": ("commands_records", "Export a run as CSV and NPZ."),
        "replay": ("commands_replay", "Decide again from the journal and compare."),
    },
    "Tip": {
        "withdraw": ("commands_tip", "EMERGENCY: withdraw the tip now, past daemon and queue."),
        "engage": ("commands_tip", "Bring the tip to the surface."),
        "ack": ("commands_tip", "Acknowledge an alarm: you have looked; opens the latch."),
        "measure": ("commands_tip", "Take one spectrum at a place."),
        "goto": ("commands_tip", "Move the tip to a place."),
        "scan": ("commands_tip", "Take one frame of the open window."),
    },
    "Daemon": {
        "up": ("commands_daemon", "Start the daemon in the background."),
        "down": ("commands_daemon", "Park the tip and stop the daemon."),
        "simulate": ("commands_simulate", "Commands of installed simulations."),
        "completion": ("commands_completion", "Print the shell completion script."),
    },
}
_PLACES = {name: place for section in COMMANDS.values() for name, place in section.items()}


class ConsoleGroup(click.Group):
    """Imports a command when it is called, and turns our errors into sentences and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in _PLACES:
            return None
        module = importlib.import_module(f"actors.console.{_PLACES[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelled name."""
        if args and args[0] not in _PLACES and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _PLACES, n=1, cutoff=0.5)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"there is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands by section, without importing them."""
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; our errors become one sentence on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except TunnelpilotError as error:
            from actors.console.outcome import exit_code_of
            from actors.console.output import complain, emit

            if ctx.meta.get("json"):
                emit("error", {"error": error.code, "text": error.text, "advice": error.advice})
            complain(error)
            ctx.exit(int(exit_code_of(error)))
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


def remember_state(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    """Keep --state, wherever it stood on the line."""
    if value is not None:
        ctx.find_root().obj = value.expanduser().absolute()


def state_of(ctx: click.Context) -> Path:
    """The state directory: --state, else $TUNNELPILOT_STATE, else the default."""
    from protocols.files.state_directory import default_state_directory

    given = ctx.find_root().obj
    return given if isinstance(given, Path) else default_state_directory()


def show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Print the version and exit."""
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"{PROGRAM}, Tunnelpilot {version('tunnelpilot')}")
        ctx.exit()


STATE_HELP = (
    "State directory, one per microscope (default: $TUNNELPILOT_STATE or ~/.local/state/tunnelpilot)."
)


@click.group(
    cls=ConsoleGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 tried, and it came out badly; 2 the command, a file or a value is wrong; "
    "3 no daemon or gateway answers; 4 a person is needed (latched, held); 130 interrupted.  "
    "Every command that reads takes --json: one document on stdout.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    is_eager=True,
    callback=remember_state,
    help=STATE_HELP,
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Show it."
)
def app() -> None:
    """Tunnelpilot's console: run campaigns on an autonomous scanning tunneling microscope.

    Numbers carry their unit: 'stmctl measure 12.5nm -3nm'.
    """


def run_app(arguments: list[str]) -> None:
    """Run and exit."""
    try:
        code = app.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
