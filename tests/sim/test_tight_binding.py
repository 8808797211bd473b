"""Local densities of states from tight binding: closed forms, removed atoms, WS2, WSe2 and FeSe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from protocols.errors import DataFormatError, UsageError
from sim_hardware.physics import dichalcogenide as mx2
from sim_hardware.physics import iron_selenide as iron
from sim_hardware.physics.ldos_tables import (
    ALONG_X,
    ALONG_Y,
    AS_BULK,
    DOPANT,
    LOWER_VACANCY,
    NOT_THERE,
    OXYGEN,
    VACANCY,
    LdosTable,
    calculate,
    dichalcogenide_plan,
    fese_plan,
    ldos_table,
)
from sim_hardware.physics.tight_binding import (
    REMOVED,
    BlochModel,
    LatticeGreen,
    densities,
    line_shape,
    supercell,
    supercell_density,
    torus,
)

Floats = npt.NDArray[np.float64]

HOP_EV = 0.7
CHAIN = BlochModel({(1, 0): np.array([[HOP_EV + 0j]]), (-1, 0): np.array([[HOP_EV + 0j]])})
"""Chains along the first lattice vector, one orbital in a cell."""


def _without_scissor(compound: mx2.Dichalcogenide) -> BlochModel:
    return replace(mx2.model(compound), scissor_ev=0.0)


# -- closed forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [-1.0, 0.0, 0.3, 1.2])
def test_a_chain_has_the_density_of_the_closed_form(energy: float) -> None:
    """G(z) = 1 / sqrt(z^2 - 4 t^2) on an infinite chain, to 1e-9 (96 sites, damped over 5)."""
    z = complex(energy, 0.5)
    root = np.sqrt(z * z - 4.0 * HOP_EV**2 + 0j)
    root = root if (1.0 / root).imag < 0.0 else -root
    window = LatticeGreen(CHAIN, 96).window(z, 2)
    assert np.isclose(window.density([(0, 0, 0)], {})[0], -(1.0 / root).imag / np.pi, rtol=1e-9)


@pytest.mark.parametrize("energy", [-0.8, 0.1, 0.9])
def test_removing_an_atom_of_a_chain_leaves_its_neighbour_at_an_end(energy: float) -> None:
    """G(z) = (z - sqrt(z^2 - 4 t^2)) / (2 t^2) at the end of a half-infinite chain, to 1e-6."""
    z = complex(energy, 0.5)
    root = np.sqrt(z * z - 4.0 * HOP_EV**2 + 0j)
    ends = [(z - sign * root) / (2.0 * HOP_EV**2) for sign in (1.0, -1.0)]
    end = min(ends, key=abs)
    window = LatticeGreen(CHAIN, 96).window(z, 3)
    found = window.density([(1, 0, 0), (0, 0, 0)], {(0, 0, 0): REMOVED})
    assert np.isclose(found[0], -end.imag / np.pi, rtol=1e-6)
    assert found[1] == 0.0


def test_a_shifted_level_binds_a_state_where_the_closed_form_says() -> None:
    """On a chain a site lowered by U binds a state at -sqrt(U^2 + 4 t^2): the density peaks there, to 1
    meV."""
    shift = -1.1
    energies = np.linspace(-2.2, -1.5, 701)
    found = densities(LatticeGreen(CHAIN, 128), energies, 0.01, [(0, 0, 0)], [{(0, 0, 0): shift}], 2)[0, 0]
    assert abs(energies[found.argmax()] + np.sqrt(shift**2 + 4.0 * HOP_EV**2)) < 1.5e-3


def test_the_line_shape_has_unit_area_and_steep_tails() -> None:
    """2 L(eta) - L(2 eta): area 1 to 1e-6; at 50 eta a sixteenth of its value at 25 eta, to 1 %."""
    energy = np.linspace(-5.0, 5.0, 200_001)
    shape = line_shape(energy, 0.01)
    assert np.isclose(np.trapezoid(shape, energy), 1.0, rtol=1e-6)
    assert np.all(shape > 0.0)
    near, far = line_shape(np.array([0.25, 0.5]), 0.01)
    assert np.isclose(near / far, 16.0, rtol=1e-2)


@pytest.mark.parametrize("shift", [REMOVED, 0.8])
def test_dysons_equation_equals_the_torus_from_which_the_atom_is_taken(shift: float) -> None:
    """On a torus of 6 x 6 cells of WS2, Dyson and the sparse matrix without (or with a shifted) sulfur agree.

    Tolerance 1e-6 (the wall that stands for infinity).
    """
    model = _without_scissor(mx2.WS2)
    shifts = dict.fromkeys([(0, 0, o) for o in mx2.TOP], shift)
    wanted = [(0, 0, 0), (0, 0, 3), (-1, -1, 1), (1, 0, 5), (1, 1, 7), (2, 1, 9)]
    z = 0.4 + 0.1j
    dyson = LatticeGreen(model, 6).window(z, 2).density(wanted, shifts)
    matrix, rows = supercell(model, 6, shifts)
    places = {row: n for n, row in enumerate(rows)}
    solved = supercell_density(matrix, z, [places[n1 % 6, n2 % 6, o] for n1, n2, o in wanted])
    assert np.allclose(dyson, solved, rtol=1e-6, atol=0.0)
    assert len(rows) == 6 * 6 * 11 - (3 if np.isinf(shift) else 0)


def test_a_supercell_has_the_density_of_its_eigenstates() -> None:
    """rho_i(E) = sum_n |<i|n>|^2 L(E - E_n), to 1e-9: the formula of the slides, by numpy's eigh."""
    matrix, _ = supercell(_without_scissor(mx2.WSE2), 3, {(0, 0, 5): REMOVED})
    energy, states = np.linalg.eigh(matrix.toarray())
    at, eta = 0.2, 0.05
    lorentz = eta / np.pi / ((at - energy) ** 2 + eta**2)
    direct = (np.abs(states[[0, 4, 40]]) ** 2) @ lorentz
    assert np.allclose(supercell_density(matrix, complex(at, eta), [0, 4, 40]), direct, rtol=1e-9, atol=0.0)


def test_a_supercell_refuses_a_scissor_and_a_window_what_is_too_far() -> None:
    """No sparse matrix holds a scissor; a torus of 8 cells has no distance of 4; a window ends where it
    ends."""
    with pytest.raises(UsageError, match="scissor"):
        supercell(mx2.model(mx2.WS2), 3, {})
    green = LatticeGreen(CHAIN, 8)
    with pytest.raises(UsageError, match="torus"):
        green.window(1j, 4)
    with pytest.raises(UsageError, match="apart"):
        green.window(1j, 2).between([(3, 0, 0)], [(0, 0, 0)])


# -- WS2 and WSe2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compound", "gap"), [(mx2.WS2, 2.4), (mx2.WSE2, 2.1)])
def test_band_edges_are_where_tunneling_sees_them(compound: mx2.Dichalcogenide, gap: float) -> None:
    """The scissor puts valence and conduction edge at the stated voltages, to 1 meV: a gap of 2.4 or 2.1
    eV."""
    valence, conduction = mx2.edges(mx2.model(compound))
    assert np.isclose(valence, compound.valence_ev, atol=1e-3)
    assert np.isclose(conduction, compound.conduction_ev, atol=1e-3)
    assert np.isclose(conduction - valence, gap, atol=1e-3)


@pytest.mark.parametrize("compound", [mx2.WS2, mx2.WSE2])
def test_bands_have_the_symmetries_of_the_crystal(compound: mx2.Dichalcogenide) -> None:
    """H is Hermitian; E(k) is the same after a third of a turn; without spin-orbit coupling E(k) = E(-k)."""
    rng = np.random.default_rng(5)
    k = rng.uniform(-0.5, 0.5, size=(6, 2))
    # The reciprocal vectors turned by 120 degrees: b1 -> b2 - b1 ... in fractions (k1, k2) -> (-k1 - k2, k1).
    turned = np.stack([k[:, 1], -k[:, 0] - k[:, 1]], axis=1)
    model = _without_scissor(compound)
    hamiltonian = model.hamiltonian(k)
    assert np.allclose(hamiltonian, np.conj(np.swapaxes(hamiltonian, 1, 2)), atol=1e-12)
    energy, _ = model.bands(k)
    assert np.allclose(energy, model.bands(turned)[0], atol=1e-10)
    assert not np.allclose(energy, model.bands(-k)[0], atol=1e-3)
    plain = _without_scissor(replace(compound, spin_orbit=(0.0, 0.0)))
    assert np.allclose(plain.bands(k)[0], plain.bands(-k)[0], atol=1e-10)


def test_spin_orbit_coupling_splits_the_valence_band_at_k() -> None:
    """WS2: 0.43 eV by density functional theory (G.-B. Liu et al., PRB 88, 085433); the model within 10 %."""
    model = _without_scissor(mx2.WS2)
    k = np.array([1.0, 1.0]) / 3.0
    up, down = (float(model.bands(q)[0][mx2.VALENCE_BANDS - 1]) for q in (k, -k))
    assert np.isclose(abs(up - down), 0.43, rtol=0.1)


# -- FeSe ----------------------------------------------------------------------------------------------------


def test_the_closed_form_of_fese_is_the_inverse_of_its_hamiltonian() -> None:
    """Every element of G0 on a torus of 16 x 16 iron atoms, against the diagonalised 4 x 4 matrices:
    1e-10."""
    z = 0.003 + 0.002j
    closed = iron.PairedGreen(iron.FESE, 16, 3).window(z)
    general = LatticeGreen(iron.paired_model(iron.FESE), 16).window(z, 3)
    assert np.allclose(closed.green, general.green, rtol=0.0, atol=1e-10 * np.abs(general.green).max())


def test_the_gap_of_fese_has_one_sign_on_holes_and_the_other_on_electrons() -> None:
    """Bands of +-E only, none within 0.9 meV of zero (the gap is anisotropic), and no gap without the
    pairing."""
    k = torus(120)
    energy, _ = iron.paired_model(iron.FESE).bands(k)
    assert np.allclose(energy, -energy[..., ::-1], atol=1e-12)
    assert np.abs(energy).min() > 0.9e-3
    bare, _ = iron.paired_model(replace(iron.FESE, pairing_ev=0.0)).bands(k)
    assert np.abs(bare).min() < 0.5e-3
    at_gamma, at_x = (
        iron.paired_model(iron.FESE).hamiltonian(np.array([[0.0, 0.0], [0.5, 0.0]]))[:, 0, 2].real
    )
    assert at_gamma > 0.0 > at_x


def test_the_density_beside_an_iron_vacancy_keeps_its_integral() -> None:
    """Sum rule: over the whole band one state per orbital, with and without the vacancy, to 0.5 %."""
    energies = np.linspace(-0.45, 0.45, 901)
    beside = [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]
    shifts = iron.vacancy(iron.BESIDE_VACANCY_EV)
    found = densities(iron.PairedGreen(iron.FESE, 96, 3), energies, 2e-3, beside, [{}, shifts], 3)
    assert np.allclose(np.trapezoid(found, energies, axis=2), 1.0, rtol=5e-3)


# -- tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ws2", "fese"])
def test_stored_tables_are_what_the_calculation_gives(name: str) -> None:
    """Two energies of every kind of the table, calculated anew, to the single precision of the file."""
    stored = ldos_table(name)
    plan = dichalcogenide_plan(name) if name != "fese" else fese_plan()
    assert np.array_equal(stored.energies_v, plan.energies_v)
    wanted = [
        int(np.abs(plan.energies_v - e).argmin()) for e in ((0.54, 1.2) if name == "ws2" else (0.0, 2e-3))
    ]
    again = calculate(plan, plan.energies_v[wanted], plan.eta_v[wanted])
    assert np.allclose(stored.densities[:, wanted], again.densities, rtol=1e-5, atol=1e-9)
    assert np.array_equal(stored.bulk, again.bulk)
    for key, lookup in again.lookups.items():
        assert np.array_equal(stored.lookups[key], lookup)


def test_a_table_that_is_not_there_is_named_with_how_to_make_it() -> None:
    """The error says which file is missing and the command that makes it."""
    with pytest.raises(DataFormatError, match="ldos_tables nosuch"):
        ldos_table("nosuch")


def _gap_edges(table: LdosTable, kind: int, share: float) -> tuple[float, float]:
    """Where the density falls below a share of that 0.5 V outside, on either side of zero."""
    energies, density = table.energies_v, table.densities[kind]
    low = energies < 0.0
    left = energies[low][density[low] > share * density[low].max()].max()
    right = energies[~low][density[~low] > share * density[~low].max()].min()
    return float(left), float(right)


@pytest.mark.parametrize(("name", "compound"), [("ws2", mx2.WS2), ("wse2", mx2.WSE2)])
def test_the_tables_of_the_perfect_sheet_have_a_clean_gap(name: str, compound: mx2.Dichalcogenide) -> None:
    """The density of either atom crosses 0.5 % of its band's within 0.1 V of the edges; mid-gap below
    1e-4."""
    table = ldos_table(name)
    for kind in table.bulk:
        left, right = _gap_edges(table, int(kind), 5e-3)
        assert abs(left - compound.valence_ev) < 0.1
        assert abs(right - compound.conduction_ev) < 0.1
        middle = np.abs(table.energies_v) < 0.3
        assert table.densities[kind, middle].max() < 1e-4 * table.densities[kind].max()


def _in_gap_peaks(table: LdosTable, kind: int, compound: mx2.Dichalcogenide) -> list[float]:
    inside = (table.energies_v > compound.valence_ev + 0.15) & (
        table.energies_v < compound.conduction_ev - 0.1
    )
    energies, density = table.energies_v[inside], table.densities[kind][inside]
    rises = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    return [float(e) for e in energies[1:-1][rises & (density[1:-1] > 0.02)]]


def _kind(table: LdosTable, defect: str, atom: int, n1: int, n2: int) -> int:
    lookup = table.lookups[defect][atom]
    middle = lookup.shape[0] // 2
    return int(lookup[middle + n1, middle + n2])


def test_a_sulfur_vacancy_binds_two_empty_states_in_the_gap_and_only_near_it() -> None:
    """B. Schuler et al., PRL 123, 076801: 0.52 and 0.77 V.  Here within 50 mV; gone to 1 % at 1.4 nm."""
    table = ldos_table("ws2")
    metal = _kind(table, VACANCY, 1, 0, 0)
    peaks = _in_gap_peaks(table, metal, mx2.WS2)
    assert len(peaks) == 2
    assert abs(peaks[0] - 0.52) < 0.05
    assert abs(peaks[1] - 0.77) < 0.05
    bound = int(np.abs(table.energies_v - peaks[0]).argmin())
    near = table.densities[metal, bound]
    assert table.densities[_kind(table, VACANCY, 0, 1, 0), bound] > 0.02 * near
    assert table.densities[_kind(table, VACANCY, 1, 4, 0), bound] < 0.01 * near
    assert table.densities[table.bulk[1], bound] < 1e-3 * near
    assert _kind(table, VACANCY, 0, 0, 0) == NOT_THERE
    assert _kind(table, VACANCY, 0, 6, 0) == AS_BULK
    # Without spin-orbit coupling the two are one: a doublet of the vacancy's threefold symmetry.
    plain = replace(mx2.WS2, spin_orbit=(0.0, 0.0))
    energies = np.arange(0.2, 0.95, 0.02)
    shifts = dict.fromkeys([(0, 0, o) for o in mx2.TOP], REMOVED)
    beside = [(0, 0, o) for o in mx2.METAL]
    found = densities(LatticeGreen(mx2.model(plain), 36), energies, 0.02, beside, [shifts], 2)[0].sum(axis=0)
    inner = found[1:-1]
    assert np.count_nonzero((inner > found[:-2]) & (inner > found[2:]) & (inner > 0.5)) == 1


@pytest.mark.parametrize("name", ["ws2", "wse2"])
def test_every_defect_has_the_states_that_its_kind_has(name: str) -> None:
    """Vacancies of either layer bind two states; oxygen none; a curve near a defect is none of the bulk's."""
    table, compound = ldos_table(name), {"ws2": mx2.WS2, "wse2": mx2.WSE2}[name]
    for defect, count in ((VACANCY, 2), (LOWER_VACANCY, 2), (OXYGEN, 0)):
        assert len(_in_gap_peaks(table, _kind(table, defect, 1, 0, 0), compound)) == count
    bound = _in_gap_peaks(table, _kind(table, DOPANT, 1, 0, 0), compound)
    assert bound if name == "ws2" else not bound
    changed = table.densities[_kind(table, DOPANT, 1, 0, 0)] - table.densities[table.bulk[1]]
    assert np.abs(changed).max() > 0.5 * table.densities[table.bulk[1]].max()


def test_lookups_of_a_vacancy_have_its_threefold_symmetry() -> None:
    """The three metal atoms about a missing chalcogen are of one kind, and so are the six chalcogens."""
    table = ldos_table("wse2")
    assert len({_kind(table, VACANCY, 1, *cell) for cell in ((0, 0), (-1, -1), (0, -1))}) == 1
    around = [(1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1)]
    assert len({_kind(table, VACANCY, 0, *cell) for cell in around}) == 1


def test_the_two_orientations_of_fese_vacancies_mirror_each_other() -> None:
    """Both selenium atoms beside either vacancy have equal densities; they lie along x or along y."""
    table = ldos_table("fese")
    along_x = [_kind(table, ALONG_X, 0, *cell) for cell in ((0, 0), (1, 0))]
    along_y = [_kind(table, ALONG_Y, 0, *cell) for cell in ((0, 0), (0, 1))]
    assert len(set(along_x)) == len(set(along_y)) == 1
    assert np.allclose(table.densities[along_x[0]], table.densities[along_y[0]], rtol=1e-5)
    assert _kind(table, ALONG_X, 1, 0, 0) == _kind(table, ALONG_Y, 2, 0, 0) == NOT_THERE


def test_weight_moves_across_the_window_beside_a_fese_vacancy_and_is_conserved() -> None:
    """Maksymovych et al., fig. 8: gain below about +7 mV, loss above; the sum over +-30 mV stays within 5
    %."""
    table = ldos_table("fese")
    energies = table.energies_v
    window = np.abs(energies) <= 0.03
    beside, bulk = table.densities[_kind(table, ALONG_X, 0, 0, 0)], table.densities[table.bulk[0]]
    more = np.trapezoid((beside - bulk)[window], energies[window])
    assert abs(more) < 0.05 * np.trapezoid(bulk[window], energies[window])
    below = (energies > -0.03) & (energies < 0.005)
    above = (energies > 0.012) & (energies <= 0.03)
    assert np.trapezoid((beside - bulk)[below], energies[below]) > 0.0
    assert np.trapezoid((beside - bulk)[above], energies[above]) < 0.0
    inside = np.abs(energies) < 1.2e-3
    assert beside[inside].sum() > 3.0 * bulk[inside].sum()


def test_fese_changes_smoothly_away_from_a_vacancy() -> None:
    """Along a row the deviation from the bulk falls over nanometres: below 12 % at the table's end, not at 1
    nm."""
    table = ldos_table("fese")
    window = np.abs(table.energies_v) <= 0.015
    bulk = table.densities[table.bulk[0], window]
    apart = []
    for n in range(1, 9):
        curve = table.densities[_kind(table, ALONG_X, 0, n, 0), window]
        apart.append(np.sqrt(np.mean((curve - bulk) ** 2)) / np.mean(bulk))
    assert apart[0] > 0.3
    assert apart[2] > 0.02
    assert apart[-1] < 0.12
    assert apart[0] > apart[1] > apart[-1]
