"""What lies on the surfaces, and that the stated truth is what the tip would find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protocols.errors import ConfigError, DataFormatError
from sim_hardware.surfaces.catalogue import make_surface
from sim_hardware.surfaces.terraces import TerracesSurface
from sim_hardware.surfaces.vacancy import LATTICE_CONSTANT_M, STEP_HEIGHT_M, VacancySurface

SEEDS = range(1, 31)
ENERGIES = np.linspace(0.0, 1.5, 601)


def ratio(surface: VacancySurface, x: float, y: float) -> float:
    """Equation 2 of Narasimha et al. on the true density of states."""
    density = surface.true_density(x, y, ENERGIES)
    return float(density[ENERGIES <= 0.5].sum() / density.sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_one_vacancy_among_many_decoys(seed: int) -> None:
    """Any seed: exactly one vacancy, in the central 180 nm; at least 50 decoys in the central 200 nm, of both
    kinds and several sizes, some of them depressions; none overlaps the vacancy."""
    surface = VacancySurface(seed)
    target = surface.target
    assert [o.kind for o in surface.objects].count("vacancy") == 1
    assert max(abs(target.x_m), abs(target.y_m)) <= 90e-9
    decoys = [o for o in surface.objects if o.kind in ("adsorbate", "substitution")]
    inside = [o for o in decoys if max(abs(o.x_m), abs(o.y_m)) <= 100e-9]
    assert len(inside) >= 50
    assert {o.kind for o in inside} == {"adsorbate", "substitution"}
    assert sum(o.height_m < 0 for o in inside) >= 5
    assert np.ptp([o.size_m for o in inside]) > 2e-9
    for o in decoys:
        apart = np.hypot(o.x_m - target.x_m, o.y_m - target.y_m)
        assert apart > (o.footprint_m + target.footprint_m) / 2 + 1e-9


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_only_the_vacancy_conducts_in_the_gap(seed: int) -> None:
    """Equation 2 is above 0.1 on the vacancy and below 0.01 on every decoy and 1.8 nm beside the vacancy."""
    surface = VacancySurface(seed)
    target = surface.target
    assert ratio(surface, target.x_m, target.y_m) > 0.1
    for o in surface.objects[1:]:
        if o.kind != "step":
            assert ratio(surface, o.x_m, o.y_m) < 0.01
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        beside = target.x_m + 1.8e-9 * np.cos(angle), target.y_m + 1.8e-9 * np.sin(angle)
        assert ratio(surface, *beside) < 0.015


def test_spectral_footprint_is_under_three_nanometres() -> None:
    """The circle within which the vacancy's spectrum has a tenth of the weight is what the truth says: < 3
    nm."""
    surface = VacancySurface(1)
    target = surface.target
    r = np.linspace(0, 3e-9, 3001)
    weight = surface.weights(target.x_m + r, np.full(r.shape, target.y_m))[4]
    measured = 2.0 * float(r[weight >= 0.1][-1])
    assert measured < 3e-9
    assert np.isclose(measured, target.footprint_m, rtol=0.01, atol=0)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_vacancy_is_neither_deepest_nor_brightest(seed: int) -> None:
    """Depth and height alone do not give it away: decoys are deeper and higher, but its hole stands out of
    noise."""
    surface = VacancySurface(seed)
    decoys = [o for o in surface.objects if o.kind in ("adsorbate", "substitution")]
    inside = [o for o in decoys if max(abs(o.x_m), abs(o.y_m)) <= 100e-9]
    assert min(o.height_m for o in inside) < surface.target.height_m
    assert max(o.height_m for o in inside) > 1.5 * abs(surface.target.height_m)
    grid = np.linspace(-0.3e-9, 0.3e-9, 7)
    x, y = np.meshgrid(surface.target.x_m + grid, surface.target.y_m + grid)
    around = (
        surface.target.x_m + 4e-9 * np.cos(np.arange(24)),
        surface.target.y_m + 4e-9 * np.sin(np.arange(24)),
    )
    assert surface.relief(x, y).mean() - surface.relief(*around).mean() < -25e-12


def test_step_has_the_stated_height() -> None:
    """Across an edge the relief falls by 0.718 nm, within the corrugation (20 pm)."""
    surface = VacancySurface(2)
    step = surface.steps[0]
    normal = np.array([np.cos(step.angle_rad), np.sin(step.angle_rad)])
    foot = normal * step.distance_m
    x, y = (foot[:, None] + normal[:, None] * np.linspace(-25e-9, 25e-9, 4001)).copy()
    beyond = step.beyond_m(x, y)
    height = step.relief(x, y)
    assert np.isclose(
        height[beyond < -2e-9].mean() - height[beyond > 2e-9].mean(), STEP_HEIGHT_M, rtol=1e-3, atol=0
    )


def test_lattice_is_hexagonal_with_the_stated_constant() -> None:
    """The power spectrum of the lattice has its peaks at 2 / (sqrt(3) a), 60 degrees apart, to 3 %."""
    surface = VacancySurface(4)
    n, width = 256, 12e-9
    axis = np.arange(n) * width / n
    x, y = np.meshgrid(axis, axis)
    power = np.abs(np.fft.fft2(surface.lattice.relief(x, y) * np.outer(np.hanning(n), np.hanning(n)))) ** 2
    k = np.fft.fftfreq(n, width / n)
    kx, ky = np.meshgrid(k, k)
    peaks = np.argsort(power, axis=None)[::-1][:6]
    found = np.hypot(kx.flat[peaks], ky.flat[peaks])
    assert np.allclose(found, 2 / (np.sqrt(3) * LATTICE_CONSTANT_M), rtol=0.05, atol=0)


def test_surfaces_are_reproducible_and_different() -> None:
    """The same seed gives the same surface; another one moves everything."""
    one, same, other = VacancySurface(7), VacancySurface(7), VacancySurface(8)
    assert one.objects == same.objects
    assert one.target != other.target
    x = np.linspace(-1e-7, 1e-7, 50)
    assert np.array_equal(one.relief(x, x), same.relief(x, x))


def test_weights_are_a_mixture() -> None:
    """Weights of the basis spectra are not negative and sum to one everywhere, for any shape of
    coordinates."""
    x, y = np.meshgrid(np.linspace(-1.2e-7, 1.2e-7, 60), np.linspace(-1.2e-7, 1.2e-7, 50))
    for surface in (VacancySurface(3), TerracesSurface(3)):
        weights = surface.weights(x, y)
        assert weights.shape == (len(surface.basis), 50, 60)
        assert weights.min() >= 0.0
        assert np.allclose(weights.sum(axis=0), 1.0, rtol=1e-12, atol=0)


def test_terraces_vary_smoothly() -> None:
    """Away from adsorbates and steps the terraces' density of states changes by less than 15 % per 3 nm."""
    surface = TerracesSurface(5)
    x, y = np.meshgrid(np.linspace(-1e-7, 1e-7, 67), np.linspace(-1e-7, 1e-7, 67))
    share = surface.weights(x, y)[2]
    assert np.ptp(share) > 0.3
    adsorbates = [o for o in surface.objects if o.kind == "adsorbate"]
    far = np.all([np.hypot(x - o.x_m, y - o.y_m) > 6e-9 for o in adsorbates], axis=0)
    change = np.abs(np.diff(share, axis=1))[far[:, 1:] & far[:, :-1]]
    assert change.max() < 0.15


def test_catalogue_names_what_it_knows() -> None:
    """An unknown sample and a missing file are errors that say what there is."""
    with pytest.raises(ConfigError, match=r"Known: .*au111, .*terraces, vacancy"):
        make_surface("graphene", 1)
    with pytest.raises(DataFormatError, match="No such file"):
        make_surface("recorded:/nowhere/at/all.3ds", 1)
    with pytest.raises(DataFormatError, match="No such file"):
        make_surface("recorded:/nowhere/at/all.hf5", 1)
    assert make_surface("recorded:demo", 1).name == "recorded:demo"


def test_decoys_do_not_overlap_each_other() -> None:
    """No two objects are closer than 4.5 nm."""
    places = [(o.x_m, o.y_m) for o in VacancySurface(6).objects if o.kind != "step"]
    nearest = min(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in itertools.combinations(places, 2))
    assert nearest >= 4.5e-9
