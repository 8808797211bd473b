"""Commands that move the tip: each waits for a safe point, is journaled, and tells what became of it."""

from __future__ import annotations

import getpass

import click

from actors.console.app import state_of
from actors.console.daemon_link import DaemonLink
from actors.console.options import Quantity, json_option, state_option
from actors.console.outcome import ExitCode
from actors.console.output import complain, emit, say
from protocols.errors import TunnelpilotError
from protocols.files.quantities import format_place, format_quantity
from protocols.messages.base import Message
from protocols.messages.daemon import (
    AcknowledgeAlarm,
    EngageTip,
    GotoAt,
    MeasureAt,
    OperatorResult,
    PointSummary,
    ScanNow,
)

GOOD = frozenset({"finished", "accepted"})

# A place such as -3nm begins like an option.
NEGATIVE = {"ignore_unknown_options": True}

timeout_option = click.option(
    "--timeout",
    type=Quantity("time"),
    default="10min",
    show_default=True,
    help="How long to wait for the safe point and the outcome.",
)


@click.command("withdraw", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def withdraw_command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """EMERGENCY: withdraw the tip now and park, past daemon, Ray and queue."""
    from actors.console.withdraw import main

    state = ctx.find_root().obj
    before = ["--state", str(state)] if state is not None else []
    ctx.exit(main([*before, "withdraw", *arguments]))


@click.command("engage")
@click.option("--bias", type=Quantity("voltage"), help="Default: the campaign's imaging bias.")
@click.option("--setpoint", type=Quantity("current"), help="Default: the campaign's.")
@timeout_option
@json_option
@state_option
@click.pass_context
def engage_command(
    ctx: click.Context, bias: float | None, setpoint: float | None, timeout: float, as_json: bool
) -> None:
    """Bring the tip to the surface: bias and setpoint while withdrawn, then feedback, then settling.

    After a trip or a crash it refuses until 'stmctl ack'.
    """
    _act(ctx, EngageTip(bias_v=bias, setpoint_a=setpoint), timeout, as_json, "The tip is engaged.")


@click.command("ack")
@click.option("--who", default="", help="Your name for the record (default: the login name).")
@json_option
@state_option
@click.pass_context
def ack_command(ctx: click.Context, who: str, as_json: bool) -> None:
    """Acknowledge an alarm: you have looked; opens the latch.

    The tip stays parked until 'stmctl engage' or 'stmctl resume'.
    """
    _act(
        ctx,
        AcknowledgeAlarm(who=who or _login()),
        10.0,
        as_json,
        "Acknowledged. Go on with 'stmctl resume' or 'stmctl engage'.",
    )


@click.command("measure", context_settings=NEGATIVE)
@click.argument("x", type=Quantity("length"))
@click.argument("y", type=Quantity("length"))
@timeout_option
@json_option
@state_option
@click.pass_context
def measure_command(ctx: click.Context, x: float, y: float, timeout: float, as_json: bool) -> None:
    """Take one spectrum at X Y of the sample with the campaign's recipe, at the next safe point.

    X and Y carry their unit: 'stmctl measure 12.5nm -3nm'.
    """
    _act(ctx, MeasureAt(x_m=x, y_m=y), timeout, as_json, f"Measured at {format_place(x, y)}.")


@click.command("goto", context_settings=NEGATIVE)
@click.argument("x", type=Quantity("length"))
@click.argument("y", type=Quantity("length"))
@timeout_option
@json_option
@state_option
@click.pass_context
def goto_command(ctx: click.Context, x: float, y: float, timeout: float, as_json: bool) -> None:
    """Move the tip to X Y of the sample at the next safe point.

    X and Y carry their unit: 'stmctl goto 12.5nm -3nm'.
    """
    _act(ctx, GotoAt(x_m=x, y_m=y), timeout, as_json, f"The tip is at {format_place(x, y)}.")


@click.command("scan")
@timeout_option
@json_option
@state_option
@click.pass_context
def scan_command(ctx: click.Context, timeout: float, as_json: bool) -> None:
    """Take one frame of the open window at the next safe point."""
    _act(ctx, ScanNow(), timeout, as_json, "The frame is in the journal.")


def _act(ctx: click.Context, message: Message, timeout_s: float, as_json: bool, done: str) -> None:
    with DaemonLink(state_of(ctx)) as link:
        result = link.ask(message, OperatorResult, timeout_s)
    good = result.outcome in GOOD
    if as_json:
        emit(
            "operator",
            {
                "outcome": result.outcome,
                "reason": result.reason,
                "job_id": result.job_id,
                "point": point_document(result.point),
            },
        )
    elif good:
        note = f" {result.reason}" if result.reason else ""
        say(done + _point_words(result.point) + note)
    if not good:
        reason = result.reason.rstrip(".") or "no reason given"
        complain(TunnelpilotError(f"{ctx.info_name} {result.outcome}: {reason}."))
        latched = "latch" in result.reason.lower()
        ctx.exit(ExitCode.HELD if latched else ExitCode.FAILED)


def point_document(point: PointSummary | None) -> dict[str, object] | None:
    """A point as it stands in JSON documents."""
    if point is None:
        return None
    return {
        "job_id": point.job_id,
        "window": point.window,
        "x_m": point.x_m,
        "y_m": point.y_m,
        "scalar": point.scalar,
        "valid": point.valid,
        "quality": list(point.quality),
        "label": point.label,
        "label_confidence": point.label_confidence,
        "kind": point.kind,
        "reason": point.reason,
        "wall_s": point.wall_s,
    }


def _point_words(point: PointSummary | None) -> str:
    if point is None:
        return ""
    words = f" Scalar {format_quantity(point.scalar, '')}"
    if not point.valid:
        words += f", does not count ({', '.join(point.quality) or 'no number'})"
    if point.label:
        words += f", {point.label} ({100 * point.label_confidence:.0f} % sure)"
    return f"{words}; {point.job_id}."


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
