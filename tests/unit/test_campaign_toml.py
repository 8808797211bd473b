"""Campaign files: what is read, and what an error says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.console.ready_campaigns import find_campaign, ready_names
from protocols.errors import ConfigError
from protocols.files.campaign_keys import AUXILIARY, REPEATED, SECTIONS
from protocols.files.campaign_toml import (
    commented_campaign,
    describe_campaign,
    key_table,
    override,
    parse_campaign,
    read_campaign,
)
from protocols.messages.campaign import Campaign

GOOD = """
name = "test"
seed = 3
[imaging]
bias = "1.0V"
setpoint = "50pA"
pixels = 64
line_time = "0.4s"
[spectrum]
stabilise_bias = "1.0V"
stabilise_current = "100pA"
settle = "50ms"
z_offset = "-50pm"
start = "-0.5V"
stop = "1.5V"
points = 201
dwell = "3ms"
[spectrum.lockin]
amplitude = "10mV"
frequency = "4.3kHz"
time_constant = "1ms"
[scalar]
kind = "ratio"
window = ["0V", "0.5V"]
reference = ["0V", "1.5V"]
[zoom]
widths = ["200nm", "100nm", "20nm"]
"""


def refused(text: str) -> str:
    """The error's text."""
    with pytest.raises(ConfigError) as error:
        parse_campaign(text, "my.toml")
    return str(error.value)


def test_a_campaign_is_read_in_si_units() -> None:
    """Quantities become SI numbers, absent sections their defaults."""
    campaign = parse_campaign(GOOD, "my.toml")
    assert campaign.imaging.setpoint_a == 5e-11
    assert campaign.spectrum.z_offset_m == -5e-11
    assert campaign.spectrum.lockin is not None
    assert campaign.spectrum.lockin.frequency_hz == 4300
    assert np.allclose(campaign.zoom.widths_m, [2e-7, 1e-7, 2e-8], rtol=1e-14, atol=0)
    assert campaign.instrument.time_scale == 1.0
    assert campaign.scalar.sign == 1


def test_every_field_has_a_key_and_every_key_a_field() -> None:
    """A field that is added to a struct must get a key, so that nothing can be set by nobody."""
    tables = {
        "instrument",
        "imaging",
        "spectrum",
        "scalar",
        "planner",
        "zoom",
        "drift",
        "classifier",
        "limits",
        "auxiliary",
        "wait_on",
    }
    for section in (*SECTIONS, *REPEATED):
        fields = {f.name for f in msgspec.structs.fields(section.struct)} - {"lockin"}
        if section is AUXILIARY:
            fields -= {"name"}  # it stands in the table's heading
        if section.struct is Campaign:
            fields -= tables
        assert {key.fills for key in section.keys} == fields, section.path


def test_examples_and_defaults_are_themselves_allowed() -> None:
    """Every example in the table is accepted where it stands."""
    for section in SECTIONS:
        for key in section.keys:
            line = f"{key.name} = {key.example}"
            lines, present, done = [], "", False
            for old in GOOD.splitlines():
                if heading := re.fullmatch(r"\[(.*)\]", old):
                    if present == section.path and not done:
                        lines.append(line)
                        done = True
                    present = heading[1]
                if present == section.path and old.startswith(f"{key.name} ="):
                    old, done = line, True
                lines.append(old)
            if not done:
                lines += ([] if present == section.path else [f"[{section.path}]"]) + [line]
            text = "\n".join(lines)
            if (section.path, key.name) == ("scalar", "threshold"):
                text = text.replace('"ratio"', '"onset"')
            parse_campaign(text, "my.toml")


@pytest.mark.parametrize("name", ready_names())
def test_ready_campaigns_are_valid_and_named_after_their_file(name: str) -> None:
    """Each campaign of the package passes its own reader."""
    assert parse_campaign(*find_campaign(name)).name == name


def test_the_three_ready_campaigns_exist() -> None:
    """The demonstration, the multiscale search, the map."""
    assert set(ready_names()) >= {"recorded_grid", "multiscale_vacancy", "terrace_map"}


def test_init_writes_a_valid_file_that_mentions_every_key() -> None:
    """The commented file can be run as it is, and un-commenting any default changes nothing."""
    text = commented_campaign()
    campaign = parse_campaign(text, "init.toml")
    for section in SECTIONS:
        for key in section.keys:
            assert re.search(rf"^(# )?{key.name} = ", text, re.MULTILINE), key.name
    explicit = re.sub(r"^# (\w+ = .*?  # )", r"\1", text, flags=re.MULTILINE)
    explicit = re.sub(r"^sample_seed.*$", "", explicit, flags=re.MULTILINE)
    assert parse_campaign(explicit, "init.toml") == campaign


def test_description_shows_every_value_with_its_unit() -> None:
    """What validate prints can be read back."""
    lines = describe_campaign(parse_campaign(GOOD, "my.toml"))
    assert ("imaging", "setpoint", '"50pA"') in lines
    assert ("zoom", "widths", '["200nm", "100nm", "20nm"]') in lines
    assert ("scalar", "seek", '"largest"') in lines


def test_the_table_for_the_readme_has_every_key() -> None:
    """One row per key."""
    table = key_table()
    assert all(f"`{s.path}.{k.name}`" in table for s in SECTIONS if s.path for k in s.keys)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"50pA"',
            '"50nm"',
            "line 6, [imaging] setpoint = \"50nm\": '50nm' is a length; a current is needed",
        ),
        (
            'bias = "1.0V"\nsetpoint',
            "bias = 1.0\nsetpoint",
            "[imaging] bias = 1.0: has no unit; a voltage is needed",
        ),
        ("pixels = 64", "pixles = 64", "no such key; did you mean 'pixels'?"),
        ("pixels = 64", "pixles = 64", "[imaging] pixels: is missing, for example pixels = 128"),
        ("seed = 3", "seed = 3\nwidths = 5", "no such key here; it belongs in [zoom]"),
        ("[scalar]", "[scalars]", "no such table; did you mean 'scalar'?"),
        ("[scalar]", "[scalars]", "[scalar]: is missing; it needs kind"),
        ("points = 201", 'points = "201"', "must be a whole number without quotes, 2 to 65536"),
        ("points = 201", "points = 1", "points = 1: is out of range (allowed: 2 to 65536)"),
        ("points = 201", "points = true", "must be a whole number"),
        ('"ratio"', '"ration"', 'did you mean "ratio"?'),
        ('name = "test"', 'name = "a/b"', "must be letters, digits, - and _"),
        ('name = "test"', 'name = "test"\nlockstep = 1', "must be true or false, without quotes"),
        ('dwell = "3ms"', 'dwell = "2.9ms"', "is under three lock-in time constants (3 x 1 ms)"),
        ('"4.3kHz"', '"400Hz"', "is shorter than one period of the modulation (2.5 ms)"),
        ('"100nm", "20nm"', '"100nm", "100nm"', "each window must be smaller than the one before"),
        ('["0V", "0.5V"]', '["0.5V", "0V"]', "the first value must be below the second"),
        ('["0V", "0.5V"]', '["-1V", "0.5V"]', "lies outside the sweep (allowed: -500 mV to 1.5 V)"),
        ('["0V", "0.5V"]', '["0V", "5mV"]', "holds fewer than three points of the sweep"),
        ('["0V", "0.5V"]', '"0V"', "must be two values"),
        ('stop = "1.5V"', 'stop = "-0.6V"', "must be above start (-500 mV)"),
        ('stabilise_bias = "1.0V"', 'stabilise_bias = "-1.0V"', "has the other sign than the imaging bias"),
        ('stabilise_bias = "1.0V"', 'stabilise_bias = "0V"', "0 V drives the tip into the surface"),
        ("[zoom]", "[planner]\nseed_points = 61\n[zoom]", "is more than points (60)"),
        ("[zoom]", "[planner]\npoints = 100\n[zoom]", "64 pixels at a step of 8 give 64"),
        ("[zoom]", "[planner]\npatch_pixels = 65\n[zoom]", "is more than the frame's pixels (64)"),
        ("[zoom]", '[limits]\nsetpoint_mx = "1nA"\n[zoom]', "no such limit; did you mean 'setpoint_max'?"),
        ("[zoom]", '[instrument]\nsample = "gold"\n[zoom]', "no such sample; known are"),
        ("[zoom]", '[instrument]\nsample = "recorded:gone.3ds"\n[zoom]', "gone.3ds does not exist"),
        ("[zoom]", '[instrument]\nsample = "recorded:demo"\n[zoom]', "does not drift; write every = 0"),
        ("[zoom]", "[instrument]\ntime_scale = 0.0\n[zoom]", "is out of range (allowed: 0.01 to 1000)"),
        ("[zoom]", "[instrument]\ntime_scale = nan\n[zoom]", "is out of range"),
        ("[imaging]", "imaging = 3\n[other]", "must be a table: write [imaging] on a line of its own"),
        ("seed = 3", "seed == 3", "my.toml is not TOML"),
    ],
)
def test_a_mistake_is_named_with_line_key_value_and_what_is_allowed(old: str, new: str, said: str) -> None:
    """Every kind of mistake gives an error that says where it is and what would be right."""
    assert old in GOOD
    text = refused(GOOD.replace(old, new, 1))
    assert text.startswith("my.toml")
    assert said in text


def test_lockin_channels_need_a_lockin() -> None:
    """Seeking dI/dV without the lock-in is refused; with the current it is fine."""
    bare = re.sub(r"\[spectrum.lockin\][^\[]*", "", GOOD)
    assert "needs the lock-in" in refused(bare)
    parse_campaign(bare.replace('kind = "ratio"', 'kind = "ratio"\nchannel = "current"'), "my.toml")


def test_all_mistakes_are_listed_at_once() -> None:
    """Nobody mends a file one run at a time."""
    text = refused(
        GOOD.replace('"50pA"', '"50nm"').replace("points = 201", "points = 0").replace("[zoom]", "[zom]")
    )
    assert "has 4 problems" in text
    assert len([line for line in text.splitlines() if line.startswith("  ")]) == 4


def test_a_threshold_takes_the_unit_of_its_channel() -> None:
    """Volts for the lock-in's channels, amperes for the current."""
    onset = GOOD.replace('"ratio"', '"onset"')
    assert parse_campaign(
        onset.replace("[zoom]", "", 1).replace("widths", 'threshold="1mV"\n[zoom]\nwidths'), "m"
    )
    assert "a voltage is needed" in refused(
        onset.replace("[zoom]", "", 1).replace("widths", 'threshold="1nA"\n[zoom]\nwidths')
    )
    assert "an onset needs a threshold" in refused(onset)


def test_limits_are_quantities_of_the_gateways_names() -> None:
    """A campaign's [limits] uses the limits file's keys and units."""
    campaign = parse_campaign(GOOD + '[limits]\nsetpoint_max = "1nA"\nz_hold_margin = 0.2\n', "my.toml")
    assert campaign.limits.values == {"setpoint_max": 1e-9, "z_hold_margin": 0.2}


def test_a_recorded_file_is_sought_beside_the_campaign(tmp_path: Path) -> None:
    """A relative path becomes absolute, so that the daemon finds it too."""
    (tmp_path / "grid.3ds").write_bytes(b"")
    file = tmp_path / "my.toml"
    file.write_text(GOOD + '[instrument]\nsample = "recorded:grid.3ds"\n[drift]\nevery = 0\n')
    assert read_campaign(file).instrument.sample == f"recorded:{tmp_path / 'grid.3ds'}"


def test_a_missing_or_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    """No traceback for a wrong path, a directory or bytes."""
    with pytest.raises(ConfigError, match="does not exist"):
        read_campaign(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_campaign(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no text"):
        read_campaign(tmp_path / "b.toml")


def test_options_of_the_command_line_replace_seed_and_time_scale() -> None:
    """--seed and --time-scale are checked like the file's keys."""
    campaign = parse_campaign(GOOD, "my.toml")
    other = override(campaign, seed=9, time_scale=20.0)
    assert (other.seed, other.instrument.time_scale) == (9, 20.0)
    with pytest.raises(ConfigError, match="--time-scale 0 is out of range"):
        override(campaign, time_scale=0.0)
    with pytest.raises(ConfigError, match="--seed -1"):
        override(campaign, seed=-1)


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    """Garbage is a ConfigError."""
    with pytest.raises(ConfigError):
        parse_campaign(text, "my.toml")


_TOML_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1).map(str)
    | st.sampled_from(['"x"', '"1V"', '"-3nm"', "nan", "inf", "1.5", "2020-01-01", '""', '"0V"', '"1e300V"']),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: "[" + ", ".join(map(str, v)) + "]"),
    max_leaves=4,
).map(lambda v: str(v).lower() if isinstance(v, bool) else str(v))


@given(st.sampled_from([(s, k) for s in SECTIONS for k in s.keys]), _TOML_VALUES)
def test_any_value_of_any_key_is_accepted_or_refused_by_name(where: tuple, value: str) -> None:  # type: ignore[type-arg]
    """Whatever stands at a key, the answer is a campaign or an error of the file, never another exception."""
    section, key = where
    value = value.replace("True", "true").replace("False", "false")
    heading = f"[{section.path}]\n"
    drop = re.sub(rf"(?ms)(^{re.escape(heading.strip())}.*?)^{key.name} = [^\n]*\n", r"\1", GOOD, count=1)
    line = f"{key.name} = {value}\n"
    if not section.path:
        text = line + re.sub(rf"(?m)^{key.name} = .*\n", "", GOOD, count=1)
    elif heading in drop:
        text = drop.replace(heading, heading + line, 1)
    else:
        text = drop + heading + line
    try:
        parse_campaign(text, "my.toml")
    except ConfigError as error:
        assert str(error).startswith("my.toml")


def test_names_of_campaigns_are_found_or_suggested(tmp_path: Path) -> None:
    """A path, a ready name, a ready name with .toml; a typo gets a suggestion."""
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    assert find_campaign(str(file)) == (GOOD, str(file.resolve()))
    assert find_campaign("terrace_map") == find_campaign("terrace_map.toml")
    with pytest.raises(ConfigError, match="Did you mean multiscale_vacancy"):
        find_campaign("multiscale_vacany")
    with pytest.raises(ConfigError, match="is a directory"):
        find_campaign(str(tmp_path))
