"""New runs and runs that are taken up again: names, first records, ledgers."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import secrets
from pathlib import Path

from actors.journal.reader import JournalReader, runs
from actors.journal.schema import run_file
from actors.runtime.ledger import RunLedger
from protocols.errors import ConfigError
from protocols.files.campaign_toml import override, parse_campaign
from protocols.files.limits_toml import limits_from_flat, narrowed
from protocols.messages.campaign import Campaign
from protocols.messages.control import WorkerStatus
from protocols.messages.daemon import StartRun
from protocols.messages.records import RunStarted

VERSIONED = ("tunnelpilot", "ray", "numpy", "scipy", "torch", "gpytorch", "pyzmq", "msgspec")


def campaign_of(request: StartRun) -> Campaign:
    """The campaign that is asked for, checked.

    Raises:
        ConfigError: every mistake in it.
    """
    campaign = parse_campaign(request.campaign_text, request.file_name)
    return override(campaign, seed=request.seed, time_scale=request.time_scale)


def new_run_name(state: Path, campaign: Campaign) -> str:
    """``name-YYYYMMDD-HHMMSS``; with a tail if that is taken."""
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", campaign.name).strip("-.") or "run"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{base[:60]}-{stamp}"
    return f"{name}-{secrets.token_hex(2)}" if (state / "runs" / name).exists() else name


def first_record(run: str, request: StartRun, campaign: Campaign, worker: WorkerStatus) -> RunStarted:
    """What every run begins with.

    Raises:
        ConfigError: the campaign would widen a limit, or scales time on real electronics.
    """
    narrowed(limits_from_flat(worker.limits), dict(campaign.limits.values), request.file_name)
    if not worker.simulated and campaign.instrument.time_scale != 1.0:
        raise ConfigError(
            f"{request.file_name}: instrument.time_scale is {campaign.instrument.time_scale:g}, and the "
            "electronics are real.",
            "Leave it out or set 1.",
        )
    return RunStarted(
        run=run,
        campaign=campaign,
        campaign_text=request.campaign_text,
        seed=campaign.seed,
        versions=versions(),
        limits={**worker.limits, **campaign.limits.values},
        simulated=worker.simulated,
        time_scale=worker.time_scale,
    )


def versions() -> dict[str, str]:
    """Of this program and what its results depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def unfinished_runs(state: Path) -> list[str]:
    """Names of runs without a conclusion, oldest first; those that cannot be read are left alone.

    A run whose daemon died between the final state and the conclusion is one of them.
    """
    found = [s for s in runs(state) if not s.trouble and not s.outcome]
    return [s.run for s in sorted(found, key=lambda s: s.started_s)]


def open_run(state: Path, run: str) -> tuple[JournalReader, RunLedger]:
    """A run's journal and its ledger as of now.

    Raises:
        StorageError, DataFormatError: it cannot be read.
    """
    reader = JournalReader(run_file(state, run))
    ledger = RunLedger(run)
    ledger.fold(reader.records())
    return reader, ledger
