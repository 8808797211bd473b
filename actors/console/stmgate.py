"""``stmgate``: the instrument gateway, guard and worker.  It outlives the daemon; SIGTERM parks the tip
first."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from actors.gateway.guard_options import GuardOptions
from actors.gateway.guard_process import run_guard
from protocols.errors import TunnelpilotError
from protocols.files.state_directory import default_state_directory


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="State directory, one microscope each (default: $TUNNELPILOT_STATE or ~/.local/state/tunnelpilot).",
)
@click.option(
    "--limits",
    type=click.Path(path_type=Path),
    default=None,
    help="Limits file (default: gateway/limits.toml of the state directory; made for simulated ones).",
)
@click.option("--driver", default="sim", show_default=True, help="Name of the driver of the electronics.")
@click.option(
    "--driver-endpoint",
    default="",
    help="Where the electronics answer: for nanonis HOST:PORTS, four of them, like 127.0.0.1:6501-6504 (the "
    "default; ?release=13742 behind it if they do not tell theirs); for sim the door of a stmsim (default: "
    "the one that runs with this state directory).",
)
@click.option(
    "--lease-seconds",
    type=float,
    default=2.0,
    show_default=True,
    help="Duration of leases whose owner asks for none; 0.5 to 10, never scaled.",
)
@click.option(
    "--safety",
    default="tcp://127.0.0.1:0",
    show_default=True,
    help="Endpoint of the safety socket; port 0: any.",
)
@click.option(
    "--commands", default="tcp://127.0.0.1:0", show_default=True, help="Endpoint of the command socket."
)
@click.option("--data", default="tcp://127.0.0.1:0", show_default=True, help="Endpoint of the data socket.")
@click.option(
    "--worker-restarts",
    type=click.IntRange(0, 1000),
    default=3,
    show_default=True,
    help="Restarts of a dying worker within a minute before the tip stays parked until stmctl ack.",
)
@click.option("--verbose", is_flag=True, help="Log to the terminal too.")
def main(
    state: Path | None,
    limits: Path | None,
    driver: str,
    driver_endpoint: str,
    lease_seconds: float,
    safety: str,
    commands: str,
    data: str,
    worker_restarts: int,
    verbose: bool,
) -> None:
    """Run the instrument gateway in the foreground until SIGTERM or Ctrl-C, which park the tip first.

    It is two processes: a guard (emergency stop, lease, its own connection to the electronics) and a worker
    (jobs and data), which the guard starts and watches.  Either parks the tip when the other vanishes.
    """
    options = GuardOptions(
        state=state or default_state_directory(),
        limits=limits,
        driver=driver,
        driver_endpoint=driver_endpoint,
        lease_s=lease_seconds,
        safety=safety,
        commands=commands,
        data=data,
        worker_restarts=worker_restarts,
        verbose=verbose,
    )
    try:
        status = run_guard(options)
    except TunnelpilotError as problem:
        click.echo(f"stmgate: {problem}", err=True)
        sys.exit(2)
    sys.exit(status)


if __name__ == "__main__":
    main()
