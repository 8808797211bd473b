"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from actors.console.app import STATE_HELP, remember_state, state_of
from protocols.files.quantities import parse_quantity

F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """--state after the command's name, too."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=remember_state,
        help=STATE_HELP,
    )(command)


def json_option(command: F) -> F:
    """--json: one JSON document on stdout instead of text for people."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta["json"] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, help="Print one JSON document with stable keys."
    )(command)


class Quantity(click.ParamType[float]):
    """A number with its unit."""

    def __init__(self, dimension: str) -> None:
        self.dimension = dimension
        self.name = dimension

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """SI value; a bare number or another unit is refused."""
        from protocols.errors import ConfigError

        if isinstance(value, float):
            return value
        try:
            return parse_quantity(str(value), self.dimension)
        except ConfigError as wrong:
            self.fail(wrong.text, param, ctx)


def _complete_runs(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    folder = state_of(ctx) / "runs"
    names = sorted((p.name for p in folder.iterdir() if p.is_dir()), reverse=True) if folder.is_dir() else []
    return [CompletionItem(name) for name in [*names, "last"] if name.startswith(incomplete)]


def _complete_campaigns(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from actors.console.ready_campaigns import ready_names

    ready = [CompletionItem(name) for name in ready_names() if name.startswith(incomplete)]
    return [*ready, CompletionItem(incomplete, type="file")]


def run_argument(command: F) -> F:
    """The name of a run."""
    return click.argument("run", shell_complete=_complete_runs)(command)


def campaign_argument(command: F) -> F:
    """A campaign file or the name of a ready campaign."""
    return click.argument("campaign", shell_complete=_complete_campaigns)(command)
