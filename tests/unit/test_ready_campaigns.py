"""The campaigns of the package against its limits: the gateway refuses no ready campaign."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from actors.console.evaluation import recorded_file
from actors.console.ready_campaigns import find_campaign, ready_names
from actors.gateway.interlocks import check_recipe
from protocols.files.campaign_toml import parse_campaign
from protocols.files.limits_toml import Limits, narrowed, read_limits
from protocols.files.nanonis_grid import read_grid
from protocols.instrument.driver import DriverInfo
from protocols.messages.campaign import Campaign
from protocols.messages.recipes import Engage, Frame, ReferencePatch, Sweep

INFO = DriverInfo(
    name="like stmsim",
    simulated=True,
    time_scale=1.0,
    x_range_m=(-1e-6, 1e-6),
    y_range_m=(-1e-6, 1e-6),
    z_range_m=(-1e-7, 1e-7),
    bias_range_v=(-10.0, 10.0),
    preamplifier_rail_a=1e-8,
    vertical_drift_m_s=5e-12,
)


def campaign(name: str) -> Campaign:
    """A ready campaign."""
    return parse_campaign(*find_campaign(name))


def limits_for(found: Campaign) -> Limits:
    """The shipped limits of its sample."""
    name = "recorded.toml" if found.instrument.sample.startswith("recorded:") else "simulator.toml"
    return read_limits(Path(str(resources.files("actors.gateway") / "limits" / name)))


@pytest.mark.parametrize("name", ready_names())
def test_ready_campaigns_stay_within_the_shipped_limits(name: str) -> None:
    """Engage, survey, reference patch and sweeps in every window pass the interlocks."""
    found = campaign(name)
    imaging, zoom = found.imaging, found.zoom
    limits = narrowed(limits_for(found), found.limits.values, name)
    check_recipe(Engage(bias_v=imaging.bias_v, setpoint_a=imaging.setpoint_a), limits, INFO)
    for width in zoom.widths_m:
        reference = imaging.reference_width_m or width / 4
        for recipe in (
            _frame(found, width, imaging.pixels),
            ReferencePatch(frame=_frame(found, reference, imaging.reference_pixels)),
            Sweep(x_m=zoom.centre_x_m + width / 2, y_m=zoom.centre_y_m - width / 2, spectrum=found.spectrum),
        ):
            check_recipe(recipe, limits, INFO)


def _frame(found: Campaign, width_m: float, pixels: int) -> Frame:
    return Frame(
        centre_x_m=found.zoom.centre_x_m,
        centre_y_m=found.zoom.centre_y_m,
        width_m=width_m,
        height_m=width_m,
        pixels=pixels,
        lines=pixels,
        bias_v=found.imaging.bias_v,
        setpoint_a=found.imaging.setpoint_a,
        line_time_s=found.imaging.line_time_s,
    )


def test_the_demo_asks_for_exactly_what_was_recorded() -> None:
    """Same sweep, one pixel per spectrum, at most 150 of 900 spectra."""
    found = campaign("recorded_grid")
    grid = read_grid(recorded_file("recorded:demo"))
    spectrum = found.spectrum
    swept = np.linspace(spectrum.start_v, spectrum.stop_v, spectrum.points)
    assert np.allclose(swept, grid.sweep, rtol=0, atol=1e-6)
    assert (found.imaging.pixels, found.imaging.pixels) == grid.shape
    assert found.zoom.widths_m == (grid.width_m,) == (grid.height_m,)
    assert found.planner.points <= 150
    assert found.planner.candidate_step == 1
    assert found.scalar.window_v == (0.05, 0.22)


def test_the_multiscale_search_is_that_of_the_paper() -> None:
    """200, 100 and 20 nm; eq. 2: the share of [0, 0.5] V in [0, 1.5] V of dI/dV."""
    found = campaign("multiscale_vacancy")
    assert np.allclose(found.zoom.widths_m, [200e-9, 100e-9, 20e-9], rtol=1e-12, atol=0)
    scalar = found.scalar
    assert (scalar.kind, scalar.channel) == ("ratio", "lockin_x")
    assert (scalar.window_v, scalar.reference_v) == ((0.0, 0.5), (0.0, 1.5))
