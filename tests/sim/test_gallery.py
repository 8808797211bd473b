"""Pictures of samples: what they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from protocols.errors import ConfigError
from sim_hardware.gallery import drawing
from sim_hardware.gallery.command import gallery_command
from sim_hardware.gallery.frames import LockInView, View, Working, conductance_maps, spectrum, take
from sim_hardware.gallery.samples import NAMES, SHOWS, named
from sim_hardware.physics.distortions import Distortions
from sim_hardware.physics.noise import QUIET
from sim_hardware.surfaces.catalogue import SAMPLES, make_surface
from sim_hardware.tip import Tip

QUIET_MAINS = QUIET.__class__(
    **{**QUIET.__dict__, "mains_a": (0.0, 0.0, 0.0), "mains_phases_rad": (0.0, 0.0, 0.0)}
)


def test_every_sample_has_a_page_and_every_spot_is_on_it() -> None:
    """All samples of the catalogue and the recorded one are shown; each defect named for a spectrum is on its
    sample."""
    assert set(NAMES) == set(SAMPLES) | {"recorded:demo"}
    for name, show in SHOWS.items():
        surface = make_surface(name, show.seed)
        for spot in show.spots:
            assert not spot.form or named(surface, spot.form), (name, spot)
        assert named(surface, show.about)


def test_a_frame_without_noise_follows_the_setpoint() -> None:
    """A slow frame of Au(111) is at the heights where the setpoint flows, to 1 pm (rms) both ways;
    a loop fifty times slower is not."""
    surface = make_surface("au111", 4)
    junction = surface.junction(Tip(), None)
    view = View(0.0, 0.0, 12e-9, 0.1, 100e-12, pixels=32, line_s=0.4)
    well = Working(distortions=Distortions(), noise=QUIET_MAINS)
    side = 12e-9 * ((np.arange(32) + 0.5) / 32 - 0.5)
    profile = junction.profile(np.tile(side, 32), np.repeat(side, 32), 0.1, 100e-12)
    ideal = profile.target(100e-12).reshape(32, 32)
    taken = take(junction, view, well, 0)
    assert np.sqrt(np.mean((taken.z_m - ideal) ** 2)) < 1e-12
    assert np.allclose(taken.current_a, 100e-12, rtol=0.05, atol=0)
    slow = take(junction, view, Working(Distortions(), QUIET_MAINS, gain=0.02, proportional=0.0), 0)
    assert np.sqrt(np.mean((slow.z_m - ideal) ** 2)) > 4e-12


def test_spectra_are_opened_at_the_setpoint() -> None:
    """The conductance integrates from zero to the bias of opening to about the setpoint, and half the
    setpoint halves it."""
    surface = make_surface("au111", 4)
    junction = surface.junction(Tip(), None)
    biases = np.linspace(0.0, 0.3, 61)
    rng = np.random.default_rng(0)
    full = spectrum(junction, 1e-9, 2e-9, biases, LockInView(0.3, 300e-12, 5e-3), rng)
    half = spectrum(junction, 1e-9, 2e-9, biases, LockInView(0.3, 150e-12, 5e-3), rng)
    assert np.isclose(np.trapezoid(full, biases), 300e-12, rtol=0.05, atol=0)
    assert np.isclose(half.mean() / full.mean(), 0.5, rtol=0.05, atol=0)


def test_maps_are_spectra_by_pixel() -> None:
    """Row 0 is the lower edge; each pixel holds the spectrum of its place within the noise."""
    surface = make_surface("vacancy", 1)
    junction = surface.junction(Tip(), None)
    view = View(0.0, 0.0, 30e-9, -0.8, 50e-12)
    lockin = LockInView(-1.0, 100e-12, 10e-3)
    maps = conductance_maps(junction, view, np.array([-0.8, 0.9]), lockin, 4, np.random.default_rng(0))
    at = 30e-9 * ((np.arange(4) + 0.5) / 4 - 0.5)
    one = spectrum(junction, at[3], at[1], np.array([-0.8, 0.9]), lockin, np.random.default_rng(1))
    assert maps.shape == (2, 4, 4)
    assert np.allclose(maps[:, 1, 3], one, rtol=0.05, atol=0)


def test_a_plane_is_taken_off_terraces() -> None:
    """A tilted staircase with atoms is flat afterwards but for its steps, to 3 pm."""
    row, column = np.mgrid[:120, :120]
    stairs = 0.3e-9 * (column > 70) + 5e-12 * np.sin(1.3 * row) * np.sin(1.1 * column)
    flat = drawing.plane_subtracted(stairs + 2e-12 * row - 3e-12 * column)
    left = flat[:, :60]
    assert np.std(left - 5e-12 * (np.sin(1.3 * row) * np.sin(1.1 * column))[:, :60]) < 3e-12


@pytest.mark.parametrize(
    ("value", "words"), [(1.5e-10, "150 pA"), (0.0, "0 A"), (2e-9, "2 nA"), (-1.2, "\N{MINUS SIGN}1.2 A")]
)
def test_quantities_have_units(value: float, words: str) -> None:
    """Three digits and a prefix."""
    assert drawing.quantity(value, "A") == words


def test_the_command_writes_pictures(tmp_path: Path) -> None:
    """Both pages of a sample; an unknown sample is refused with the known ones named."""
    run = CliRunner().invoke(
        gallery_command,
        ["--out", str(tmp_path), "--sample", "vacancy", "--sample", "recorded:demo", "--pixels", "48"],
        catch_exceptions=False,
    )
    assert run.exit_code == 0
    made = sorted(p.name for p in tmp_path.glob("*.png"))
    assert made == ["recorded_demo.png", "vacancy.png", "vacancy_distortions.png"]
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in made)
    with pytest.raises(ConfigError, match="mos2"):
        CliRunner().invoke(
            gallery_command, ["--out", str(tmp_path), "--sample", "mos2"], catch_exceptions=False
        )
