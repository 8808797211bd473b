"""WS2, WSe2 and FeSe as an operator sees them: ground truth, topographs, spectra on and off defects."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from simulated import Bench

from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from sim_hardware import motions
from sim_hardware.drift import NO_DRIFT
from sim_hardware.junction import Junction
from sim_hardware.physics.iron_selenide import LATTICE_M
from sim_hardware.physics.ldos_tables import DOPANT, LOWER_VACANCY, OXYGEN, VACANCY
from sim_hardware.physics.tips import TipRecipe
from sim_hardware.physics.tunneling import thermal_energy_v
from sim_hardware.scanning import frame
from sim_hardware.surfaces.atomistic import AtomisticSurface
from sim_hardware.surfaces.base import Surface, SurfaceObject
from sim_hardware.surfaces.catalogue import make_surface
from sim_hardware.surfaces.fese import STEP_HEIGHT_M
from sim_hardware.sweeping import sweep
from sim_hardware.tip import Tip, tip_after

Floats = npt.NDArray[np.float64]

NM, PM = 1e-9, 1e-12
SAMPLES = ("ws2", "wse2", "fese")


@lru_cache
def _sample(name: str, seed: int = 5) -> AtomisticSurface:
    surface = make_surface(name, seed)
    assert isinstance(surface, AtomisticSurface)
    return surface


def _objects(surface: Surface, kind: str) -> list[SurfaceObject]:
    return [o for o in surface.objects if o.kind == kind]


def _free_place(surface: Surface, from_m: float = 4 * NM) -> tuple[float, float]:
    """Far from every defect and step."""
    there = [(o.x_m, o.y_m) for o in surface.objects if o.kind != "step"]
    rng = np.random.default_rng(2)
    while True:
        x, y = rng.uniform(-15 * NM, 15 * NM, size=2)
        if np.hypot(*(np.array(there) - [x, y]).T).min() > from_m:
            return float(x), float(y)


def _topograph(junction: Junction, x: float, y: float, size: float, n: int, bias: float) -> Floats:
    """Heights (n, n) at 100 pA."""
    along = np.linspace(-size / 2, size / 2, n)
    return np.stack(
        [junction.profile(x + along, np.full(n, y + dy), bias, 1e-10).target(1e-10) for dy in along]
    )


def _levelled(image: Floats) -> Floats:
    """Less a plane through its border."""
    n = len(image)
    row, column = np.mgrid[:n, :n] - (n - 1) / 2
    border = np.ones((n, n), dtype=np.bool_)
    border[n // 5 : -(n // 5), n // 5 : -(n // 5)] = False
    matrix = np.stack([row, column, np.ones((n, n))], axis=-1)
    plane, *_ = np.linalg.lstsq(matrix[border], image[border], rcond=None)
    return np.asarray(image - matrix @ plane)


# -- ground truth --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_a_seed_is_a_sample(name: str) -> None:
    """Equal seeds make equal surfaces, other seeds others; objects lie within the extent and apart."""
    first, again, other = _sample(name), make_surface(name, 5), _sample(name, 6)
    assert first.objects == again.objects
    assert first.objects != other.objects
    assert first.name == name
    assert first.extent_m >= (60 * NM if name == "fese" else 100 * NM)
    defects = [o for o in first.objects if o.kind != "step"]
    places = np.array([(o.x_m, o.y_m) for o in defects])
    assert np.abs(places).max() < 0.5 * first.extent_m + 1 * NM
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + np.eye(len(places))
    assert apart.min() > 3.3 * NM
    density = len(defects) / (first.extent_m / NM) ** 2
    assert 0.002 < density < 0.02
    assert any(np.hypot(o.x_m, o.y_m) < 8 * NM for o in defects)


def test_the_sheets_have_every_kind_of_defect() -> None:
    """Vacancies of either layer, oxygen and dopants in tens; FeSe vacancies of both orientations."""
    for name in ("ws2", "wse2"):
        for kind in (VACANCY, LOWER_VACANCY, OXYGEN, DOPANT):
            assert len(_objects(_sample(name), kind)) > 20
    angles = np.array([o.detail["angle_rad"] for o in _objects(_sample("fese"), "vacancy")])
    turned = np.mod(np.round((angles - angles[0]) / (np.pi / 2.0)), 2.0)
    assert 0.2 < turned.mean() < 0.8
    assert np.allclose(np.mod(angles - angles[0], np.pi / 2.0) % (np.pi / 2.0 - 1e-9), 0.0, atol=1e-8)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("changes", [0, 3])
def test_every_tip_can_scan_every_sample(name: str, changes: int) -> None:
    """After any change of the tip the junction gives finite heights above contact at an ordinary setpoint."""
    surface = _sample(name)
    bias = 0.02 if name == "fese" else 1.3
    x, y = _free_place(surface)
    along = x + np.linspace(-1 * NM, 1 * NM, 50)
    junction = surface.junction(tip_after(4, changes))
    profile = junction.profile(along, np.full(50, y), bias, 5e-11)
    assert np.all(profile.target(5e-11) > profile.contact_m + 0.05 * NM)
    assert np.all(profile.target(5e-11) < profile.contact_m + 0.9 * NM)
    assert np.allclose(profile.contact_m, junction.contact(along, np.full(50, y)), rtol=0.0, atol=1e-15)


# -- spectra -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "edges"), [("ws2", (-1.45, 0.95)), ("wse2", (-1.10, 1.00))])
def test_the_gap_of_a_sheet(name: str, edges: tuple[float, float]) -> None:
    """The true density crosses 3 % of its value 0.5 V outside the gap within 0.12 V of the stated edges.

    In the gap only the substrate is left, below 1 %.
    """
    surface = _sample(name)
    energy = np.linspace(-2.2, 1.8, 801)
    density = surface.true_density(*_free_place(surface), energy)
    low, high = (np.interp(e, energy, density) for e in (edges[0] - 0.5, edges[1] + 0.3))
    left = energy[(energy < 0.0) & (density > 0.03 * low)].max()
    right = energy[(energy > 0.0) & (density > 0.03 * high)].min()
    assert abs(left - edges[0]) < 0.12
    assert abs(right - edges[1]) < 0.12
    assert density[np.abs(energy) < 0.5].max() < 0.01 * high


@pytest.mark.parametrize("name", ["ws2", "wse2"])
def test_in_gap_states_are_at_the_vacancy_only(name: str) -> None:
    """In the gap dI/dV at the vacancy is 50 times that at 1.6 nm and at a place without defects; oxygen has
    none."""
    surface = _sample(name)
    vacancy = _objects(surface, VACANCY)[0]
    energy = np.linspace(0.3, 0.8, 101)
    on = surface.true_density(vacancy.x_m, vacancy.y_m, energy).max()
    beside = surface.true_density(vacancy.x_m + 1.6 * NM, vacancy.y_m, energy).max()
    off = surface.true_density(*_free_place(surface), energy).max()
    oxygen = _objects(surface, OXYGEN)[0]
    assert on > 50.0 * max(beside, off)
    assert surface.true_density(oxygen.x_m, oxygen.y_m, energy).max() < 0.05 * on
    lower = _objects(surface, LOWER_VACANCY)[0]
    assert surface.true_density(lower.x_m, lower.y_m, energy).max() > 20.0 * off


def test_the_gap_of_fese_is_four_millivolts_wide() -> None:
    """Coherence peaks of dI/dV (1.2 K) are 4.0 mV apart within 0.4; at 0 V less than a tenth of the peaks."""
    surface = _sample("fese")
    x, y = _free_place(surface, 4.5 * NM)
    bias = np.linspace(-5e-3, 5e-3, 401)
    found = surface.junction(Tip()).conductance(x, y, np.full(401, 0.35 * NM), bias)
    left, right = bias[:200][found[:200].argmax()], bias[201:][found[201:].argmax()]
    assert abs((right - left) - 4e-3) < 0.4e-3
    assert found[200] < 0.1 * found.max()
    outside = surface.junction(Tip()).conductance(x, y, np.full(2, 0.35 * NM), np.array([-7e-3, 7e-3]))
    assert found.max() > 1.2 * outside.max()


def test_the_gap_fills_with_temperature() -> None:
    """At 0.3 K the bottom of the gap is emptier, at 6 K fuller: thermal broadening of 3.5 k T."""
    surface = make_surface("fese", 5)
    assert isinstance(surface, AtomisticSurface)
    x, y = _free_place(surface, 4.5 * NM)
    bottom = []
    for temperature in (0.3, 1.2, 6.0):
        surface.temperature_k = temperature
        found = surface.junction(Tip()).conductance(x, y, np.full(2, 0.35 * NM), np.array([0.0, 6e-3]))
        bottom.append(found[0] / found[1])
    assert bottom[0] <= bottom[1] < 0.1 < bottom[2] < 0.8


def test_the_conductance_is_the_true_density_broadened() -> None:
    """With a flat tip dI/dV against V is the true density convolved with the Fermi function's derivative, up
    to one factor: 2 % where the sample is homogeneous, and 6 % of the largest value above a vacancy."""
    surface = _sample("fese")
    bias = np.linspace(-12e-3, 12e-3, 241)
    scale = thermal_energy_v(surface.temperature_k)
    around = np.linspace(-8.0, 8.0, 161)
    kernel = 0.25 / np.cosh(0.5 * around) ** 2
    places = ((*_free_place(surface, 4.5 * NM), 0.02), (*_place(_objects(surface, "vacancy")[0]), 0.06))
    for x, y, tolerance in places:
        height = surface.junction(Tip()).profile(np.array([x]), np.array([y]), 0.02, 1e-10).target(1e-10)
        found = surface.junction(Tip()).conductance(x, y, np.full(bias.size, height[0]), bias)
        dense = surface.true_density(x, y, bias[:, None] + scale * around)
        broadened = dense @ kernel / kernel.sum()
        factor = found.sum() / broadened.sum()
        assert np.abs(found - factor * broadened).max() < tolerance * found.max()


def _place(thing: SurfaceObject) -> tuple[float, float]:
    return thing.x_m, thing.y_m


def test_weight_moves_beside_a_vacancy_and_comes_back_over_nanometres() -> None:
    """Between the lobes: more below +7 mV, less above, the sum over +-30 mV within 5 %; 3 nm away within 3
    %."""
    surface = _sample("fese")
    vacancy = _objects(surface, "vacancy")[0]
    energy = np.linspace(-0.03, 0.03, 601)
    bulk = surface.true_density(*_free_place(surface, 4.5 * NM), energy)
    beside = surface.true_density(vacancy.x_m, vacancy.y_m, energy)
    assert abs(beside.sum() / bulk.sum() - 1.0) < 0.05
    low, high = energy < 5e-3, energy > 12e-3
    assert beside[low].sum() > 1.1 * bulk[low].sum()
    assert beside[high].sum() < 0.9 * bulk[high].sum()
    angle = vacancy.detail["angle_rad"]
    away = []
    for distance in (0.2, 0.6, 1.2, 3.0):
        x, y = vacancy.x_m + distance * NM * np.cos(angle), vacancy.y_m + distance * NM * np.sin(angle)
        away.append(float(np.abs(surface.true_density(x, y, energy) - bulk).mean() / bulk.mean()))
    assert away[0] > away[1] > away[2] > away[3]
    assert away[0] > 0.2
    assert away[3] < 0.03


# -- topographs ----------------------------------------------------------------------------------------------


def test_a_sulfur_vacancy_is_a_hole_at_negative_and_a_ring_at_positive_bias() -> None:
    """-1.8 V: 20 pm deep or more, in the middle; +1.2 V: a bright ring around a darker middle (bound
    states)."""
    surface = _sample("ws2")
    vacancy = _objects(surface, VACANCY)[0]
    junction = surface.junction(Tip())
    n = 41
    apart = np.hypot(*np.meshgrid(*[np.linspace(-1.5 * NM, 1.5 * NM, n)] * 2))
    hole = _levelled(_topograph(junction, vacancy.x_m, vacancy.y_m, 3 * NM, n, -1.8))
    assert hole[n // 2, n // 2] < np.median(hole[apart > 1 * NM]) - 20 * PM
    assert apart.ravel()[hole.argmin()] < 0.12 * NM
    ring = _levelled(_topograph(junction, vacancy.x_m, vacancy.y_m, 3 * NM, n, 1.2))
    assert 0.15 * NM < apart.ravel()[ring.argmax()] < 0.5 * NM
    assert ring.max() > np.median(ring[apart > 1 * NM]) + 20 * PM
    assert ring[n // 2, n // 2] < ring.max() - 5 * PM


def test_the_lattice_of_a_sheet_is_seen() -> None:
    """At +1.2 V and 100 pA the perfect lattice is 3 to 30 pm high, with the sulfur atoms on top."""
    surface = _sample("ws2")
    x, y = _free_place(surface)
    image = _levelled(_topograph(surface.junction(Tip()), x, y, 1.5 * NM, 31, 1.2))
    assert 3 * PM < np.ptp(image) < 30 * PM
    along = np.linspace(-0.75 * NM, 0.75 * NM, 31)
    row, column = np.unravel_index(image[5:-5, 5:-5].argmax(), (21, 21))
    top = np.array([x + along[5 + column], y + along[5 + row]])
    atoms = surface.atoms((x - 1 * NM, y - 1 * NM), (x + 1 * NM, y + 1 * NM)).positions_m
    upper = atoms[atoms[:, 2] > np.median(atoms[:, 2])]
    assert np.hypot(*(upper[:, :2] - top).T).min() < 0.08 * NM


def test_an_iron_vacancy_is_a_dumbbell_along_its_direction() -> None:
    """The two highest places are half a lattice constant on either side of it, along the stated angle (80
    pm); at least 10 pm above every other selenium atom."""
    surface = _sample("fese")
    junction = surface.junction(Tip(recipe=TipRecipe(angle_rad=0.3)))
    seen = set()
    for vacancy in _objects(surface, "vacancy")[:6]:
        angle = vacancy.detail["angle_rad"]
        n = 57
        axis = np.linspace(-1 * NM, 1 * NM, n)
        image = _levelled(_topograph(junction, vacancy.x_m, vacancy.y_m, 2 * NM, n, -0.015))
        dx, dy = np.meshgrid(axis, axis)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        tops = []
        for side in (along > 0.0, along < 0.0):
            best = int(np.where(side, image, -np.inf).argmax())
            tops.append(image.ravel()[best])
            half = np.copysign(0.5 * LATTICE_M, along.ravel()[best])
            assert (
                np.hypot(dx.ravel()[best] - half * np.cos(angle), dy.ravel()[best] - half * np.sin(angle))
                < 80 * PM
            )
        elsewhere = np.hypot(dx, dy) > 0.55 * NM
        assert min(tops) > image[elsewhere].max() + 10 * PM
        seen.add(round(angle, 3))
    assert len(seen) == 2


def test_steps_have_their_height() -> None:
    """Across the step of FeSe the tip's height falls by the c axis, 0.55 nm, to 5 %."""
    surface = _sample("fese")
    step = _objects(surface, "step")[0]
    angle, distance = step.detail["angle_rad"], step.detail["distance_m"]
    away = np.array([-8 * NM, 8 * NM])
    mean = []
    for off in away:
        x, y = (distance + off) * np.cos(angle), (distance + off) * np.sin(angle)
        mean.append(_topograph(surface.junction(Tip()), x, y, 1.5 * NM, 16, 0.05).mean())
    assert np.isclose(mean[0] - mean[1], STEP_HEIGHT_M, rtol=0.05)


def test_a_double_tip_shows_the_vacancy_twice() -> None:
    """A second apex 1 nm aside and level with the first: two holes, the second displaced by minus its
    offset."""
    surface = _sample("ws2")
    vacancy = _objects(surface, VACANCY)[0]
    recipe = TipRecipe(second=(1.0 * NM, 0.0, 0.0))
    x = vacancy.x_m + np.linspace(-2.2 * NM, 1.6 * NM, 191)
    y = np.full(x.size, vacancy.y_m)
    height = surface.junction(Tip(recipe=recipe)).profile(x, y, 1.2, 1e-10).target(1e-10)
    single = surface.junction(Tip()).profile(x, y, 1.2, 1e-10).target(1e-10)
    at = [int(np.abs(x - vacancy.x_m - off).argmin()) for off in (0.0, -1.0 * NM)]
    wide = 25
    first, second = (height[n - wide : n + wide].max() - np.median(height) for n in at)
    alone = single[at[1] - wide : at[1] + wide].max() - np.median(single)
    assert first > 12 * PM
    assert second > 12 * PM
    assert alone < 0.7 * second


# -- in the microscope ---------------------------------------------------------------------------------------


def test_the_microscope_images_a_vacancy_and_finds_its_states(
    bench: Callable[..., Bench], recipe: SpectrumRecipe
) -> None:
    """Through controller, noise and lock-in: the ring of a vacancy is the highest thing of a frame of 3 nm,
    and a sweep shows in-gap conductance on it, and none 1.6 nm away."""
    surface = _sample("ws2")
    vacancy = _objects(surface, VACANCY)[0]
    one = bench(surface, drift=NO_DRIFT)
    one.engage(1.3, 1e-10)
    one.do("move", motions.move(vacancy.x_m - 1.6 * NM, vacancy.y_m, 200e-9))
    image = one.do(
        "frame",
        frame(
            Frame(
                centre_x_m=vacancy.x_m,
                centre_y_m=vacancy.y_m,
                width_m=3 * NM,
                height_m=3 * NM,
                pixels=48,
                lines=48,
                bias_v=1.3,
                setpoint_a=1e-10,
                line_time_s=0.5,
            )
        ),
    )
    order = np.argsort([line.rows[0] for line in image.lines])
    z = _levelled(np.concatenate([line.channels[0].values for line in image.lines])[order][:, 0])
    row, column = np.unravel_index(z.argmax(), z.shape)
    assert np.hypot(row - 23.5, column - 23.5) * 3 / 48 < 0.6
    quiet = msgspec.structs.replace(
        recipe,
        stabilise_bias_v=1.3,
        stabilise_current_a=1e-10,
        start_v=1.2,
        stop_v=0.2,
        points=126,
        dwell_s=20e-3,
        backward=False,
        lockin=LockIn(amplitude_v=0.01, frequency_hz=977.0, time_constant_s=3e-3),
    )
    peaks = []
    for off in (0.0, 1.6 * NM):
        one.do("move", motions.move(vacancy.x_m + off, vacancy.y_m, 50e-9))
        data = one.do("sweep", sweep(quiet)).sweep
        assert data is not None
        in_gap = (data.bias_v > 0.4) & (data.bias_v < 0.85)
        peaks.append(float(data.channels[1].values[0, 0][in_gap].max()))
    assert peaks[0] > 2.5 * peaks[1]
