"""``stmctl simulate``: commands that installed simulations bring along as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

GROUP = "tunnelpilot.simulate"


class EntryPointGroup(click.Group):
    """Each entry point names a click command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all entry points."""
        return sorted(entry_points(group=GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load it."""
        for point in entry_points(group=GROUP, name=cmd_name):
            loaded = point.load()
            if isinstance(loaded, click.Command):
                return loaded
            raise click.ClickException(f"the entry point {point.value} is no command of click.")
        return None


@click.command("simulate", cls=EntryPointGroup, no_args_is_help=True)
def simulate_command() -> None:
    """Commands of installed simulations, such as making data sets; 'stmsim --help' is the microscope itself.

    What is listed below comes from the entry points "tunnelpilot.simulate".
    """
