"""Tunneling between atoms and the tips made of them, each against its closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from protocols.errors import UsageError
from sim_hardware.physics.lockin import broadened, thermal_kernel
from sim_hardware.physics.tips import (
    TUNGSTEN_LATTICE_M,
    TipRecipe,
    apex_001,
    apex_111,
    doubled,
    front_layer,
    metallic,
    random_recipe,
    resonant,
    rotated,
    worn,
)
from sim_hardware.physics.tunneling import (
    Atoms,
    Barrier,
    DensityTable,
    barrier_height_ev,
    conductances,
    currents,
    currents_and_slopes,
    energy_weights,
    tabulated_log_currents,
    thermal_energy_v,
    window,
)
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S

ENERGIES = np.linspace(-2.0, 2.0, 401)
METAL = metallic(ENERGIES)
BARRIER = Barrier()


def one_atom(states: DensityTable = METAL, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Atoms:
    """A single atom."""
    return Atoms(np.array([at]), np.zeros(1, dtype=np.intp), states)


def sheet(spacing_m: float, width_m: float) -> Atoms:
    """A square lattice of atoms at z = 0 around the origin."""
    side = np.arange(-width_m / 2, width_m / 2 + spacing_m / 2, spacing_m)
    x, y = (g.ravel() for g in np.meshgrid(side, side))
    return Atoms(np.stack([x, y, np.zeros(x.size)], axis=1), np.zeros(x.size, dtype=np.intp), METAL)


@given(st.floats(2.0, 6.0), st.floats(0.3e-9, 1.2e-9), st.floats(1e-12, 0.3e-9))
def test_one_pair_decays_at_twice_kappa(phi: float, height: float, rise: float) -> None:
    """ln I falls by 2 kappa per metre to 1e-6, kappa = sqrt(2 m phi) / hbar = 5.1232 / nm sqrt(phi / eV)."""
    at = np.array([[0.0, 0.0, height], [0.0, 0.0, height + rise]])
    low, high = currents(one_atom(), one_atom(), at, 0.5, Barrier(phi))
    kappa = 5.123167e9 * np.sqrt(phi)
    assert np.isclose(np.log(high / low), -2.0 * kappa * rise, rtol=1e-6, atol=1e-13)


def test_one_pair_of_metals_carries_the_conductance_quantum_at_contact() -> None:
    """I = G0 V exp(-2 kappa (d - contact)) to 1e-12, at a distance along a slant, with the bias's sign."""
    at = np.array([0.3e-9, -0.2e-9, 0.5e-9])
    distance = float(np.sqrt(0.09 + 0.04 + 0.25)) * 1e-9
    for bias in (-1.3, 0.7):
        expected = CONTACT_CONDUCTANCE_S * bias * np.exp(-2 * BARRIER.kappa * (distance - BARRIER.contact_m))
        assert np.isclose(currents(one_atom(), one_atom(), at, bias, BARRIER), expected, rtol=1e-12, atol=0)


def test_a_flat_surface_decays_a_few_per_cent_slower() -> None:
    """Over a plane of atoms I ~ (z / 2 kappa + 1 / 4 kappa^2) exp(-2 kappa z): the integral over the plane.

    So d ln I / dz = -2 kappa + 1 / (z + 1 / 2 kappa), 4 to 8 % below 2 kappa at 0.6 to 1 nm; slope and
    amplitude of the direct sum agree to 1e-4.
    """
    spacing = 0.05e-9
    plane, kappa = sheet(spacing, 5e-9), BARRIER.kappa
    z = np.array([0.6e-9, 0.8e-9, 1.0e-9])
    at = np.stack([np.zeros(3), np.zeros(3), z], axis=1)
    found, slope = currents_and_slopes(plane, one_atom(), at, 1.0, BARRIER)
    area = 2 * np.pi * (z / (2 * kappa) + 1 / (4 * kappa**2)) / spacing**2
    expected = CONTACT_CONDUCTANCE_S * area * np.exp(-2 * kappa * (z - BARRIER.contact_m))
    assert np.allclose(found, expected, rtol=1e-4, atol=0)
    assert np.allclose(slope / found, -2 * kappa + 1 / (z + 1 / (2 * kappa)), rtol=1e-4, atol=0)
    short = 1.0 + slope / found / (2 * kappa)
    assert np.all((short > 0.03) & (short < 0.09))


def test_currents_of_atoms_add_up() -> None:
    """Currents of parts of sample and tip add up to the whole's, which is the plain double sum, to 1e-12."""
    rng = np.random.default_rng(1)
    states = DensityTable(ENERGIES, 0.2 + rng.uniform(size=(3, len(ENERGIES))))
    sample = Atoms(rng.uniform(-1e-9, 1e-9, (40, 3)) * [1, 1, 0.1], rng.integers(0, 3, 40), states)
    tip = Atoms(rng.uniform(0, 0.5e-9, (7, 3)), rng.integers(0, 3, 7), states)
    at = np.stack([np.zeros((2, 3)), np.zeros((2, 3)), np.full((2, 3), 0.8e-9)], axis=-1)
    biases = np.array([-0.4, 0.1, 0.9])
    whole = currents(sample, tip, at, biases, BARRIER)
    parts = sum(
        currents(sample.only(a), tip.only(b), at, biases, BARRIER)
        for a in (np.arange(15), np.arange(15, 40))
        for b in (np.arange(3), np.arange(3, 7))
    )
    assert whole.shape == (2, 3, 3)
    assert np.allclose(whole, parts, rtol=1e-12, atol=0)
    weights = energy_weights(states, states, biases)
    by_hand = np.zeros(3)
    for place, kind in zip(sample.positions_m, sample.kinds, strict=True):
        for offset, other in zip(tip.positions_m, tip.kinds, strict=True):
            distance = float(np.linalg.norm(at[1, 2] + offset - place))
            decay = CONTACT_CONDUCTANCE_S * np.exp(-2 * BARRIER.kappa * (distance - BARRIER.contact_m))
            by_hand += decay * weights[:, kind, other]
    assert np.allclose(whole[1, 2], by_hand, rtol=1e-12, atol=0)


def test_leaving_out_far_atoms_changes_nothing_that_matters() -> None:
    """With a reach of 2 nm the current is that of the full sum to 1e-4, in many small chunks as in one."""
    plane, tip = sheet(0.3e-9, 10e-9), apex_111(METAL)
    side = np.linspace(-2e-9, 2e-9, 9)
    at = np.stack([*np.meshgrid(side, side), np.full((9, 9), 0.9e-9)], axis=-1)
    full = currents(plane, tip, at, 1.0, BARRIER)
    near = np.array([[currents(plane, tip, p, 1.0, BARRIER, reach_m=2e-9) for p in row] for row in at])
    assert np.allclose(near, full, rtol=1e-4, atol=0)
    assert not np.array_equal(near, full)


def test_slope_is_the_derivative_of_the_current() -> None:
    """dI/dz equals the central difference to 1e-6."""
    plane, tip = sheet(0.3e-9, 3e-9), apex_001(METAL)
    at, dz = np.array([0.1e-9, 0.05e-9, 0.8e-9]), np.array([0.0, 0.0, 1e-14])
    _, slope = currents_and_slopes(plane, tip, at, 0.5, BARRIER)
    upper, lower = (currents(plane, tip, at + s * dz, 0.5, BARRIER) for s in (1, -1))
    assert np.isclose(slope, (upper - lower) / 2e-14, rtol=1e-6, atol=0)


def test_the_window_selects_empty_states_of_the_sample_at_positive_bias() -> None:
    """States only above EF conduct at +V alone, states only below at -V alone; the other sign carries 0.

    A sign error in the bias would exchange them.
    """
    above = DensityTable(np.array([-2.0, 0.2, 0.21, 2.0]), np.array([[0.0, 0.0, 1.0, 1.0]]))
    below = DensityTable(np.array([-2.0, -0.21, -0.2, 2.0]), np.array([[1.0, 1.0, 0.0, 0.0]]))
    up = energy_weights(above, METAL, np.array([-1.0, 1.0]))[:, 0, 0]
    down = energy_weights(below, METAL, np.array([-1.0, 1.0]))[:, 0, 0]
    assert np.allclose(up, [0.0, 1.0 - 0.205], rtol=1e-12, atol=1e-15)
    assert np.allclose(down, [-(1.0 - 0.205), 0.0], rtol=1e-12, atol=1e-15)


def test_a_state_of_the_tip_appears_at_the_opposite_bias() -> None:
    """The integral over both densities against a fine sum of rho_s(E) rho_t(E - V), to 1e-6.

    A resonance of the tip at +0.3 V is met by the sample's Fermi edge at V = -0.3 V, where dI/dV peaks.
    """
    tip = resonant(ENERGIES, 0.3, 0.1, 4.0)
    sample = metallic(ENERGIES, 0.2)
    for bias in (-0.8, 0.65):
        found = energy_weights(sample, tip, bias)[0, 1]
        energy = np.linspace(0.0, bias, 200001)
        met = np.interp(energy - bias, ENERGIES, tip.densities[1])
        expected = trapezoid(np.interp(energy, ENERGIES, sample.densities[0]) * met, energy)
        assert np.isclose(found, expected, rtol=1e-6, atol=0)
    biases = np.linspace(-1.0, 1.0, 201)
    g = np.gradient(energy_weights(METAL, tip, biases)[:, 0, 1], biases)
    assert np.isclose(biases[np.argmax(g)], -0.3, rtol=0, atol=0.011)


def test_thermal_window_is_the_difference_of_two_fermi_functions() -> None:
    """f(E - V) - f(E): its integral is V at any temperature (1e-9), its edges are 1/2 at E = 0 and E = V."""
    for temperature in (4.2, 300.0):
        weight = energy_weights(METAL, METAL, np.array([-0.6, 0.002, 0.6]), temperature)[:, 0, 0]
        assert np.allclose(weight, [-0.6, 0.002, 0.6], rtol=1e-9, atol=0)
    assert np.allclose(window(np.array([0.0, 0.6]), 0.6, 77.0), 0.5, rtol=1e-9, atol=0)
    assert np.isclose(thermal_energy_v(300.0), 25.852e-3, rtol=1e-4, atol=0)


def test_conductance_is_the_density_broadened_by_temperature() -> None:
    """With a plain tip dI/dV = G0 exp(...) times the LDOS convolved with -df/dE, to 1e-3 of its maximum.

    At 77 K a Gaussian state of 8 mV is broadened to more than twice its width: leaving the broadening out
    misses by more than half the maximum.
    """
    energies = np.linspace(-0.4, 0.4, 1601)
    state = 0.1 + np.exp(-0.5 * ((energies - 0.1) / 8e-3) ** 2)
    sample, tip = DensityTable(energies, state[None, :]), DensityTable(energies, np.ones((1, len(energies))))
    biases = np.linspace(-0.05, 0.25, 61)
    at = np.array([0.0, 0.0, 0.7e-9])
    barrier = Barrier(temperature_k=77.0)
    found = conductances(one_atom(sample), one_atom(tip), at, biases, barrier)
    kernel = np.linspace(-0.15, 0.15, 1201)
    ldos = np.interp(biases[:, None] - kernel, energies, state)
    expected = (ldos @ thermal_kernel(kernel, 77.0)) * (kernel[1] - kernel[0])
    scale = CONTACT_CONDUCTANCE_S * np.exp(-2 * barrier.kappa * (0.7e-9 - barrier.contact_m))
    assert np.allclose(found / scale, expected, rtol=0, atol=1e-3 * expected.max())
    same = broadened(lambda v: np.interp(v, energies, state), biases, temperature_k=77.0)
    assert np.allclose(same, expected, rtol=0, atol=1e-3 * expected.max())
    sharp = np.interp(biases, energies, state)
    assert np.abs(sharp - found / scale).max() > 0.5 * expected.max()


def test_tabulated_currents_serve_the_feedback_within_a_thousandth() -> None:
    """ln I tabulated every 50 pm and interpolated is the direct sum to 0.1 %."""
    plane, tip = sheet(0.3e-9, 4e-9), apex_111(METAL)
    heights = np.arange(0.5e-9, 1.01e-9, 0.05e-9)
    table = tabulated_log_currents(plane, tip, np.array([0.0, 0.1e-9]), np.zeros(2), heights, 0.5, BARRIER)
    assert table.shape == (2, 11)
    z = np.linspace(0.5e-9, 1.0e-9, 23)
    direct = currents(plane, tip, np.stack([0 * z + 0.1e-9, 0 * z, z], axis=1), 0.5, BARRIER)
    assert np.allclose(np.exp(np.interp(z, heights, table[1])), direct, rtol=1e-3, atol=0)
    with pytest.raises(UsageError, match="no current"):
        tabulated_log_currents(plane, tip, np.zeros(1), np.zeros(1), heights, 0.0, BARRIER)


def test_a_barrier_is_the_mean_of_both_work_functions_less_half_the_bias() -> None:
    """Simmons: (phi_s + phi_t) / 2 - |V| / 2, for either sign."""
    assert np.isclose(barrier_height_ev(4.0, 5.0, -1.0), 4.0, rtol=1e-12, atol=0)
    assert np.isclose(barrier_height_ev(4.0, 5.0), 4.5, rtol=1e-12, atol=0)


def test_bad_tables_are_refused() -> None:
    """Energies out of order, densities of the wrong shape, kinds without states: said at construction."""
    with pytest.raises(UsageError, match="ascending"):
        DensityTable(np.array([1.0, 0.0]), np.ones((1, 2)))
    with pytest.raises(UsageError, match="shape"):
        DensityTable(ENERGIES, np.ones((1, 3)))
    with pytest.raises(UsageError, match="kinds"):
        Atoms(np.zeros((1, 3)), np.array([1]), METAL)


@pytest.mark.parametrize(
    ("apex", "counts", "spacing"),
    [
        (apex_111, [1, 3, 1, 6], TUNGSTEN_LATTICE_M * np.array([0.0, 2.0, 3.0, 4.0]) / (2 * np.sqrt(3.0))),
        (apex_001, [1, 4, 5, 12], TUNGSTEN_LATTICE_M * np.array([0.0, 0.5, 1.0, 1.5])),
    ],
)
def test_layers_of_an_apex(apex: Callable[..., Atoms], counts: list[int], spacing: np.ndarray) -> None:
    """Numbers of atoms and heights of the first layers as the bcc lattice has them, nearest neighbours at
    sqrt(3) / 2 a, and a front atom at the origin."""
    tip = apex(METAL)
    z = tip.positions_m[:, 2]
    for height, count in zip(spacing, counts, strict=True):
        assert np.count_nonzero(np.abs(z - height) < 1e-13) == count
    apart = np.linalg.norm(tip.positions_m[:, None] - tip.positions_m, axis=-1)
    assert np.isclose(apart[apart > 0].min(), np.sqrt(0.75) * TUNGSTEN_LATTICE_M, rtol=1e-9, atol=0)
    assert np.allclose(front_layer(tip), 0.0, atol=1e-15)


@pytest.mark.parametrize("apex", [apex_111, apex_001])
def test_a_duller_tip_sees_less_corrugation(apex: Callable[..., Atoms]) -> None:
    """Over a row of atoms the constant-height contrast falls when a layer is gone, and the apex is wider."""
    row = Atoms(np.array([[0.9e-9 * i, 0.0, 0.0] for i in range(-6, 7)]), np.zeros(13, dtype=np.intp), METAL)
    x = np.linspace(0.0, 0.9e-9, 19)
    at = np.stack([x, np.zeros(19), np.full(19, 0.8e-9)], axis=1)
    contrast, atoms = [], []
    for layers in (0, 1):
        tip = apex(METAL, layers)
        image = np.log(currents(row, tip, at, 1.0, BARRIER))
        contrast.append(image.max() - image.min())
        atoms.append(len(front_layer(tip)))
    assert atoms[1] > atoms[0] == 1
    assert contrast[1] < 0.8 * contrast[0]
    with pytest.raises(UsageError, match="layers"):
        apex(METAL, 1000)


def test_a_double_tip_shows_everything_twice() -> None:
    """One atom imaged by a double tip gives a second maximum at minus the offset, exp(-2 kappa lift) as high
    as the first (to 2 %: shanks overlap)."""
    apex = one_atom()
    tip = doubled(apex, apex, 1.5e-9, 0.0, 40e-12)
    x = np.linspace(-2.5e-9, 1e-9, 351)
    at = np.stack([x, np.zeros(351), np.full(351, 0.5e-9)], axis=1)
    image = currents(one_atom(), tip, at, 1.0, BARRIER)
    first = image[np.abs(x) < 0.3e-9].max()
    ghost = image[np.abs(x + 1.5e-9) < 0.3e-9].max()
    assert np.isclose(x[np.argmax(np.where(x < -0.75e-9, image, 0))], -1.5e-9, rtol=0, atol=1.1e-11)
    assert np.isclose(ghost / first, np.exp(-2 * BARRIER.kappa * 40e-12), rtol=0.02, atol=0)


def test_a_resonance_sits_on_the_front_atoms_only() -> None:
    """Kind 1, the resonance, belongs to the front layer; turning and wearing keep it there."""
    tip = worn(rotated(apex_001(resonant(ENERGIES, 0.2, 0.1, 2.0), 1), 0.4), 0.5, np.random.default_rng(1))
    front = tip.positions_m[:, 2] < 1e-12
    assert np.array_equal(tip.kinds == 1, front)
    assert np.count_nonzero(front) == 2
    assert np.isclose(tip.states.at(np.array([0.2]))[1, 0], 3.0, rtol=1e-9, atol=0)
    assert np.isclose(tip.states.at(np.array([0.25]))[1, 0], 2.0, rtol=1e-9, atol=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_random_tips_are_reproducible_and_conduct(seed: int) -> None:
    """A recipe makes the same tip every time, foremost atom at z = 0, density positive everywhere."""
    recipe = random_recipe(np.random.default_rng(seed))
    tip, again = recipe.make(ENERGIES), recipe.make(ENERGIES)
    assert np.array_equal(tip.positions_m, again.positions_m)
    assert np.isclose(tip.positions_m[:, 2].min(), 0.0, rtol=0, atol=1e-15)
    assert tip.states.densities.min() > 0.0


def test_five_hundred_random_tips_differ() -> None:
    """Recipes drawn one after another never repeat, and all kinds of tip are among 500."""
    rng = np.random.default_rng(7)
    recipes = [random_recipe(rng) for _ in range(500)]
    assert len(set(recipes)) == 500
    assert {r.orientation for r in recipes} == {"111", "001"}
    assert {r.dull_layers for r in recipes} == {0, 1, 2, 3}
    assert any(r.second for r in recipes)
    assert any(r.resonance for r in recipes)
    assert TipRecipe().make(ENERGIES).kinds.max() == 0
