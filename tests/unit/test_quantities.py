"""Quantities: numbers as people write them, to SI and back."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ConfigError
from protocols.files.quantities import DIMENSIONS, format_place, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("12.5nm", "length", 1.25e-8),
        ("50 pA", "current", 5e-11),
        ("-1.5V", "voltage", -1.5),
        ("+.5 V", "voltage", 0.5),
        ("2.5ms", "time", 2.5e-3),
        ("3 min", "time", 180.0),
        ("3µs", "time", 3e-6),
        ("3μs", "time", 3e-6),
        ("3us", "time", 3e-6),
        ("1nm/s", "speed", 1e-9),
        ("60 pm/min", "drift", 1e-12),
        ("5V/s", "slew", 5.0),
        ("0.97 kHz", "frequency", 970.0),
        ("30deg", "angle", math.pi / 6),
        ("30 °", "angle", math.pi / 6),
        ("5Å", "length", 5e-10),
        ("1e-9 m", "length", 1e-9),
        ("1.2e2nm", "length", 1.2e-7),
    ],
)
def test_a_number_with_its_unit_is_read_in_si(text: str, dimension: str, value: float) -> None:
    """Every common way to write a quantity gives its SI value, with or without a space."""
    assert math.isclose(parse_quantity(text, dimension), value, rel_tol=1e-14)


def test_prefixed_units_round_once() -> None:
    """12.5 nm is the double nearest to 1.25e-8, so that files and journals show what was written."""
    assert parse_quantity("12.5nm", "length") == 1.25e-8
    assert parse_quantity("50pA", "current") == 50e-12


@pytest.mark.parametrize(
    ("text", "dimension", "said"),
    [
        ("12.5", "length", "'12.5' has no unit; a length is needed, for example '12.5nm'."),
        ("50nm", "current", "'50nm' is a length; a current is needed, for example '50pA'."),
        ("1nm/s", "length", "'1nm/s' is a speed; a length is needed, for example '12.5nm'."),
        ("5 px", "length", "'5 px' has the unknown unit 'px'; a length is needed, for example '12.5nm'."),
        ("5K", "voltage", "'5K' is a temperature; a voltage is needed, for example '-1.5V'."),
        ("1,5V", "voltage", "'1,5V' has a decimal comma; write a point. A voltage is needed"),
        ("abc", "length", "'abc' is no number with a unit; a length is needed"),
        ("", "length", "'' is no number with a unit; a length is needed"),
        ("nan nm", "length", "is no number with a unit"),
        ("1e400nm", "length", "is too large a number"),
        ("5nm**2", "length", "has the unknown unit 'nm**2'"),
        ("2*3nm", "length", "has the unknown unit '*3nm'"),
        ("1nm/", "length", "has the unknown unit 'nm/'"),
        ("5 m/rad", "length", "has the unknown unit 'm/rad'"),
        ("30", "angle", "an angle is needed, for example '30deg'."),
    ],
)
def test_everything_else_is_refused_with_an_example(text: str, dimension: str, said: str) -> None:
    """A bare number, another dimension, an unknown unit or an expression: the error says what is needed."""
    with pytest.raises(ConfigError) as refused:
        parse_quantity(text, dimension)
    assert said in str(refused.value)


@given(st.text(max_size=60), st.sampled_from(sorted(DIMENSIONS)))
def test_no_text_gives_anything_but_a_finite_number_or_our_error(text: str, dimension: str) -> None:
    """Garbage is refused as ConfigError, never by another exception."""
    try:
        assert math.isfinite(parse_quantity(text, dimension))
    except ConfigError:
        pass


_VALUES = (
    st.floats(min_value=1e-14, max_value=1e13) | st.floats(min_value=-1e13, max_value=-1e-14) | st.just(0.0)
)


@given(_VALUES, st.sampled_from(sorted(DIMENSIONS)))
def test_what_is_shown_in_full_reads_back(value: float, dimension: str) -> None:
    """format then parse gives the value again, whatever its size and prefix."""
    shown = format_quantity(value, DIMENSIONS[dimension].unit, digits=17)
    assert math.isclose(parse_quantity(shown, dimension), value, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.25e-8, "m", "12.5 nm"),
        (-5e-11, "A", "-50 pA"),
        (9.9999e-7, "m", "1 µm"),
        (0.0, "V", "0 V"),
        (math.pi / 4, "rad", "45 deg"),
        (0.37, "", "0.37"),
        (math.nan, "V", "nan V"),
        (2e-11, "m/s", "20 pm/s"),
    ],
)
def test_display_uses_the_prefix_that_suits(value: float, unit: str, shown: str) -> None:
    """One to three digits before the point, a prefix from femto to tera."""
    assert format_quantity(value, unit) == shown


def test_places_are_shown_in_nanometres() -> None:
    """Both coordinates in nm, ready to be pasted into ``stmctl measure``."""
    assert format_place(1.25e-8, -3.1e-9) == "12.5 nm, -3.1 nm"


def test_pint_is_not_imported_before_it_is_needed() -> None:
    """Commands without quantities start without pint."""
    code = "import sys, protocols.files.quantities; sys.exit('pint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
