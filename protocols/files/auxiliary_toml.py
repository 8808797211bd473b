"""The tables ``[auxiliary.NAME]`` and ``[[wait_on]]`` of a campaign file: any number of each.

The keys stand in ``campaign_keys``; the walk through a table is the campaign reader's.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any

from protocols.files.campaign_keys import AUXILIARY, WAIT_ON, Section
from protocols.files.campaign_values import NAME
from protocols.instrument.auxiliary import MODELS, Quantity
from protocols.messages.campaign import AuxiliarySection, Campaign, WaitSection

ReadSection = Callable[[Section, dict[str, Any]], dict[str, Any] | None]
"""Fields of a table, or None if it holds a mistake (which is on record then)."""
Add = Callable[[str, str, Any, str], None]
"""Section, key, value given, what is wrong."""

BAND_KEYS = ("low", "high", "hysteresis")
"""Keys whose unit is that of the channel."""


def read_auxiliary(raw: Any, read: ReadSection, add: Add) -> tuple[AuxiliarySection, ...]:
    """All [auxiliary.NAME] tables without a mistake, in the file's order."""
    if not isinstance(raw, dict):
        add("auxiliary", "", None, "must be tables, one for each instrument: write [auxiliary.NAME]")
        return ()
    found = []
    for name, table in raw.items():
        path = f"auxiliary.{name}"
        if not isinstance(table, dict):
            add("auxiliary", name, table, f"must be a table: write [{path}] on a line of its own")
        elif NAME.fullmatch(name) is None:
            add(path, "", None, "a name is letters, digits, - and _, at most 40, not beginning with - or _")
        elif (fields := read(dataclasses.replace(AUXILIARY, path=path), table)) is not None:
            section = AuxiliarySection(name=name, **fields)
            model = MODELS[section.model]
            if model.inputs and not set(section.inputs) <= set(model.inputs):
                has = ", ".join(f'"{i}"' for i in model.inputs)
                add(path, "inputs", list(section.inputs), f"a {model.title} has the inputs {has}")
            else:
                found.append(section)
    return tuple(found)


def read_waits(
    raw: Any, sections: Iterable[AuxiliarySection], read: ReadSection, add: Add
) -> tuple[WaitSection, ...]:
    """All [[wait_on]] tables without a mistake, in the file's order."""
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
        add("wait_on", "", None, "must be written with two brackets: [[wait_on]], once for each condition")
        return ()
    by_name = {s.name: s for s in sections}
    found = []
    for number, table in enumerate(raw, start=1):
        path = f"wait_on[{number}]"
        quantity = _quantity_of(path, table, by_name, add)
        if quantity is None:
            continue
        fields = read(wait_section(path, quantity.dimension), table)
        if fields is not None:
            found.append(WaitSection(**fields))
    return tuple(found)


def wait_section(path: str, dimension: str) -> Section:
    """The keys of a [[wait_on]] whose channel has that dimension."""
    keys = tuple(
        dataclasses.replace(key, dimension=dimension) if key.name in BAND_KEYS else key
        for key in WAIT_ON.keys
    )
    return dataclasses.replace(WAIT_ON, path=path, keys=keys)


def dimension_of(campaign: Campaign, wait: WaitSection) -> str:
    """Dimension of the channel that is waited on."""
    section = next(s for s in campaign.auxiliary if s.name == wait.instrument)
    quantity = MODELS[section.model].quantity(wait.channel)
    assert quantity is not None
    return quantity.dimension


def _quantity_of(
    path: str, table: dict[str, Any], sections: dict[str, AuxiliarySection], add: Add
) -> Quantity | None:
    name, channel = table.get("instrument"), table.get("channel")
    section = sections.get(name) if isinstance(name, str) else None
    if section is None:
        close = difflib.get_close_matches(str(name), sections, n=1, cutoff=0.6)
        known = ", ".join(f'"{s}"' for s in sections) or "none: add a table [auxiliary.NAME]"
        hint = f'did you mean "{close[0]}"?' if close else f"there are {known}"
        add(
            path,
            "instrument",
            name,
            f"no such instrument; {hint}" if name is not None else f"is missing; {hint}",
        )
        return None
    quantities = {q.name: q for q in MODELS[section.model].quantities(section)}
    if channel not in quantities:
        known = ", ".join(f'"{q}"' for q in quantities)
        what = "no such channel is read" if channel is not None else "is missing"
        add(path, "channel", channel, f"{what}; {name} has {known}")
        return None
    return quantities[channel]
