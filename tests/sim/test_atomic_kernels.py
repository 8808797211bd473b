"""Compiled pair sums against the direct sum of physics.tunneling, and the energy integral for many biases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import constants

from sim_hardware.physics.atomic_kernels import (
    Decay,
    Scene,
    TipAtoms,
    kind_sums,
    linearised,
    pair_sums,
    touching,
)
from sim_hardware.physics.energy_window import EnergyWindow
from sim_hardware.physics.ldos_tables import VACANCY
from sim_hardware.physics.tips import TipRecipe, metallic
from sim_hardware.physics.tunneling import (
    Atoms,
    Barrier,
    DensityTable,
    conductances,
    currents,
    currents_and_slopes,
    energy_weights,
    thermal_energy_v,
)
from sim_hardware.surfaces.atomistic import (
    GAP_AT_CONTACT_M,
    LOBE_M,
    LOWEST_M,
    NUCLEI_M,
    AtomisticJunction,
    AtomisticSurface,
)
from sim_hardware.surfaces.fese import FeSeSurface
from sim_hardware.surfaces.tmd import Ws2Surface
from sim_hardware.tip import Tip
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S

Floats = npt.NDArray[np.float64]

NM, PM = 1e-9, 1e-12
RECIPES = (
    TipRecipe(angle_rad=0.4),
    TipRecipe(orientation="001", dull_layers=1, slope_per_v=0.2, resonance=(0.4, 0.2, 2.0)),
    TipRecipe(dull_layers=2, worn_share=0.4, second=(0.9 * NM, -0.5 * NM, 30 * PM), seed=4),
)
PATCH_M = 4.5 * NM
"""Half the width of the patch that the direct sum takes."""


@pytest.fixture(scope="module")
def ws2() -> Ws2Surface:
    """A sheet."""
    return Ws2Surface(11)


@pytest.fixture(scope="module")
def fese() -> FeSeSurface:
    """A superconductor."""
    return FeSeSurface(11)


def _around(surface: AtomisticSurface, x: float, y: float) -> Atoms:
    return surface.atoms((x - PATCH_M, y - PATCH_M), (x + PATCH_M, y + PATCH_M))


def _vacancy(surface: AtomisticSurface) -> tuple[float, float]:
    found = next(o for o in surface.objects if o.kind == VACANCY)
    return found.x_m, found.y_m


def _line(surface: AtomisticSurface, n: int = 25) -> tuple[Floats, Floats]:
    """Places across a vacancy."""
    x, y = _vacancy(surface)
    along = np.linspace(-1.5 * NM, 1.5 * NM, n)
    return x + along, y + 0.3 * along


def _direct(
    junction: AtomisticJunction, x: Floats, y: Floats, z: Floats, biases: Floats
) -> tuple[Floats, Floats]:
    """Currents and slopes (places, biases) by the direct sum."""
    sample = _around(junction.surface, float(x.mean()), float(y.mean()))
    places = np.stack([x, y, z], axis=-1)
    return currents_and_slopes(sample, junction.tip_atoms, places, biases, junction.barrier)


# -- the kernels ---------------------------------------------------------------------------------------------


def _one_atom() -> Scene:
    starts = np.ones((1, 65), dtype=np.int64)
    starts[0, :37] = 0
    return Scene(
        x=np.array([2.1 * NM]),
        y=np.array([2.1 * NM]),
        z=np.array([0.0]),
        kind=np.zeros(1, dtype=np.int64),
        starts=starts,
        tiles=np.zeros((1, 1), dtype=np.int64),
        low_x=0.0,
        low_y=0.0,
        cell_m=0.5 * NM,
        cells=8,
    )


POINT = TipAtoms(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))


def test_one_pair_decays_with_twice_kappa() -> None:
    """ln of the sum falls by 2 kappa per metre, kappa = sqrt(2 m phi) / hbar, to 1e-9; so does the slope."""
    kappa = np.sqrt(2.0 * constants.m_e * 4.5 * constants.e) / constants.hbar
    z = np.array([0.3, 0.4, 0.7]) * NM
    at = np.full(3, 2.1 * NM)
    decay = Decay(2.0 * Barrier(4.5).kappa, 0.1 * NM)
    total, slope = pair_sums(at, at, z, np.zeros(3), _one_atom(), POINT, decay, np.array([[0.25]]))
    assert np.allclose(total, 0.25 * np.exp(-2.0 * kappa * (z - 0.1 * NM)), rtol=1e-9, atol=0.0)
    assert np.allclose(slope / total, -2.0 * kappa, rtol=1e-9)


def test_a_pair_aside_decays_with_its_distance() -> None:
    """At offset (x, y) the distance is sqrt(x^2 + y^2 + z^2), and the slope has the factor z / d: 1e-9."""
    decay = Decay(2.0e10, 0.0)
    x, y, z = np.array([2.4 * NM]), np.array([2.0 * NM]), np.array([0.5 * NM])
    total, slope = pair_sums(x, y, z, np.zeros(1), _one_atom(), POINT, decay, np.array([[1.0]]))
    distance = np.sqrt(0.3**2 + 0.1**2 + 0.5**2) * NM
    assert np.isclose(total[0], np.exp(-2.0e10 * distance), rtol=1e-9)
    assert np.isclose(slope[0], -2.0e10 * total[0] * 0.5 * NM / distance, rtol=1e-9)
    shares, slopes = kind_sums(x[0], y[0], z, 0.0, _one_atom(), POINT, decay, (1, 1))
    assert np.allclose([shares[0, 0, 0], slopes[0, 0, 0]], [total[0], slope[0]], rtol=1e-12, atol=0.0)


def test_touching_is_a_sphere_about_the_nucleus() -> None:
    """The tip touches at sqrt(r^2 - x^2) above an atom, to 1e-12; nowhere beyond r."""
    x = np.array([2.1, 2.2, 2.6]) * NM
    height = touching(x, np.full(3, 2.1 * NM), 0.28 * NM, _one_atom(), POINT)
    assert np.allclose(height[:2], [0.28 * NM, np.sqrt(0.28**2 - 0.1**2) * NM], rtol=1e-12, atol=0.0)
    assert height[2] == -np.inf


def test_newton_stops_at_the_ends_of_the_range() -> None:
    """A current too large or too small for the range is linearised at its end, exactly there."""
    decay, weights = Decay(2.0e10, 0.0), np.array([[1.0]])
    at = np.full(1, 2.1 * NM)
    for goal, end in ((5.0, 0.2 * NM), (-200.0, 1.0 * NM)):
        height, log, fall = linearised(
            at, at, np.zeros(1), goal, (0.2 * NM, 1.0 * NM), _one_atom(), POINT, decay, weights
        )
        assert np.isclose(height[0], end, rtol=1e-12)
        assert np.isclose(log[0], -2.0e10 * end, rtol=1e-9)
        assert np.isclose(fall[0], 2.0e10, rtol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES, ids=["sharp", "dull, resonant", "double, worn"])
def test_profiles_equal_the_direct_sum(ws2: Ws2Surface, recipe: TipRecipe) -> None:
    """Logarithm and slope at the profile's heights are those of the double sum over all pairs, to 1e-6.

    The current there is near what was asked for: ln |I| within 0.15.
    """
    junction = ws2.junction(Tip(recipe=recipe))
    x, y = _line(ws2)
    for bias in (1.2, -1.8):
        profile = junction.profile(x, y, bias, 100e-12)
        current, slope = _direct(junction, x, y, profile.height_m, np.array([bias]))
        assert np.all(np.sign(current) == np.sign(bias))
        assert np.allclose(np.exp(profile.log_current), np.abs(current[:, 0]), rtol=1e-6, atol=0.0)
        assert np.allclose(profile.decay_per_m, -slope[:, 0] / current[:, 0], rtol=1e-6)
        assert np.all(np.abs(profile.log_current - np.log(100e-12)) < 0.15)


def test_the_profile_of_a_setpoint_holds_at_that_setpoint(fese: FeSeSurface) -> None:
    """At the target of 100 pA the direct sum gives 100 pA to 0.1 %; 30 pm above and below within 2 %."""
    junction = fese.junction(Tip())
    x, y = _line(fese)
    profile = junction.profile(x, y, 0.02, 100e-12)
    target = profile.target(100e-12)
    at, _ = _direct(junction, x, y, target, np.array([0.02]))
    assert np.allclose(at[:, 0], 100e-12, rtol=1e-3, atol=0.0)
    for off in (-30 * PM, 30 * PM):
        there, _ = _direct(junction, x, y, target + off, np.array([0.02]))
        assert np.allclose(profile.current(target + off), there[:, 0], rtol=0.02, atol=0.0)


@pytest.mark.parametrize("recipe", RECIPES[:2], ids=["sharp", "dull, resonant"])
def test_a_sweep_at_one_place_equals_the_direct_sum(ws2: Ws2Surface, recipe: TipRecipe) -> None:
    """|I| of every bias at one height above a vacancy's edge: 1e-6 of the double sum; sign and decay too."""
    junction = ws2.junction(Tip(recipe=recipe))
    x, y = _vacancy(ws2)
    x += 0.2 * NM
    biases = np.array([-1.9, -0.6, 0.3, 0.6, 0.8, 1.3])
    height = float(junction.profile(np.array([x]), np.array([y]), 1.2, 50e-12).height_m[0])
    sweep = junction.bias_profile(x, y, biases, height)
    current, slope = _direct(junction, np.array([x]), np.array([y]), np.array([height]), biases)
    assert np.allclose(np.exp(sweep.log_current), np.abs(current[0]), rtol=1e-6, atol=0.0)
    assert np.allclose(sweep.decay_per_m, -slope[0] / current[0], rtol=1e-6)


def test_the_conductance_is_the_derivative_of_the_direct_sum(ws2: Ws2Surface, fese: FeSeSurface) -> None:
    """dI/dV at fixed height against central differences of the double sum, with a resonant tip: 1e-3."""
    for surface, biases, step in (
        (ws2, np.array([-1.7, 0.55, 0.75, 1.05, 1.4]), 1e-5),
        (fese, np.array([-8e-3, -2e-3, 0.0, 1.5e-3, 2.2e-3, 6e-3]), 1e-6),
    ):
        junction = surface.junction(Tip(recipe=RECIPES[1]))
        x, y = _vacancy(surface)
        height = float(surface.field.surface(np.array([x]), np.array([y]))[0]) + 0.4 * NM
        sample = _around(surface, x, y)
        direct = conductances(
            sample, junction.tip_atoms, np.array([x, y, height]), biases, junction.barrier, step
        )
        found = junction.conductance(x, y, np.full(biases.size, height), biases)
        assert np.allclose(found, np.abs(direct), rtol=1e-3, atol=0.0)


def test_the_conductance_at_many_heights_is_that_of_each(fese: FeSeSurface) -> None:
    """Heights may differ from bias to bias; far away the conductance goes on exponentially."""
    junction = fese.junction(Tip())
    x, y = _vacancy(fese)
    biases, heights = np.array([-5e-3, 1e-3, 4e-3]), np.array([0.3, 0.45, 0.3]) * NM
    together = junction.conductance(x, y, heights, biases)
    alone = [junction.conductance(x, y, heights[n : n + 1], biases[n : n + 1])[0] for n in range(3)]
    assert np.allclose(together, alone, rtol=1e-12, atol=0.0)
    far = junction.conductance(x, y, np.full(2, 100 * NM), biases[:2])
    assert np.all(far >= 0.0)
    assert np.all(far < 1e-200)


def test_the_profile_does_not_depend_on_its_neighbours(ws2: Ws2Surface) -> None:
    """A place alone, in a line, and in that line reversed give the same target, to 0.1 pm."""
    junction = ws2.junction(Tip())
    x, y = _line(ws2)
    line = junction.profile(x, y, 1.2, 100e-12).target(100e-12)
    back = junction.profile(x[::-1], y[::-1], 1.2, 100e-12).target(100e-12)[::-1]
    alone = [junction.profile(x[n : n + 1], y[n : n + 1], 1.2, 100e-12).target(100e-12)[0] for n in (0, 12)]
    assert np.allclose(line, back, rtol=0.0, atol=0.1 * PM)
    assert np.allclose(line[[0, 12]], alone, rtol=0.0, atol=0.1 * PM)


def test_the_decay_follows_the_work_function(ws2: Ws2Surface) -> None:
    """decay = 2 sqrt(2 m phi) / hbar less the sideways pairs: the ratio at 2 and 6 eV is sqrt(3) to 6 %."""
    x, y = _line(ws2, 3)
    decays = [
        ws2.junction(Tip(), phi).profile(x, y, 1.4, 10e-12).decay_per_m.mean() / np.sqrt(phi)
        for phi in (2.0, 6.0)
    ]
    assert np.isclose(decays[0], decays[1], rtol=0.06)
    assert np.isclose(ws2.junction(Tip()).kappa, Barrier(ws2.work_function_ev).kappa, rtol=1e-12)


def test_without_a_bias_no_current_flows(ws2: Ws2Surface) -> None:
    """At 0 V the logarithm is minus infinity and the target with it; temperature does not change that."""
    x, y = _line(ws2, 4)
    profile = ws2.junction(Tip()).profile(x, y, 0.0, 100e-12)
    assert np.all(np.isneginf(profile.log_current))
    assert np.all(np.isneginf(profile.target(100e-12)))


def test_contact_is_where_the_nuclei_of_the_first_pair_touch(ws2: Ws2Surface) -> None:
    """Over every place the smallest distance of nuclei at the contact height is NUCLEI_M, to 1e-9."""
    junction = ws2.junction(Tip(recipe=RECIPES[2]))
    x, y = _line(ws2)
    heights = junction.contact(x, y)
    sample = _around(ws2, float(x.mean()), float(y.mean())).positions_m
    for px, py, pz in zip(x, y, heights, strict=True):
        tip = junction.tip_atoms.positions_m + np.array([px, py, pz + 2.0 * LOBE_M])
        nearest = np.sqrt(((tip[:, None] - sample[None]) ** 2).sum(axis=-1)).min()
        assert np.isclose(nearest, NUCLEI_M, rtol=1e-9)
    assert np.array_equal(junction.profile(x, y, 1.2, 1e-10).contact_m, heights)


# -- atoms on demand -----------------------------------------------------------------------------------------


def test_rectangles_of_atoms_fit_together(ws2: Ws2Surface) -> None:
    """The atoms of two halves are those of the whole, none twice, none missing."""
    x, y = _vacancy(ws2)
    left = ws2.atoms((x - 2 * NM, y - 2 * NM), (x, y + 2 * NM)).positions_m
    right = ws2.atoms((x, y - 2 * NM), (x + 2 * NM, y + 2 * NM)).positions_m
    whole = ws2.atoms((x - 2 * NM, y - 2 * NM), (x + 2 * NM, y + 2 * NM)).positions_m
    both = np.concatenate([left, right])
    assert len(both) == len(whole)
    assert {tuple(p) for p in np.round(both / PM, 3)} == {tuple(p) for p in np.round(whole / PM, 3)}


def test_a_vacancy_is_an_atom_less(ws2: Ws2Surface) -> None:
    """No upper sulfur atom within 0.2 nm of the vacancy, six at one lattice constant; elsewhere one a
    cell."""
    x, y = _vacancy(ws2)
    atoms = ws2.atoms((x - 0.4 * NM, y - 0.4 * NM), (x + 0.4 * NM, y + 0.4 * NM)).positions_m
    upper = atoms[atoms[:, 2] > atoms[:, 2].max() - 50 * PM]
    apart = np.hypot(upper[:, 0] - x, upper[:, 1] - y)
    assert np.count_nonzero(np.isclose(apart, 0.3153 * NM, rtol=1e-6)) == 6
    assert apart.min() > 0.2 * NM
    many = len(ws2.atoms((100 * NM, 100 * NM), (120 * NM, 120 * NM)))
    cell = 0.3153**2 * np.sqrt(0.75)
    assert np.isclose(many, 2.0 * 400.0 / cell, rtol=0.01)


# -- the energy integral -------------------------------------------------------------------------------------


def _table(rng: np.random.Generator, low: float, high: float, n: int, kinds: int) -> DensityTable:
    return DensityTable(np.sort(rng.uniform(low, high, size=n)), rng.uniform(0.05, 2.0, size=(kinds, n)))


@pytest.mark.parametrize("temperature", [0.0, 4.5, 300.0])
def test_responses_give_the_energy_weights(temperature: float) -> None:
    """Against the integrals of physics.tunneling, kinks and all: 1e-9 at every bias of either sign."""
    rng = np.random.default_rng(8)
    sample, tip = _table(rng, -1.2, 1.1, 17, 3), _table(rng, -2.0, 2.0, 9, 2)
    window = EnergyWindow(sample.energies_v, tip, temperature)
    biases = np.array([-1.5, -0.3, 1e-3, 0.4, 1.9])
    direct = energy_weights(sample, tip, biases, temperature)
    found = np.einsum("sg,mgt->mst", sample.densities, window.responses(biases).integral)
    assert np.allclose(found, direct, rtol=1e-9, atol=0.0)
    assert np.allclose(window.weights(sample.densities, 0.4), direct[3], rtol=1e-9, atol=0.0)
    assert window.responses(biases) is window.responses(biases.copy())


def test_positive_bias_sees_empty_states() -> None:
    """A step of density above 0 V: W(V) is V times its height at +V (1e-9) and zero at -V."""
    energies = np.array([-2.0, 0.0, 1e-6, 2.0])
    sample = DensityTable(energies, np.array([[0.0, 0.0, 0.8, 0.8]]))
    window = EnergyWindow(energies, metallic(np.array([-3.0, 3.0])), 0.0)
    assert np.isclose(window.weights(sample.densities, 1.5)[0, 0], 1.5 * 0.8, rtol=1e-5)
    assert window.weights(sample.densities, -1.5)[0, 0] == 0.0


def test_a_level_is_broadened_by_the_derivative_of_the_fermi_function() -> None:
    """dW/dV of a sharp level at E0 is sech^2((V - E0) / 2 k T) / 4 k T, full width 3.53 k T: to 0.5 %."""
    temperature, centre = 4.2, 0.05
    scale = thermal_energy_v(temperature)
    half = 0.05 * scale
    energies = np.array([-0.2, centre - half, centre, centre + half, 0.2])
    sample = DensityTable(energies, np.array([[0.0, 0.0, 1.0 / half, 0.0, 0.0]]))
    window = EnergyWindow(energies, metallic(np.array([-1.0, 1.0])), temperature)
    biases = centre + scale * np.linspace(-5.0, 5.0, 101)
    found = np.einsum("g,mg->m", sample.densities[0], window.responses(biases).slope[..., 0])
    expected = 1.0 / (4.0 * scale * np.cosh((biases - centre) / (2.0 * scale)) ** 2)
    assert np.allclose(found, expected, rtol=5e-3, atol=0.0)
    above = biases[found > 0.5 * found.max()]
    assert np.isclose(above[-1] - above[0], 3.526 * scale, rtol=0.05)


def test_at_zero_temperature_the_slope_is_the_density_at_the_bias() -> None:
    """With a flat tip dW/dV = rho(V), to 1e-12, at either sign of the bias."""
    rng = np.random.default_rng(3)
    sample = _table(rng, -1.0, 1.0, 12, 1)
    window = EnergyWindow(sample.energies_v, metallic(np.array([-3.0, 3.0])), 0.0)
    biases = np.array([-0.8, -0.1, 0.2, 0.7])
    found = np.einsum("g,mg->m", sample.densities[0], window.responses(biases).slope[..., 0])
    assert np.allclose(found, sample.at(biases)[0], rtol=1e-12, atol=0.0)


def test_currents_carry_the_prefactor_and_the_contact_distance(ws2: Ws2Surface) -> None:
    """One direct sum by hand at one place: G0 sum exp(-2 kappa (d - d0)) W, to 1e-9 of ``currents``."""
    junction = ws2.junction(Tip())
    x, y = _vacancy(ws2)
    sample = _around(ws2, x, y)
    place = np.array([x + 0.7 * NM, y, float(ws2.field.surface(np.array([x]), np.array([y]))[0]) + 0.35 * NM])
    tip = junction.tip_atoms
    weights = energy_weights(sample.states, tip.states, 1.1, ws2.temperature_k)
    distance = np.sqrt(((sample.positions_m[:, None] - tip.positions_m - place) ** 2).sum(axis=-1))
    share = np.exp(-2.0 * junction.kappa * (distance - GAP_AT_CONTACT_M))
    by_hand = CONTACT_CONDUCTANCE_S * (share * weights[sample.kinds[:, None], tip.kinds]).sum()
    assert np.isclose(currents(sample, tip, place, 1.1, junction.barrier), by_hand, rtol=1e-9)
    sweep = junction.bias_profile(float(place[0]), float(place[1]), np.array([1.1]), float(place[2]))
    assert np.isclose(np.exp(sweep.log_current[0]), by_hand, rtol=1e-6)
    assert place[2] > LOWEST_M
