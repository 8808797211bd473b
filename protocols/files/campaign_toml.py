"""Campaign files: TOML in which every physical number carries its unit (``stabilise_bias = "1.0V"``).

``read_campaign`` gives a validated ``Campaign`` in SI units or one ConfigError that lists everything that is
wrong: file, line, key, the value given, what is allowed.  The keys stand in ``campaign_keys``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from protocols.errors import ConfigError
from protocols.files.auxiliary_toml import dimension_of, read_auxiliary, read_waits, wait_section
from protocols.files.campaign_checks import Problem, contradictions
from protocols.files.campaign_keys import AUXILIARY, LIMITS_HELP, REPEATED, SECTIONS, Key, Section
from protocols.files.campaign_values import key_value
from protocols.files.limits_toml import LIMIT_FIELDS
from protocols.files.quantities import DIMENSIONS, format_quantity
from protocols.messages.campaign import Campaign, LimitsSection, WaitSection

_LIMIT_DIMENSIONS = {
    "m": "length",
    "V": "voltage",
    "A": "current",
    "s": "time",
    "m/s": "speed",
    "V/s": "slew",
}
_LARGEST_FILE = 1_000_000
_ADVICE = "Mend the file; 'stmctl init' writes one that shows every key with its meaning."


def read_campaign(path: Path) -> Campaign:
    """Read and check a campaign file.

    Raises:
        ConfigError: the file is missing, is no TOML, or holds a mistake; lists all of them.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"campaign file {path} does not exist.", "'stmctl init' writes a commented one to start from."
        ) from None
    except OSError as problem:
        raise ConfigError(f"campaign file {path} cannot be read: {problem.strerror}.") from problem
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ConfigError(f"campaign file {path} is no text: {problem}.") from problem
    return parse_campaign(text, str(path))


def parse_campaign(text: str, file_name: str) -> Campaign:
    """Check a campaign's text; ``file_name`` names it in errors, and a relative .3ds is sought beside it.

    Raises:
        ConfigError: lists every mistake.
    """
    if len(text) > _LARGEST_FILE:
        raise ConfigError(f"{file_name}: {len(text)} characters are too many for a campaign.")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(
            f"{file_name} is not TOML: {problem}.",
            'Texts and quantities stand in quotes: bias = "1.0V".',
        ) from problem
    reader = _Reader(raw)
    campaign = reader.campaign()
    problems = reader.problems
    if campaign is not None and not problems:
        campaign, more = _resolved(campaign, Path(file_name).parent)
        problems = [*more, *contradictions(campaign)]
    if campaign is None or problems:
        raise _refusal(file_name, text, problems)
    return campaign


def override(campaign: Campaign, *, seed: int | None = None, time_scale: float | None = None) -> Campaign:
    """The campaign with another seed or time scale, as given on the command line.

    Raises:
        ConfigError: out of range.
    """
    given: list[tuple[str, str, float]] = []
    if seed is not None:
        given.append(("", "seed", seed))
        campaign = msgspec.structs.replace(campaign, seed=seed)
    if time_scale is not None:
        given.append(("instrument", "time_scale", time_scale))
        instrument = msgspec.structs.replace(campaign.instrument, time_scale=time_scale)
        campaign = msgspec.structs.replace(campaign, instrument=instrument)
    for path, name, value in given:
        key = next(s for s in SECTIONS if s.path == path).by_name[name]
        if not key.low <= value <= key.high:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value:g} is out of range (allowed: {key.allowed()})."
            )
    return campaign


def describe_campaign(campaign: Campaign) -> list[tuple[str, str, str]]:
    """(section, key, value as it would be written) of everything, defaults included, in the file's order."""
    lines: list[tuple[str, str, str]] = []
    for section in SECTIONS:
        struct = _struct_of(campaign, section.path)
        if struct is None:
            continue
        lines += [(section.path, k.name, _shown(k, getattr(struct, k.fills), struct)) for k in section.keys]
    for auxiliary in campaign.auxiliary:
        path = f"auxiliary.{auxiliary.name}"
        lines += [(path, k.name, _shown(k, getattr(auxiliary, k.fills))) for k in AUXILIARY.keys]
    for number, wait in enumerate(campaign.wait_on, start=1):
        keys = wait_section("", dimension_of(campaign, wait)).keys
        lines += [(f"wait_on[{number}]", k.name, _shown(k, getattr(wait, k.fills))) for k in keys]
    for name, value in campaign.limits.values.items():
        lines.append(("limits", name, format_quantity(value, LIMIT_FIELDS[name].unit)))
    return lines


def commented_campaign() -> str:
    """The file of ``stmctl init``: every key with its meaning, its unit and what is allowed; valid as it is.

    Keys that may be left out stand as comments with their default.
    """
    out = [
        "# A Tunnelpilot campaign.  Every physical number carries its unit, in quotes;",
        "# a bare number is refused.",
        "# 'stmctl validate THIS_FILE' checks it, 'stmctl run THIS_FILE' runs it.",
        "# Keys behind a '#' may be left out; they show their default.",
        "",
    ]
    for section in SECTIONS:
        if section.path:
            out += ["", f"[{section.path}]"]
        out += [f"# {section.help}"]
        for key in section.keys:
            out += _commented_key(section, key)
    for section in REPEATED:
        heading = "# [auxiliary.temperature]" if section is AUXILIARY else "# [[wait_on]]"
        out += ["", heading, f"# {section.help}"]
        for key in section.keys:
            out += _commented_key(section, key, mark="#   ")
    out += ["", f"# [limits]  {LIMITS_HELP}", '# setpoint_max = "1nA"']
    return "\n".join(out) + "\n"


def key_table() -> str:
    """All keys as a Markdown table, for the README."""
    out = ["| key | example | default | allowed | meaning |", "|---|---|---|---|---|"]
    for section in (*SECTIONS, *REPEATED):
        for key in section.keys:
            default = _default_shown(section, key)
            name = f"{section.path}.{key.name}" if section.path else key.name
            allowed = key.allowed() or _kind_shown(key)
            shown = "required" if default is None else f"`{default}`"
            out.append(f"| `{name}` | `{key.example}` | {shown} | {allowed} | {key.help} |")
    out.append(
        f'| `limits.*` | `setpoint_max = "1nA"` | none | narrower than the gateway\'s | {LIMITS_HELP} |'
    )
    return "\n".join(out) + "\n"


class _Reader:
    """Walks the tables of a file and collects problems instead of stopping at the first."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.problems: list[Problem] = []

    def campaign(self) -> Campaign | None:
        """The campaign, if nothing is wrong."""
        fields: dict[str, dict[str, Any]] = {}
        present: set[str] = set()
        tables = {section.path for section in SECTIONS if section.path} | {"limits", "auxiliary", "wait_on"}
        for section in SECTIONS:
            table = self._table(section)
            if table is None:
                continue
            present.add(section.path)
            children = {path.rpartition(".")[2] for path in tables if path.rpartition(".")[0] == section.path}
            fields[section.path] = self._section(section, table, children)
        limits = self._limits()
        auxiliary = read_auxiliary(self.raw.get("auxiliary", {}), self._repeated, self._add)
        waits: tuple[WaitSection, ...] = ()
        if len(auxiliary) == len(self.raw.get("auxiliary", {})):  # else their channels are not known
            waits = read_waits(self.raw.get("wait_on", []), auxiliary, self._repeated, self._add)
        if self.problems:
            return None
        lockin = SECTIONS_BY_PATH["spectrum.lockin"].struct
        made: dict[str, Any] = {}
        for path in present - {"", "spectrum.lockin"}:
            extra = {}
            if path == "spectrum" and "spectrum.lockin" in present:
                extra["lockin"] = lockin(**fields["spectrum.lockin"])
            made[path] = SECTIONS_BY_PATH[path].struct(**fields[path], **extra)
        made.setdefault("instrument", SECTIONS_BY_PATH["instrument"].struct())
        made |= {"auxiliary": auxiliary, "wait_on": waits, "limits": LimitsSection(values=limits)}
        return Campaign(**fields[""], **made)

    def _repeated(self, section: Section, table: dict[str, Any]) -> dict[str, Any] | None:
        """Fields of a table of which there may be many; None if there is a mistake in it."""
        before = len(self.problems)
        fields = self._section(section, table, set())
        return fields if len(self.problems) == before else None

    def _table(self, section: Section) -> dict[str, Any] | None:
        """The section's table; None if it is absent and may be (or its absence is already a problem)."""
        found: Any = self.raw
        for part in section.path.split(".") if section.path else ():
            if not isinstance(found, dict) or part not in found:
                found = None
                break
            found = found[part]
        if isinstance(found, dict):
            return found
        if found is not None:
            self._add(section.path, "", None, f"must be a table: write [{section.path}] on a line of its own")
        elif section.required:
            keys = ", ".join(k.name for k in section.keys if section.default(k) is msgspec.NODEFAULT)
            self._add(section.path, "", None, f"is missing; it needs {keys}")
        return None

    def _section(self, section: Section, table: dict[str, Any], children: set[str]) -> dict[str, Any]:
        for name, value in table.items():
            if name not in section.by_name and name not in children:
                self._add(section.path, name, value, self._unknown(section, name, value, children))
        values: dict[str, Any] = {}
        for key in section.keys:
            if key.name not in table:
                if section.default(key) is msgspec.NODEFAULT:
                    text = f"is missing, for example {key.name} = {key.example} ({_decapitalised(key.help)})"
                    self._add(section.path, key.name, None, text)
                continue
            try:
                values[key.fills] = key_value(key, table[key.name], table)
            except ConfigError as problem:
                self._add(section.path, key.name, table[key.name], problem.text)
        return values

    def _unknown(self, section: Section, name: str, value: Any, children: set[str]) -> str:
        what = "table" if isinstance(value, dict) else "key"
        known = [*section.by_name, *children] if what == "key" else sorted(children)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if close:
            return f"no such {what}; did you mean '{close[0]}'?"
        homes = [f"[{s.path}]" if s.path else "the top of the file" for s in SECTIONS if name in s.by_name]
        if homes and what == "key":
            return f"no such key here; it belongs in {' or '.join(homes)}"
        where = f"[{section.path}]" if section.path else "a campaign"
        return f"no such {what}; {where} has {', '.join(known) or 'none'}"

    def _limits(self) -> dict[str, float]:
        table = self.raw.get("limits", {})
        if not isinstance(table, dict):
            self._add("limits", "", None, "must be a table: write [limits] on a line of its own")
            return {}
        values: dict[str, float] = {}
        for name, value in table.items():
            limit = LIMIT_FIELDS.get(name)
            if limit is None:
                close = difflib.get_close_matches(name, LIMIT_FIELDS, n=1, cutoff=0.6)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(LIMIT_FIELDS)}"
                self._add("limits", name, value, f"no such limit; {hint}")
                continue
            key = Key(
                name,
                name,
                "quantity" if limit.unit else "number",
                "",
                "",
                dimension=_LIMIT_DIMENSIONS.get(limit.unit, ""),
                low=limit.lowest,
                high=limit.highest,
            )
            try:
                values[name] = float(key_value(key, value, table))
            except ConfigError as problem:
                self._add("limits", name, value, problem.text)
        return values

    def _add(self, section: str, key: str, given: Any, text: str) -> None:
        self.problems.append(Problem(section, key, text, given))


SECTIONS_BY_PATH = {section.path: section for section in SECTIONS}


def _resolved(campaign: Campaign, beside: Path) -> tuple[Campaign, list[Problem]]:
    """The campaign with a relative .3ds sought beside its file."""
    sample = campaign.instrument.sample
    kind, colon, name = sample.partition(":")
    if not colon or kind != "recorded" or name == "demo":
        return campaign, []
    path = Path(name).expanduser()
    path = path if path.is_absolute() else (beside / path).resolve()
    if not path.is_file():
        return campaign, [Problem("instrument", "sample", f"the file {path} does not exist", sample)]
    instrument = msgspec.structs.replace(campaign.instrument, sample=f"recorded:{path}")
    return msgspec.structs.replace(campaign, instrument=instrument), []


def _refusal(file_name: str, text: str, problems: list[Problem]) -> ConfigError:
    lines = [f"  {_where(text, p)}: {p.text}" for p in problems]
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(
        f"{file_name} has {count}:\n" + "\n".join(lines) + f"\n{_ADVICE}",
        problems=tuple(line.strip() for line in lines),
    )


def _where(text: str, problem: Problem) -> str:
    """Line, section, key and the value given."""
    line = _line_of(text, problem.section, problem.key)
    place = f"line {line}, " if line else ""
    name, _, number = problem.section.rstrip("]").partition("[")
    section = f"[[{name}]] {number}" if number else f"[{name}]" if name else ""
    key = problem.key
    if key and problem.given is not None and not isinstance(problem.given, dict):
        key += f" = {_toml(problem.given)}"
    return place + " ".join(part for part in (section, key) if part)


def _line_of(text: str, section: str, key: str) -> int:
    """Line on which the key stands, or its table begins; 0 if neither is to be found."""
    present, table_line = "", 0
    repeats: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if heading := re.match(r"\[{1,2}\s*([\w.\"' -]+?)\s*\]", stripped):
            present = heading[1].replace('"', "").replace(" ", "")
            if stripped.startswith("[["):
                repeats[present] = repeats.get(present, 0) + 1
                present += f"[{repeats[present]}]"
            if present == section:
                table_line = number
        elif present == section and key and re.match(rf"[\"']?{re.escape(key)}[\"']?\s*[=.]", stripped):
            return number
        if key and present == f"{section}.{key}".lstrip("."):  # an unknown table
            return number
    return table_line


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + (value if len(value) <= 60 else value[:57] + "...") + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    return str(value)[:60]


def _struct_of(campaign: Campaign, path: str) -> Any:
    found: Any = campaign
    for part in path.split(".") if path else ():
        found = getattr(found, part) if found is not None else None
    return found


def _shown(key: Key, value: Any, struct: Any = None) -> str:
    """The value as it would be written in the file; "none" for an absent one."""
    if value is None:
        return "none"
    match key.kind:
        case "quantity":
            return f'"{_compact(value, key.dimension)}"'
        case "names":
            return _toml(value)
        case "interval" | "lengths":
            return "[" + ", ".join(f'"{_compact(v, key.dimension)}"' for v in value) + "]"
        case "threshold":
            channel = getattr(struct, "channel", "lockin_x")
            return f'"{_compact(value, "current" if channel == "current" else "voltage")}"'
        case "seek":
            return '"largest"' if value > 0 else '"smallest"'
        case _:
            return _toml(value)


def _compact(value: float, dimension: str) -> str:
    return format_quantity(value, DIMENSIONS[dimension].unit, digits=6).replace(" ", "")


def _default_shown(section: Section, key: Key) -> str | None:
    default = section.default(key)
    return None if default is msgspec.NODEFAULT else _shown(key, default)


def _kind_shown(key: Key) -> str:
    return {"switch": "true or false", "text": "text"}.get(key.kind, "")


def _commented_key(section: Section, key: Key, mark: str = "") -> Iterable[str]:
    default = _default_shown(section, key)
    allowed = key.allowed()
    note = f"{key.help}  ({allowed})" if allowed and key.kind not in ("choice", "seek") else key.help
    if key.kind == "seek":
        note = f"{key.help}  ({allowed})"
    given = _INIT_VALUES.get((section.path, key.name))
    if given is None and default is None:
        given = key.example
    if given is not None:
        written = f"{mark}{key.name} = {given}"
    else:
        written = f"{mark or '# '}{key.name} = {key.example if default == 'none' else default}"
    yield f"{written:<34}  # {note}"


_INIT_VALUES = {
    ("", "description"): '""',
    ("", "seed"): "1",
    ("instrument", "sample"): '"vacancy"',
    ("instrument", "time_scale"): "20.0",
    ("spectrum", "backward"): "true",
    ("scalar", "window"): '["0V", "0.5V"]',
    ("scalar", "reference"): '["0V", "1.5V"]',
}
"""What ``stmctl init`` writes although the key has a default."""


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
