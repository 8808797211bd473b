"""Images of data sets against the formulas: the sum over atoms, the controller's loop, the tip's way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dataset_parts import recipe_of, way_and_map
from scipy.signal import welch

from sim_hardware.dataset.arrangements import ATOMISTIC, Arrangement, atoms_around, material
from sim_hardware.dataset.image import (
    distortions,
    lanes_of,
    loop_constants,
    pid_settings,
    raster_of,
    rng_of,
    simulate,
    way_of,
)
from sim_hardware.dataset.loop import MAINS_TERMS, Lanes, constants, scan_lanes
from sim_hardware.dataset.places import track
from sim_hardware.dataset.plain import plain_lane
from sim_hardware.dataset.plan import Spec
from sim_hardware.dataset.scenes import barrier, current_map, defects_of, sample_atoms, tip_atoms, to_sample
from sim_hardware.physics.distortions import true_places
from sim_hardware.physics.feedback import CurrentTable, PidSettings, scan_lines
from sim_hardware.physics.tunneling import Atoms, currents
from sim_hardware.surfaces.atom_field import AtomField, Site

NM = 1e-9


def quiet(path: np.ndarray, ticks: int) -> Lanes:  # type: ignore[type-arg]
    """Lanes without mains."""
    places, _, count = path.shape
    nothing = np.zeros((places * ticks, MAINS_TERMS), np.float32), np.zeros((MAINS_TERMS, count), np.float32)
    return Lanes(path, *nothing, key=7, ticks_per_place=ticks)


@pytest.mark.parametrize("sample", ATOMISTIC)
def test_the_current_map_is_the_direct_sum(sample: str) -> None:
    """At random places, 0.1 nm below to 0.1 nm above the setpoint's height, |I| from the map is that of
    ``physics.tunneling.currents`` within 1 %, over all atoms and for any tip and bias."""
    spec = Spec(sample, 400, seed=2)
    rng = np.random.default_rng(0)
    worst = []
    for index in range(0, 400, 40):
        recipe = recipe_of(spec, index)
        way, found = way_and_map(spec, recipe)
        half = 0.5 * recipe.width_m / NM
        u, v = rng.uniform(-half, half, size=(2, 40))
        z0, s, c, k = found.at(u, v).T.astype(np.float64)
        y = rng.uniform(-0.1, 0.1, size=40)
        ours = recipe.setpoint_a * np.exp(-s * y + c * y**2 / 2.0 + k * y**3 / 6.0)
        tip = tip_atoms(spec, recipe)
        x_m, y_m = to_sample(recipe, u * NM, v * NM)
        places = np.stack([x_m, y_m, (z0 + y) * NM], axis=1)
        sample_all = sample_atoms(spec, recipe, tip, way.grid)
        direct = np.abs(currents(sample_all, tip, places, recipe.bias_v, barrier(spec, recipe)))
        worst.append(np.abs(ours / direct - 1.0).max())
    assert max(worst) < 0.01
    assert float(np.median(worst)) < 0.006


def test_leaving_out_faint_tip_atoms_and_far_atoms_changes_less_than_a_thousandth() -> None:
    """The current of a whole tip over a sample of 10 nm is that of what the map sums, to 1e-3."""
    spec = Spec("ws2", 400, seed=2)
    for index in (3, 77, 200):
        recipe = recipe_of(spec, index)
        way, found = way_and_map(spec, recipe)
        kept = tip_atoms(spec, recipe)
        near = sample_atoms(spec, recipe, kept, way.grid)
        whole_tip = tip_atoms(spec, replace(recipe, work_function_ev=1e-3))
        defects = defects_of(spec, recipe.arrangement)
        positions, kinds = atoms_around("ws2", defects, (-6e-9, -6e-9), (6e-9, 6e-9))
        far = Atoms(positions, kinds, near.states)
        x_m, y_m = to_sample(recipe, np.array(0.0), np.array(0.0))
        at = np.array([float(x_m), float(y_m), float(found.at(np.zeros(1), np.zeros(1))[0, 0]) * NM])
        few = currents(near, kept, at, recipe.bias_v, barrier(spec, recipe))
        all_of_them = currents(far, whole_tip, at, recipe.bias_v, barrier(spec, recipe))
        assert len(far) > len(near)
        assert len(whole_tip) >= len(kept)
        assert np.isclose(few, all_of_them, rtol=1e-3, atol=0)


@pytest.mark.parametrize("sample", ATOMISTIC)
def test_atoms_are_those_of_the_sample(sample: str) -> None:
    """Around a defect of any class places and kinds are those of ``AtomField``, the simulator's own."""
    what = material(sample)
    own = what.surface.field
    for number, name in enumerate(what.classes):
        x, y = own.crystal.place(2, -1, what.replaced[number])
        one = Arrangement(np.array([number]), np.array([[2, -1]]), np.array([x]), np.array([y]))
        field = AtomField(
            own.crystal, own.table, (Site(name, 2, -1),), lambda x, y: 0.0 * x, own._top_m, own._lifts
        )
        box = (-2.4e-9, -2.1e-9), (2.2e-9, 2.3e-9)
        ours, kinds = atoms_around(sample, one, *box)
        theirs, their_kinds = field.atoms(*box)
        order, their_order = np.lexsort(np.round(ours, 14).T), np.lexsort(np.round(theirs, 14).T)
        assert np.allclose(ours[order], theirs[their_order], rtol=0, atol=1e-15)
        assert np.array_equal(kinds[order], their_kinds[their_order])
        assert len(np.unique(kinds)) > 10


@pytest.mark.parametrize("logarithmic", [True, False])
def test_the_compiled_loop_is_that_of_the_physics(logarithmic: bool) -> None:
    """With P, I, D, low pass, rail and slew limit, heights agree with ``feedback.scan_lines`` to 1 fm and
    currents to 1e-4, over currents whose logarithm bends."""
    rng = np.random.default_rng(1)
    places, lines, ticks = 30, 12, 25
    path = np.zeros((places, 5, lines), dtype=np.float32)
    path[:, 0] = 0.3 + 0.03 * np.sin(np.arange(places)[:, None] / 3.0 + rng.uniform(0.0, 6.0, lines))
    path[:, 1] = 21.0 + rng.normal(0.0, 1.0, (places, lines))
    path[:, 2] = rng.uniform(-8.0, 8.0, (places, lines))
    path[:, 3] = rng.normal(0.0, 20.0, (places, lines))
    heights = np.arange(0.16, 0.45, 5e-4)
    z0, s, c, k = (path[:, n][..., None].astype(np.float64) for n in range(4))
    y = heights - z0
    near = np.clip(y, -0.15, 0.15)
    log = -s * near + c * near**2 / 2 + k * near**3 / 6 + (y - near) * (-s + c * near + k * near**2 / 2)
    settings = PidSettings(
        proportional_m=3e-12,
        integral_m_s=60e-9,
        derivative_m_s=1e-17,
        logarithmic=logarithmic,
        bandwidth_hz=1.1e3,
        rail_a=0.4e-9,
        slew_m_s=2e-6,
    )
    table = CurrentTable(heights[0] * NM, 5e-13, np.log(settings.setpoint_a) + log.transpose(1, 0, 2))
    expected = scan_lines(table, settings, ticks, start_m=path[0, 0].astype(np.float64) * NM)
    found = scan_lanes(quiet(path, ticks), constants(settings))
    assert np.allclose(found.z.T * NM, expected.z_m, rtol=0, atol=1e-15)
    assert np.allclose(found.seen.T * settings.setpoint_a, expected.current_a, rtol=1e-4, atol=0)


def test_noise_has_the_densities_that_are_stated() -> None:
    """At rest (no gain) the current's variance is (shot + thermal) times half the rate, and voltage noise on
    the capacitance has the density (2 pi f C e_n)^2, both to 5 %; lanes and ticks are independent."""
    rate = 20e3
    settings = PidSettings(rate_hz=rate, proportional_m=0.0, integral_m_s=0.0, setpoint_a=100e-12)
    path = np.zeros((400, 5, 32), dtype=np.float32)
    path[:, 1] = 21.0
    shot, thermal = 4e-29, 3e-29
    still = scan_lanes(quiet(path, 1), constants(settings, shot, thermal)).seen * settings.setpoint_a
    assert np.isclose(np.var(still), 0.5 * rate * (shot + thermal), rtol=0.05, atol=0)
    assert abs(np.corrcoef(still[:, :-1].ravel(), still[:, 1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(still[:-1].ravel(), still[1:].ravel())[0, 1]) < 0.03
    charge = 50e-12 * 4e-9
    loud = scan_lanes(quiet(path, 1), constants(settings, 0.0, 0.0, charge)).seen * settings.setpoint_a
    frequency, density = welch(loud[1:], rate, nperseg=133, axis=0)
    band = (frequency > 300.0) & (frequency < 3000.0)
    expected = (2.0 * np.pi * frequency[band] * charge) ** 2
    assert np.isclose(np.mean(density.mean(axis=1)[band] / expected), 1.0, rtol=0, atol=0.05)


def test_flicker_and_mains_are_in_the_current() -> None:
    """At rest the current is the setpoint's times one plus flicker, plus the product of the mains' terms, to
    1e-5."""
    settings = PidSettings(proportional_m=0.0, integral_m_s=0.0)
    path = np.zeros((8, 5, 3), dtype=np.float32)
    path[:, 1] = 21.0
    path[:, 4] = np.linspace(-0.01, 0.02, 24).reshape(8, 3)
    waves = np.sin(np.arange(16 * MAINS_TERMS)).reshape(16, MAINS_TERMS).astype(np.float32)
    sizes = 0.01 * np.cos(np.arange(MAINS_TERMS * 3)).reshape(MAINS_TERMS, 3).astype(np.float32)
    found = scan_lanes(Lanes(path, waves, sizes, 0, 2), constants(settings)).seen
    assert np.allclose(found, 1.0 + path[:, 4] + (waves @ sizes)[1::2], rtol=1e-5, atol=0)


def test_the_tips_way_is_that_of_the_physics() -> None:
    """Creep, hysteresis, scanner and tilt move the tip as in ``distortions.true_places``, to 1 fm."""
    spec = Spec("ws2", 300, seed=4)
    for index in (0, 1, 2):
        recipe = replace(recipe_of(spec, index), drift_x_m_s=0.0, drift_y_m_s=0.0, drift_z_m_s=0.0)
        recipe = replace(recipe, creep_gamma=0.005, hysteresis_beta=-0.1, slope_x=0.02)
        raster, bent = raster_of(spec, recipe), distortions(recipe)
        ours = track(raster, bent, np.random.default_rng(0))
        theirs = true_places(raster, bent, np.random.default_rng(0))
        cos, sin = np.cos(recipe.angle_rad), np.sin(recipe.angle_rad)
        at = raster.pixel_samples()
        assert np.allclose(ours.u_m[at], cos * theirs.x_m + sin * theirs.y_m, rtol=0, atol=1e-15)
        assert np.allclose(ours.v_m[at], cos * theirs.y_m - sin * theirs.x_m, rtol=0, atol=1e-15)
        assert np.allclose(ours.lift_m[at], theirs.lift_m, rtol=0, atol=1e-15)


def test_drift_carries_the_tip_over_the_sample() -> None:
    """A drift of the sample by +x moves the tip by -x over it, by velocity times time within its wander."""
    spec = Spec("ws2", 300, seed=4)
    base = replace(recipe_of(spec, 0), angle_rad=0.0, creep_gamma=0.0, hysteresis_beta=0.0)
    still = replace(base, drift_x_m_s=0.0, drift_y_m_s=0.0, drift_z_m_s=0.0)
    moving = replace(still, drift_x_m_s=10e-12)
    one, other = (way_of(spec, r, np.random.default_rng(5)).track for r in (still, moving))
    moved = one.u_m[-1] - other.u_m[-1]
    assert 0.4 < moved / (10e-12 * one.times_s[-1]) < 1.6


@pytest.mark.parametrize("sample", ["ws2", "fese"])
def test_a_line_is_that_of_the_plain_loop(sample: str) -> None:
    """Without noise, the first twelve places of a line agree with the sum over all atoms at every tick:
    heights to 0.5 pm, currents to 1 %."""
    spec = Spec(sample, 50, seed=6)
    recipe = replace(recipe_of(spec, 4), ticks_per_pixel=12)
    way, found = way_and_map(spec, recipe)
    lanes = lanes_of(spec, recipe, way, found, np.random.default_rng(0))
    path = lanes.path.copy()
    path[:, 4] = 0.0
    ours = scan_lanes(quiet(path, lanes.ticks_per_place), constants(pid_settings(recipe)))
    z, seen = plain_lane(spec, recipe, way, 20, 12, float(path[0, 0, 20]) * NM)
    assert np.allclose(ours.z[:12, 20] * NM, z, rtol=0, atol=0.5e-12)
    assert np.allclose(ours.seen[:12, 20] * recipe.setpoint_a, seen, rtol=0.01, atol=0)


@pytest.mark.parametrize("sample", ["ws2", "au111"])
def test_torch_makes_the_same_images(sample: str) -> None:
    """Heights within 0.2 pm (0.5 % of the current), currents within 1 % (root mean square), noise and all."""
    import torch

    from sim_hardware.dataset.torch_images import simulate_batch

    torch.set_num_threads(1)
    spec = Spec(sample, 40, seed=8, size=16)
    recipes = [replace(recipe_of(spec, n), ticks_per_pixel=12 + n) for n in range(3)]
    for ours, theirs in zip([simulate(spec, r) for r in recipes], simulate_batch(spec, recipes), strict=True):
        assert np.allclose(theirs.z_m, ours.z_m, rtol=0, atol=0.2e-12)
        assert np.allclose(theirs.ideal_m, ours.ideal_m, rtol=0, atol=0.2e-12)
        assert np.sqrt(np.mean((theirs.current / ours.current - 1.0) ** 2)) < 0.01
        assert np.array_equal(theirs.maps, ours.maps)


@pytest.mark.parametrize("sample", ["wse2", "fese", "au111"])
def test_labels_say_where_the_defects_are(sample: str) -> None:
    """The tip was over the defect where row and column say so (to 0.1 pixel, with all distortions), and
    there its class's map has its maximum."""
    spec = Spec(sample, 60, seed=9)
    seen = 0
    for index in range(8):
        recipe = recipe_of(spec, index)
        image = simulate(spec, recipe)
        raster = raster_of(spec, recipe)
        way = way_of(spec, recipe, rng_of(spec, recipe))
        assert image.maps.max() <= 1.0
        for kind, row, column, x, y in zip(
            image.classes, image.row, image.column, image.x_m, image.y_m, strict=True
        ):
            r, c = int(np.clip(round(float(row)), 0, 63)), int(np.clip(round(float(column)), 0, 63))
            at_x, at_y = to_sample(
                recipe, way.track.u_m[way.pixels[0, r, c]], way.track.v_m[way.pixels[0, r, c]]
            )
            pixel = recipe.width_m / raster.pixels
            assert np.hypot(at_x - x, at_y - y) < pixel * (0.1 + 1.2 * np.hypot(row - r, column - c))
            assert image.maps[kind, r, c] > 0.7
            seen += 1
    assert seen >= 3


def test_the_ideal_image_is_at_the_setpoint() -> None:
    """Over the frame's pixels, at the heights of ``ideal_m``, the direct sum gives the setpoint to 1 %."""
    spec = Spec("wse2", 60, seed=9)
    recipe = recipe_of(spec, 5)
    image = simulate(spec, recipe)
    way = way_of(spec, recipe, np.random.default_rng(0))
    rows, columns = np.array([0, 5, 31, 63]), np.array([2, 60, 33, 63])
    u, v = (recipe.width_m * ((at + 0.5) / 64.0 - 0.5) for at in (columns, rows))
    x, y = to_sample(recipe, u, v)
    places = np.stack([x, y, image.ideal_m[rows, columns].astype(np.float64)], axis=1)
    tip = tip_atoms(spec, recipe)
    direct = currents(
        sample_atoms(spec, recipe, tip, way.grid), tip, places, recipe.bias_v, barrier(spec, recipe)
    )
    assert np.allclose(np.abs(direct), recipe.setpoint_a, rtol=0.01, atol=0)


def test_an_image_follows_from_its_recipe() -> None:
    """Twice the same, bit by bit; another index has other noise."""
    spec = Spec("ws2", 60, seed=9)
    one, same = simulate(spec, recipe_of(spec, 2)), simulate(spec, recipe_of(spec, 2))
    other = simulate(spec, replace(recipe_of(spec, 2), index=3))
    assert np.array_equal(one.z_m, same.z_m)
    assert np.array_equal(one.current, same.current)
    assert not np.array_equal(one.current, other.current)
    assert loop_constants(recipe_of(spec, 2)).shape == (15,)


def test_images_show_what_they_should() -> None:
    """Of 48 images of WS2 the forward topograph, less its plane, follows the heights of constant current
    under the tip in most (median correlation above 0.8) and not in all; the median corrugation is 1 to 60
    pm, no controller runs away."""
    spec = Spec("ws2", 48, seed=1)
    follows, rough = [], []
    row, column = np.mgrid[:64, :64] - 31.5
    plane = np.stack([row.ravel(), column.ravel(), np.ones(row.size)], axis=1)

    def levelled(z: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        flat = z.astype(np.float64).ravel()
        return np.asarray(flat - plane @ np.linalg.lstsq(plane, flat, rcond=None)[0])

    for index in range(48):
        recipe = recipe_of(spec, index)
        way = way_of(spec, recipe, rng_of(spec, recipe))
        under = current_map(spec, recipe, way.grid).at(way.track.u_m / NM, way.track.v_m / NM)[:, 0]
        z = levelled(simulate(spec, recipe).z_m[0])
        follows.append(np.corrcoef(z, levelled(under[way.pixels[0]]))[0, 1])
        rough.append(z.std())
    assert np.median(follows) > 0.8
    assert np.min(follows) < 0.6
    assert 1e-12 < np.median(rough) < 60e-12
    assert np.max(rough) < 1e-9
