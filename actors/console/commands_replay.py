"""``stmctl replay``."""

from __future__ import annotations

import click

from actors.console.app import state_of
from actors.console.options import json_option, run_argument, state_option
from actors.console.outcome import ExitCode
from actors.console.output import emit, note, say, stdout, table
from actors.console.run_names import find_run


@click.command("replay")
@run_argument
@json_option
@state_option
@click.pass_context
def replay_command(ctx: click.Context, run: str, as_json: bool) -> None:
    """Decide every point of RUN again from exactly what its model saw, and compare.

    The same candidate and the same acquisition value (to 1e-6) are expected; exit code 1 if one differs.
    """
    from actors.console.planning import ReplayPlanners
    from actors.journal.reader import JournalReader
    from actors.journal.replay import Replayed, replay_each
    from protocols.messages.records import Decision

    directory = find_run(state_of(ctx), run)
    done: list[Replayed] = []
    with JournalReader(directory) as reader:
        total = reader.count(Decision)
        for replayed in replay_each(reader, ReplayPlanners()):
            done.append(replayed)
            if len(done) % 25 == 0:
                note(f"{len(done)} of {total} decisions replayed ...")
    different = [r for r in done if not r.same]
    if as_json:
        emit(
            "replay",
            {
                "run": directory.name,
                "decisions": len(done),
                "same": len(done) - len(different),
                "largest_difference": max((r.difference for r in done), default=0.0),
                "different": [
                    {
                        "decision": r.decision,
                        "window": r.window,
                        "kind": r.kind,
                        "candidate": r.candidate,
                        "candidate_now": r.candidate_now,
                        "acquisition": r.acquisition,
                        "acquisition_now": r.acquisition_now,
                    }
                    for r in different
                ],
            },
        )
    elif different:
        rows = [
            (
                r.decision,
                r.kind,
                str(r.candidate),
                str(r.candidate_now),
                f"{r.acquisition:.9g}",
                f"{r.acquisition_now:.9g}",
            )
            for r in different
        ]
        titles = ("decision", "by", "candidate", "now", "acquisition", "now")
        stdout().print(table("Different", titles, rows))
        say(f"{len(different)} of {len(done)} decisions of {directory.name} come out differently.")
    else:
        say(f"All {len(done)} decisions of {directory.name} come out the same.")
    ctx.exit(ExitCode.FAILED if different else ExitCode.OK)
