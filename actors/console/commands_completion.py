"""``stmctl completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from actors.console.app import PROGRAM, app
from protocols.errors import ConfigError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash:  stmctl completion bash > ~/.local/share/bash-completion/completions/stmctl
    zsh:   stmctl completion zsh > ~/.zfunc/_stmctl     (with ~/.zfunc in fpath)
    fish:  stmctl completion fish > ~/.config/fish/completions/stmctl.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"there is no completion for {shell}.")
    click.echo(kind(app, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
