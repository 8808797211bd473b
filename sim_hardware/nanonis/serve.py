"""``stmctl simulate serve``: a simulated microscope that Nanonis clients can drive, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from protocols.files.state_directory import default_state_directory
from protocols.nanonis.commands import KNOWN_RELEASES, RELEASE
from sim_hardware import stmsim
from sim_hardware.scanner import PRESETS


@click.command("serve", context_settings={"show_default": True})
@click.option("--sample", default="au111", help="The surface: au111, ws2, ..., recorded:PATH.")
@click.option(
    "--nanonis-ports", default="6501-6504", help="Ports, one client each; 0,0,0,0 for any free ones."
)
@click.option(
    "--nanonis-release",
    type=click.Choice([str(release) for release in KNOWN_RELEASES]),
    default=str(RELEASE),
    help="Release of the Nanonis software that is imitated.",
)
@click.option("--time-scale", type=float, default=1.0, help="Instrument seconds per second.")
@click.option("--seed", type=int, default=0, help="Of surface, drift, tip and noise.")
@click.option("--stepped", is_flag=True, help="Time passes only while the microscope acts, and then at once.")
@click.option("--drift", type=float, help="Factor on the thermal drift; 0 stands still.")
@click.option(
    "--distortions",
    type=click.Choice(sorted(PRESETS)),
    default="ideal",
    help="Creep, hysteresis, tilt, tip changes.",
)
@click.option("--endpoint", default="tcp://127.0.0.1:0", help="The other door, of Tunnelpilot itself.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="State directory; files of measurements go to sim/session in it.",
)
@click.option("--verbose", is_flag=True, help="Log to the terminal too.")
@click.pass_context
def serve_command(
    ctx: click.Context,
    sample: str,
    nanonis_ports: str,
    nanonis_release: str,
    time_scale: float,
    seed: int,
    stepped: bool,
    drift: float | None,
    distortions: str,
    endpoint: str,
    state: Path | None,
    verbose: bool,
) -> None:
    """Serve a simulated microscope to unmodified Nanonis clients, until Ctrl-C.

    Four ports of this machine (6501 to 6504) speak the TCP programming interface, one client each; a fifth
    (6590) carries the TCP logger's stream.  Images and spectra are saved to sim/session in the state
    directory.  Clients that vanish do not stop it.
    """
    given = ctx.find_root().obj
    where = state or (given if isinstance(given, Path) else default_state_directory())
    arguments = ["--state", str(where), "--sample", sample, "--seed", str(seed), "--endpoint", endpoint]
    arguments += ["--nanonis-ports", nanonis_ports, "--nanonis-release", nanonis_release]
    arguments += ["--time-scale", str(time_scale), "--distortions", distortions, "--announce"]
    arguments += ["--drift", str(drift)] if drift is not None else []
    arguments += ["--stepped"] if stepped else []
    arguments += ["--verbose"] if verbose else []
    stmsim.main(arguments)
