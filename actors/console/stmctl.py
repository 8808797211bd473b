"""``stmctl``: the console.

``withdraw`` is an emergency: it is taken up here, before anything is imported that it does not need, so
that it works when daemon, Ray and half of the installation are broken.
"""

from __future__ import annotations

import os
import sys

_OPTIONS_WITH_VALUE = ("--state",)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code (``actors.console.outcome``)."""
    given = sys.argv[1:] if arguments is None else arguments
    if _command(given) == "withdraw":
        from actors.console.withdraw import main as withdraw

        sys.exit(withdraw(given))
    # Before numpy is imported: small matrices gain nothing from threads that fight for two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from actors.console.app import run_app

    run_app(given)


def _command(arguments: list[str]) -> str:
    """The first word that is no option and no value of one."""
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif word in _OPTIONS_WITH_VALUE:
            skip = True
        elif not word.startswith("-"):
            return word
    return ""


if __name__ == "__main__":
    main()
