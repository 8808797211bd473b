"""Campaigns that come with the package, and finding one by name or path."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from protocols.errors import ConfigError


def ready_names() -> list[str]:
    """Names of the campaigns that come with the package."""
    folder = resources.files("actors.console.campaigns")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def find_campaign(name: str) -> tuple[str, str]:
    """(text, file name) of a campaign: a path to a file, or the name of a ready one, ".toml" or not.

    Raises:
        ConfigError: neither; names what is near.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise ConfigError(f"{name} is a directory, no campaign file.")
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path.resolve())
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"campaign file {name} cannot be read: {problem}.") from problem
    ready = ready_names()
    bare = name.removesuffix(".toml")
    if bare in ready and "/" not in name:
        return (resources.files("actors.console.campaigns") / f"{bare}.toml").read_text(
            "utf-8"
        ), f"{bare}.toml"
    raise ConfigError(f"there is no campaign {name}.", _advice(path, bare, ready), campaign=name)


def _advice(path: Path, bare: str, ready: list[str]) -> str:
    beside = [f.name for f in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
    close = difflib.get_close_matches(
        bare, [*ready, *(b.removesuffix(".toml") for b in beside)], n=1, cutoff=0.5
    )
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Ready campaigns are {', '.join(ready)}; 'stmctl init' writes one of your own."
