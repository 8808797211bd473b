"""The surface state: onset, dispersion by Fourier transform, and the waves of impurities and steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import UsageError
from sim_hardware.physics.lockin import broadened
from sim_hardware.physics.surface_state import (
    AU111,
    Impurity,
    ScatteringSurface,
    SurfaceState,
    far_wave,
    friedel_density,
    step_edge,
)

SHARP = SurfaceState(width_ev=0.0)


def dominant_wave_vector(x: np.ndarray, wave: np.ndarray) -> float:
    """Wave vector (1/m) at the largest peak of the Fourier transform, with zero padding and a window."""
    padded = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), n=64 * len(wave)))
    return float(2 * np.pi * np.fft.rfftfreq(64 * len(wave), x[1] - x[0])[np.argmax(padded)])


def test_dispersion_of_gold() -> None:
    """k(E) = sqrt(2 m (E - E0)) / hbar with m = 0.26, E0 = -0.52 eV: 1.8837 / nm at EF (1e-3), 0 below E0,
    and energy() inverts it."""
    assert np.isclose(AU111.wave_vector(0.0), 1.8837e9, rtol=1e-3, atol=0)
    assert AU111.wave_vector(-0.6) == 0.0
    energy = np.linspace(-0.5, 1.0, 7)
    assert np.allclose(AU111.energy(AU111.wave_vector(energy)), energy, rtol=0, atol=1e-12)


def test_onset_is_an_arctangent_at_minus_520_mv() -> None:
    """The density is 1/2 at the onset and 1/4, 3/4 half a width to either side (1e-12); its steepest place is
    the onset, also after modulation and temperature (2 mV)."""
    assert np.allclose(AU111.density(np.array([-0.53, -0.52, -0.51])), [0.25, 0.5, 0.75], rtol=1e-12, atol=0)
    bias = np.linspace(-0.7, -0.3, 401)
    shown = broadened(AU111.density, bias, 0.01, 5.0)
    assert np.isclose(bias[np.argmax(np.gradient(shown, bias))], -0.52, rtol=0, atol=2e-3)


@pytest.mark.parametrize("energy", [-0.3, -0.1, 0.2])
def test_standing_waves_at_a_step_have_twice_k(energy: float) -> None:
    """The Fourier transform of the density along a line from a step peaks at 2 k(E), to 3 %: the mass by
    0.26 and the factor 2 both show."""
    x = np.linspace(2e-9, 60e-9, 2048)
    wave = step_edge(AU111, x, energy) - AU111.density(energy)
    found = dominant_wave_vector(x, wave * np.sqrt(x))
    assert np.isclose(found, 2 * AU111.wave_vector(energy), rtol=0.03, atol=0)


@pytest.mark.parametrize("energy", [-0.2, 0.0, 0.3])
def test_waves_of_an_impurity_have_twice_k(energy: float) -> None:
    """The Fourier transform of the density along a line from an impurity peaks at 2 k(E), to 3 %."""
    surface = ScatteringSurface(AU111, (Impurity(),))
    r = np.linspace(1.5e-9, 50e-9, 2048)
    wave = surface.density(r, np.zeros(r.size), np.array([energy]))[0]
    wave -= surface.bulk + AU111.density(energy)
    assert np.isclose(dominant_wave_vector(r, wave * r), 2 * AU111.wave_vector(energy), rtol=0.03, atol=0)


@given(st.floats(-1.5, 1.5), st.floats(0.0, 1.0), st.floats(-0.3, 0.5))
def test_far_from_an_impurity_the_wave_is_universal(phase: float, absorption: float, energy: float) -> None:
    """Without lifetime the exact wave comes to (alpha cos(2kr + 2 delta - pi/2) - cos(2kr - pi/2)) / (pi kr):
    the difference falls faster, below 0.3 / (kr)^2."""
    impurity = Impurity(phase_rad=phase, absorption=absorption)
    surface = ScatteringSurface(SHARP, (impurity,))
    r = np.linspace(4e-9, 30e-9, 300)
    exact = surface.modulation(r, np.zeros(300), np.array([energy]))[0]
    far = far_wave(SHARP, impurity, r, energy)
    kr = SHARP.wave_vector(energy) * r
    assert np.all(np.abs(exact - far) < 0.3 / kr**2 + 1e-12)


def test_the_envelope_falls_as_one_over_r() -> None:
    """|modulation| x k r is 2 / pi at the crests of a resonance (delta = pi / 2), to 3 %, near and far."""
    surface = ScatteringSurface(SHARP, (Impurity(phase_rad=np.pi / 2),))
    for low, high in ((5e-9, 10e-9), (40e-9, 50e-9)):
        r = np.linspace(low, high, 2001)
        wave = surface.modulation(r, np.zeros(r.size), np.array([0.0]))[0]
        assert np.isclose(np.abs(wave * SHARP.wave_vector(0.0) * r).max(), 2 / np.pi, rtol=0.03, atol=0)


def test_lifetime_damps_the_waves() -> None:
    """A width G multiplies a crest by exp(-2 Im k r), Im k = k G / 4 (E - E0), to 5 % at 30 nm."""
    state = SurfaceState(width_ev=0.05)
    r = np.linspace(29.1e-9, 30.9e-9, 801)
    damped, free = (
        np.abs(ScatteringSurface(s, (Impurity(),)).modulation(r, np.zeros(801), np.array([0.0]))[0])
        for s in (state, SHARP)
    )
    rate = 2 * SHARP.wave_vector(0.0) * 0.05 / (4 * 0.52)
    crest = int(np.argmax(free))
    assert np.isclose(damped[crest] / free[crest], np.exp(-rate * r[crest]), rtol=0.05, atol=0)
    assert damped.max() < 0.2 * free.max()


def test_the_core_is_not_universal() -> None:
    """At the impurity itself the wave is gone and the bound state below the onset is there: at -0.55 V the
    density is a maximum on it, and 3 nm away nothing is left of that state (1e-3)."""
    surface = ScatteringSurface(AU111, (Impurity(),))
    energies = np.array([-0.55, 0.0])
    x = np.array([0.0, 3e-9])
    density = surface.density(x, np.zeros(2), energies)
    assert np.isclose(density[0, 0] - surface.bulk, 0.8 + AU111.density(-0.55), rtol=1e-6, atol=0)
    assert density[0, 0] > 1.5 * density[0, 1]
    assert np.abs(surface.modulation(np.zeros(1), np.zeros(1), energies)).max() < 1e-4


def test_two_impurities_scatter_each_others_waves() -> None:
    """Far apart their waves add (2 %); close together they do not, because of the paths between them; and the
    density without lifetime never falls below zero in between."""
    r = np.linspace(-20e-9, 20e-9, 401)
    y = np.full(401, 6e-9)

    def together(apart: float) -> tuple[np.ndarray, np.ndarray]:
        pair = (Impurity(-apart / 2, 0.0), Impurity(apart / 2, 0.0))
        both = ScatteringSurface(SHARP, pair).modulation(r, y, np.array([0.0]))[0]
        alone = sum(ScatteringSurface(SHARP, (i,)).modulation(r, y, np.array([0.0]))[0] for i in pair)
        return both, np.asarray(alone)

    near, near_sum = together(1.5e-9)
    far, far_sum = together(3e-6)
    assert np.abs(near - near_sum).max() > 0.1 * np.abs(near_sum).max()
    assert np.allclose(far, far_sum, rtol=0, atol=0.02)
    close = tuple(Impurity(*p, core_m=1e-12) for p in np.random.default_rng(2).uniform(-5e-9, 5e-9, (8, 2)))
    x, y2 = np.meshgrid(np.linspace(-6e-9, 6e-9, 41), np.linspace(-6e-9, 6e-9, 41))
    inside = ScatteringSurface(SHARP, close).modulation(x, y2, np.array([-0.3, 0.0, 0.2]))
    assert inside.min() > -1.0 - 1e-9


def test_clean_gold_is_bulk_and_band() -> None:
    """Without impurities the density is bulk + surface x arctangent; below the onset bulk alone."""
    surface = ScatteringSurface(AU111, (), bulk=0.6, surface=0.9)
    density = surface.density(np.zeros((2, 3)), np.zeros((2, 3)), np.array([-2.0, 0.5]))
    assert density.shape == (2, 2, 3)
    assert np.allclose(density[1], 0.6 + 0.9 * AU111.density(0.5), rtol=1e-12, atol=0)
    assert np.allclose(density[0], 0.6, rtol=0, atol=0.01)


def test_a_step_is_a_node_of_the_wave() -> None:
    """At a hard step the density vanishes, far away it is the clean one (1 %)."""
    assert np.isclose(step_edge(SHARP, np.array(0.0), 0.0), 0.0, rtol=0, atol=1e-12)
    assert np.isclose(step_edge(AU111, np.array(500e-9), 0.0), AU111.density(0.0), rtol=0.01, atol=0)


def test_friedel_oscillation_of_the_density() -> None:
    """A cos(2 kF r + alpha) / (r + cutoff)^2: maxima pi / kF apart, finite at the impurity."""
    r = np.linspace(0.0, 30e-9, 30001)
    k = 2e9
    wave = friedel_density(r, k, 1e-18, 0.4, 0.3e-9)
    assert np.isclose(wave[0], 1e-18 * np.cos(0.4) / 9e-20, rtol=1e-9, atol=0)
    scaled = wave * (r + 0.3e-9) ** 2
    crests = r[1:-1][(scaled[1:-1] > scaled[:-2]) & (scaled[1:-1] > scaled[2:])]
    assert np.allclose(np.diff(crests), np.pi / k, rtol=2e-3, atol=0)


def test_impurities_at_one_place_are_refused() -> None:
    """Two scatterers at the same point have no finite wave between them: said at construction."""
    with pytest.raises(UsageError, match="same place"):
        ScatteringSurface(AU111, (Impurity(), Impurity()))
