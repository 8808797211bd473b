"""``stmd``: the daemon, in the foreground.  SIGTERM and Ctrl-C park the tip first."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from actors.console.daemon_options import DaemonOptions
from protocols.errors import TunnelpilotError


@click.command(
    "stmd",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ended as asked; 1 failed; 2 a file or option is wrong, or another daemon runs.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="State directory, one per microscope (default: $TUNNELPILOT_STATE or ~/.local/state/tunnelpilot).",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Join this Ray cluster instead of starting an own one, for example 127.0.0.1:6379.",
)
@click.option(
    "--limits",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Limits file of the gateway, if this daemon has to start it (default: STATE/gateway/limits.toml).",
)
@click.option(
    "--stop-after-last-run",
    is_flag=True,
    help="Park and end when no run is left to do, as a daemon does that 'stmctl run' had to start.",
)
@click.option("--quiet", is_flag=True, help="Log to STATE/daemon/daemon.log only.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The least that is logged.",
)
@click.version_option(package_name="tunnelpilot", message="%(prog)s, Tunnelpilot %(version)s")
def command(
    state: Path | None,
    ray_address: str | None,
    limits: Path | None,
    stop_after_last_run: bool,
    quiet: bool,
    log_level: str,
) -> None:
    """Run the lab daemon in the foreground until SIGTERM, Ctrl-C or 'stmctl down', which park the tip first.

    It starts its own embedded Ray, the journal's writer and the gateway where they do not run, goes on with
    runs that were under way, and answers 'stmctl'.  One daemon per state directory.
    """
    from protocols.files.state_directory import default_state_directory

    options = DaemonOptions(
        state=(state or default_state_directory()).expanduser().absolute(),
        ray_address=ray_address,
        limits=limits.absolute() if limits is not None else None,
        stop_after_last_run=stop_after_last_run,
        quiet=quiet,
        log_level=log_level.upper(),
    )
    from actors.runtime.daemon import run_daemon

    code = run_daemon(options)
    if isinstance(code, int) and code:
        click.get_current_context().exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the daemon and exit."""
    try:
        command.main(args=arguments, prog_name="stmd")
    except TunnelpilotError as error:
        click.echo(f"stmd: {error}", err=True)
        sys.exit(2 if error.code in ("usage", "config", "already-running", "format") else 1)


if __name__ == "__main__":
    main()
