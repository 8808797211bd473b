"""``stmctl pause``, ``resume``, ``abort``: requests to the run under way."""

from __future__ import annotations

from pathlib import Path

import click

from actors.console.app import state_of
from actors.console.daemon_link import DaemonLink
from actors.console.options import json_option, state_option
from actors.console.outcome import ExitCode
from actors.console.output import emit, say
from protocols.messages.base import Message
from protocols.messages.daemon import AbortRun, PauseRun, ResumeRun, RunAnswer

PARK_S = 60.0
"""Deadline of requests that end with a parked or engaged tip."""


@click.command("pause")
@click.option(
    "--now", is_flag=True, help="Cancel the running job instead of waiting for the next safe point."
)
@json_option
@state_option
@click.pass_context
def pause_command(ctx: click.Context, now: bool, as_json: bool) -> None:
    """Pause the run at the next safe point: the running job ends, no other begins; the tip stays engaged."""
    answer = _ask(state_of(ctx), PauseRun(now=now), PARK_S)
    ctx.exit(_tell(answer, as_json, "It goes on with 'stmctl resume'."))


@click.command("resume")
@json_option
@state_option
@click.pass_context
def resume_command(ctx: click.Context, as_json: bool) -> None:
    """Go on with a paused or held run; the tip is engaged first.  A latched tip needs 'stmctl ack' before."""
    answer = _ask(state_of(ctx), ResumeRun(), PARK_S)
    ctx.exit(_tell(answer, as_json, "Follow it with 'stmctl watch'."))


@click.command("abort")
@click.option("--reason", default="operator", help="For the record.")
@json_option
@state_option
@click.pass_context
def abort_command(ctx: click.Context, reason: str, as_json: bool) -> None:
    """End the run for good and park the tip; everything measured stays in its journal."""
    answer = _ask(state_of(ctx), AbortRun(reason=reason), PARK_S)
    ctx.exit(_tell(answer, as_json, f"See 'stmctl show {answer.run}'.", aborted_is_good=True))


def _ask(state: Path, message: Message, timeout_s: float) -> RunAnswer:
    with DaemonLink(state) as link:
        return link.ask(message, RunAnswer, timeout_s)


def _tell(answer: RunAnswer, as_json: bool, next_step: str, *, aborted_is_good: bool = False) -> int:
    if as_json:
        emit("run-state", {"run": answer.run, "state": answer.state, "reason": answer.reason})
    else:
        reason = f" ({answer.reason})" if answer.reason else ""
        say(f"{answer.run} is {answer.state}{reason}. {next_step}")
    if answer.state == "held":
        return ExitCode.HELD
    bad = answer.state == "failed" or (answer.state == "aborted" and not aborted_is_good)
    return ExitCode.FAILED if bad else ExitCode.OK
