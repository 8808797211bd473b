"""``stmctl validate`` and ``stmctl init``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from actors.console.options import campaign_argument, json_option, state_option
from actors.console.output import emit, say, stdout, table
from actors.console.ready_campaigns import find_campaign
from protocols.errors import ConfigError
from protocols.files.campaign_toml import commented_campaign, describe_campaign, override, parse_campaign
from protocols.files.quantities import format_quantity
from protocols.messages.campaign import Campaign

FIRST_NAME = "my_campaign.toml"


@click.command("validate")
@campaign_argument
@click.option("--seed", type=int, help="As for 'stmctl run'.")
@click.option("--time-scale", type=float, help="As for 'stmctl run'.")
@json_option
@state_option
def validate_command(campaign: str, seed: int | None, time_scale: float | None, as_json: bool) -> None:
    """Check CAMPAIGN (a file, or the name of a ready campaign) and show all that it says, defaults included.

    Everything that is wrong is listed at once, with line, key and what is allowed.
    """
    text, file_name = find_campaign(campaign)
    checked = override(parse_campaign(text, file_name), seed=seed, time_scale=time_scale)
    estimate = estimated_time(checked)
    if as_json:
        emit(
            "campaign",
            {"file": file_name, "campaign": msgspec.to_builtins(checked), "estimate": estimate},
        )
        return
    rows = [
        (f"[{section}]" if section else "", key, value) for section, key, value in describe_campaign(checked)
    ]
    stdout().print(table(file_name, ("section", "key", "value"), rows))
    say(f"{campaign} is valid: {estimate_words(checked)}.")


@click.command("init")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path(FIRST_NAME))
@click.option("--from", "ready", metavar="NAME", help="Copy this ready campaign instead.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@state_option
def init_command(file: Path, ready: str | None, force: bool) -> None:
    """Write a commented campaign with every key to FILE ('-': to the terminal); it is valid as it is."""
    text = find_campaign(ready)[0] if ready else commented_campaign()
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise ConfigError(f"{file} exists.", "Name another file, or overwrite it with --force.")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"{file} cannot be written: {problem.strerror}.") from problem
    say(f"Wrote {file}. Edit it, check it with 'stmctl validate {file}', run it with 'stmctl run {file}'.")


def estimated_time(campaign: Campaign) -> dict[str, float]:
    """Seconds, without travel: one spectrum, one frame, everything at most; on the wall at the time scale."""
    spectrum, imaging = campaign.spectrum, campaign.imaging
    one = spectrum.settle_s + spectrum.sweep_duration_s
    frame = 2 * imaging.line_time_s * imaging.pixels
    windows = len(campaign.zoom.widths_m)
    total = windows * (frame + campaign.planner.points * one)
    if campaign.drift.every:
        reference = 2 * imaging.line_time_s * imaging.reference_pixels
        total += windows * (campaign.planner.points // campaign.drift.every) * reference
    return {
        "spectrum_s": one,
        "frame_s": frame,
        "instrument_s": total,
        "wall_s": total / campaign.instrument.time_scale,
    }


def estimate_words(campaign: Campaign) -> str:
    """Windows, spectra and time in a sentence."""
    estimate = estimated_time(campaign)
    widths = ", ".join(format_quantity(w, "m") for w in campaign.zoom.widths_m)
    count = len(campaign.zoom.widths_m)
    text = (
        f"{count} window{'s' if count > 1 else ''} ({widths}), at most {campaign.planner.points} spectra "
        f"each, one in {format_quantity(estimate['spectrum_s'], 's', 3)}; about "
        f"{minutes(estimate['instrument_s'])} of microscope time"
    )
    if campaign.instrument.time_scale != 1:
        text += f", {minutes(estimate['wall_s'])} at time scale {campaign.instrument.time_scale:g}"
    return text


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
