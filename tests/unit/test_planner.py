"""The planner: deterministic, never twice the same place, aware of what is under way, exact after a
restore."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.analysis.patches import FEATURE, INHERITED, Candidates, FrameGeometry, candidates_from_topograph
from actors.dkl_planner.control import correlation, space_filling_control
from actors.dkl_planner.planner import Planner, Proposal
from protocols.errors import UsageError
from protocols.messages.campaign import PlannerSection

NM, PM = 1e-9, 1e-12
KERNELS = ("matern_xy", "dkl", "dkl_xy", "pca_xy")
ACQUISITIONS = ("variance", "ucb", "ei", "sig", "covariance")


def surface(side: int = 14, seed: int = 0) -> tuple[Candidates, np.ndarray]:
    """Every pixel of a small grid, and a scalar that follows both the topograph and position."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[0:side, 0:side]
    bumps = sum(
        (np.exp(-((row - r) ** 2 + (col - c) ** 2) / 6.0) for r, c in rng.uniform(0, side, (5, 2))),
        np.zeros((side, side)),
    )
    geometry = FrameGeometry(10 * NM, 5 * NM, 8 * NM, 8 * NM, 0.4)
    z = 50 * PM * bumps + PM * rng.normal(size=bumps.shape)
    candidates = candidates_from_topograph(z, geometry, patch_pixels=5, step=1, levelling="plane")
    return candidates, 1e-12 * (0.2 + bumps + 0.5 * np.sin(0.4 * col)).ravel()


def section(**changes: object) -> PlannerSection:
    """A quick planner."""
    base = PlannerSection(kernel="pca_xy", seed_points=6, points=40, fit_steps=20, patch_pixels=5)
    return msgspec.structs.replace(base, **changes)


def drive(planner: Planner, values: np.ndarray, first: int, last: int) -> list[Proposal]:
    """Decide and measure from decision ``first`` up to ``last``."""
    out = []
    for k in range(first, last):
        p = planner.propose([], k)
        out.append(p)
        planner.observe(f"r/d{k:04d}/a1", p.x_m, p.y_m, float(values[p.candidate]))
    return out


@pytest.mark.parametrize("kernel", KERNELS)
def test_same_inputs_and_state_give_the_same_decision(kernel: str) -> None:
    """A planner built anew from section, candidates, seed, state and data decides as the first did, to
    1e-6."""
    candidates, values = surface()
    planner = Planner(section(kernel=kernel), candidates, 3)
    drive(planner, values, 0, 12)
    state = planner.state()
    here = candidates.x_m[7], candidates.y_m[7]
    want = planner.propose([here], 12)
    again = Planner(section(kernel=kernel), candidates, 3)
    again.restore(state)
    other = Planner(section(kernel=kernel), candidates, 3)
    for k, p in enumerate(drive(other, values, 0, 12)):
        again.observe(f"r/d{k:04d}/a1", p.x_m, p.y_m, float(values[p.candidate]))
    got = again.propose([here], 12)
    assert got.candidate == want.candidate and got.kind == want.kind
    assert math.isclose(got.acquisition, want.acquisition, abs_tol=1e-6)
    assert math.isclose(got.mean, want.mean, rel_tol=1e-6) and math.isclose(got.std, want.std, rel_tol=1e-6)
    assert [a.x_m for a in got.alternatives] == [a.x_m for a in want.alternatives]


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_no_place_is_proposed_twice_until_exhausted(acquisition: str) -> None:
    """Every candidate is proposed once, also with places pending; then the planner says that it is
    exhausted."""
    candidates, values = surface(6)
    planner = Planner(section(acquisition=acquisition, seed_points=4, travel_weight=0.2), candidates, 0)
    seen: set[int] = set()
    waiting: list[tuple[float, float, int]] = []
    for k in range(36):
        p = planner.propose([(x, y) for x, y, _ in waiting], k)
        assert p.candidate not in seen and math.isfinite(p.x_m) and p.reason
        seen.add(p.candidate)
        waiting.append((p.x_m, p.y_m, p.candidate))
        if len(waiting) == 3:
            for x, y, c in waiting:
                planner.observe(f"r/{c}", x, y, float(values[c]))
            waiting = []
    end = planner.propose([], 36)
    assert len(seen) == 36 and end.kind == "exhausted" and end.candidate == -1
    assert planner.stop_reason(36) == "every candidate is measured"


@pytest.mark.parametrize("kernel", KERNELS)
def test_uncertainty_shrinks_around_a_pending_point(kernel: str) -> None:
    """A place under way counts as measured with its predicted value: uncertainty falls there, the mean
    stays."""
    candidates, values = surface()
    planner = Planner(section(kernel=kernel, acquisition="variance"), candidates, 1)
    drive(planner, values, 0, 15)
    planner.fit()
    data = planner._data()
    assert data is not None
    plain = planner._model.posterior(data)
    assert plain is not None
    mean, variance = plain.predict(planner._structure.inputs)
    target = int(np.argmax(variance.numpy()))
    index = [target]
    at = planner._structure.at(candidates.x_m[index], candidates.y_m[index], index)
    mean2, variance2 = planner._model.with_pending(plain, data, at).predict(planner._structure.inputs)
    assert float(variance2[target]) < 0.7 * float(variance[target])
    assert np.allclose(mean.numpy(), mean2.numpy(), atol=1e-4)
    assert (variance2 <= variance + 1e-6).all()


def test_revoked_points_no_longer_count_and_may_be_measured_once_more() -> None:
    """After a revocation the prediction is that without the point; the place is free again, but not for
    ever."""
    candidates, values = surface()
    with_spike, without = Planner(section(), candidates, 2), Planner(section(), candidates, 2)
    proposals = drive(with_spike, values, 0, 10)
    for k, p in enumerate(proposals):
        if k != 4:
            without.observe(f"r/d{k:04d}/a1", p.x_m, p.y_m, float(values[p.candidate]))
    with_spike.revoke("r/d0004/a1")
    with_spike.revoke("never seen")
    without.restore(with_spike.state())
    assert with_spike.observed == 9
    assert np.allclose(with_spike.predicted()[0], without.predicted()[0], atol=0, rtol=1e-9)
    spot = proposals[4].candidate
    assert with_spike._free([])[spot]
    with_spike.observe("r/d0099/a1", proposals[4].x_m, proposals[4].y_m, math.nan)
    with_spike.revoke("r/d0099/a1")
    assert not with_spike._free([])[spot]


def test_a_place_without_a_scalar_counts_as_tried_not_as_data() -> None:
    """A spectrum that gave no number adds nothing to the model, and its place is not proposed again."""
    candidates, _ = surface(6)
    planner = Planner(section(seed_points=3), candidates, 0)
    seen = set()
    for k in range(10):
        p = planner.propose([], k)
        seen.add(p.candidate)
        planner.observe(f"r/{k}", p.x_m, p.y_m, math.nan)
    assert len(seen) == 10 and planner.observed == 0 and planner.best is None
    mean, std = planner.predicted()
    assert (mean == 0).all() and np.isinf(std).all()


def test_a_warm_start_goes_on_where_the_last_fit_ended() -> None:
    """The second fit begins at the first one's parameters and moves them little; the state survives as
    plain arrays."""
    candidates, values = surface()
    planner = Planner(section(), candidates, 4)
    drive(planner, values, 0, 10)
    before = planner.state()
    planner.propose([], 10)
    after = planner.state()
    assert set(before) == set(after) and all(isinstance(a, np.ndarray) for a in after.values())
    assert all(a.dtype.kind in "fi" for a in after.values())
    assert 0 < int(after["steps"]) - int(before["steps"]) < 20
    assert abs(float(after["p.position.log_length"]) - float(before["p.position.log_length"])) < 0.6


def test_arrival_order_does_not_matter() -> None:
    """The same points in another order give the same prediction."""
    candidates, values = surface()
    a, b = Planner(section(), candidates, 0), Planner(section(), candidates, 0)
    order = np.random.default_rng(0).permutation(20)
    for k in range(20):
        a.observe(f"r/{k:03d}", candidates.x_m[9 * k], candidates.y_m[9 * k], values[9 * k])
    for k in order:
        b.observe(f"r/{k:03d}", candidates.x_m[9 * k], candidates.y_m[9 * k], values[9 * k])
    a.fit()
    b.fit()
    assert np.array_equal(a.predicted()[0], b.predicted()[0])


def test_the_map_is_learnt_and_one_wild_spectrum_does_not_spoil_it() -> None:
    """With a third of the points the map is predicted well, also with one value ten thousand times too
    large."""
    candidates, values = surface()
    planner = Planner(section(acquisition="covariance", fit_steps=60), candidates, 5)
    drive(planner, values, 0, 60)
    assert correlation(planner.predicted()[0], values) > 0.9
    spot = planner.propose([], 60)
    planner.observe("r/spike", spot.x_m, spot.y_m, 1e4 * float(values.max()))
    planner.fit()
    assert correlation(planner.predicted()[0], values) > 0.8


def test_ucb_finds_the_maximum() -> None:
    """Within 40 spectra of 196 places the largest value is measured."""
    candidates, values = surface(seed=3)
    planner = Planner(section(acquisition="ucb", fit_steps=40), candidates, 0)
    drive(planner, values, 0, 40)
    assert planner.best is not None and planner.best[3] >= np.sort(values)[-3]


def test_travel_costs_shorten_the_way() -> None:
    """With a travel weight the mean hop is shorter than without."""
    candidates, values = surface()

    def mean_hop(weight: float) -> float:
        planner = Planner(section(travel_weight=weight, acquisition="variance"), candidates, 0)
        p = drive(planner, values, 0, 25)[6:]
        return float(np.mean([math.hypot(a.x_m - b.x_m, a.y_m - b.y_m) for a, b in itertools.pairwise(p)]))

    assert mean_hop(1.0) < 0.7 * mean_hop(0.0)


def test_stop_rules() -> None:
    """The number of spectra ends a window; so does a map known well enough, but only over several
    decisions."""
    candidates, values = surface()
    planner = Planner(section(acquisition="covariance", stop_uncertainty=0.99, points=30), candidates, 0)
    assert planner.stop_reason(0) == "" and "all 30" in planner.stop_reason(30)
    k = 0
    while not planner.stop_reason(k):
        drive(planner, values, k, k + 1)
        k += 1
    assert 14 <= k < 30 and "the map is known" in planner.stop_reason(k)
    assert Planner(section(), candidates, 0).uncertainty == math.inf


def structured() -> tuple[Candidates, int]:
    """A frame with twelve like dimples and one odd structure, whose candidate is returned; one place
    handed down."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[0:256, 0:256]
    z = 2 * PM * rng.normal(size=(2, 256, 256))
    spots = [(r, c) for r in (40, 100, 160, 220) for c in (50, 130, 210)]
    for r, c in spots:
        z += -50 * PM * np.exp(-((row - r) ** 2 + (col - c) ** 2) / 8.0)
    odd = (128.0, 88.0)
    d2 = (row - odd[0]) ** 2 + (col - odd[1]) ** 2
    z += 60 * PM * (np.exp(-((np.sqrt(d2) - 5) ** 2) / 3.0) - np.exp(-d2 / 4.0))
    geometry = FrameGeometry(0, 0, 100 * NM, 100 * NM)
    c = candidates_from_topograph(
        z,
        geometry,
        patch_pixels=16,
        step=8,
        inherited=[geometry.to_sample(40, 50, (256, 256))],  # type: ignore[list-item]
    )
    x, y = geometry.to_sample(*odd, (256, 256))
    distance = np.hypot(c.x_m - x, c.y_m - y)
    distance[c.origin != FEATURE] = np.inf
    return c, int(np.argmin(distance))


@pytest.mark.parametrize("kernel", ["dkl", "dkl_xy", "pca_xy"])
def test_seeds_take_what_was_handed_down_then_every_kind_of_structure(kernel: str) -> None:
    """The handed-down place is measured first; the one odd structure among a dozen alike is among the
    next few."""
    candidates, odd = structured()
    planner = Planner(section(kernel=kernel, seed_points=12, patch_pixels=16), candidates, 0)
    order = [p.candidate for p in drive(planner, np.zeros(len(candidates)), 0, 12)]
    assert candidates.origin[order[0]] == INHERITED
    assert odd in order[1:8]


def test_without_a_find_unlike_structures_are_tried() -> None:
    """While nothing stands out of the background, every decision goes to a structure; after a find, none
    does."""
    candidates, odd = structured()
    planner = Planner(section(acquisition="ucb", seed_points=4, patch_pixels=16), candidates, 0)
    flat = 1.0 + 0.01 * np.random.default_rng(0).normal(size=len(candidates))
    kinds = [p.kind for p in drive(planner, flat, 0, 10)]
    assert kinds[:4] == ["seed"] * 4 and kinds.count("structure") == 6
    planner.observe("r/find", candidates.x_m[odd], candidates.y_m[odd], 9.0)
    assert {p.kind for p in drive(planner, flat, 10, 14)} == {"ucb"}


def test_explain_speaks_of_lengths_noise_and_trust() -> None:
    """The explanation holds correlation lengths, noise and how well points are predicted from the others."""
    candidates, values = surface()
    planner = Planner(section(), candidates, 0)
    assert planner.explain()["points"] == 0.0
    drive(planner, values, 0, 14)
    words = planner.explain()
    assert words["leave-one-out correlation"] > 0.2  # type: ignore[operator]
    assert words["correlation length along (half widths)"] >= words["correlation length across (half widths)"]  # type: ignore[operator]
    assert "noise variance" in words


def test_states_that_do_not_fit_are_refused() -> None:
    """Arrays of another kernel, or no state at all, are an error that says so."""
    candidates, values = surface()
    planner = Planner(section(), candidates, 0)
    drive(planner, values, 0, 8)
    with pytest.raises(UsageError, match="does not fit"):
        Planner(section(kernel="dkl"), candidates, 0).restore(planner.state())
    with pytest.raises(UsageError, match="no planner's state"):
        planner.restore({})
    with pytest.raises(UsageError, match="no candidate"):
        Planner(section(), Candidates(np.zeros(0), np.zeros(0), np.zeros((0, 4)), candidates.geometry), 0)


@settings(max_examples=10, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.floats(-1e-9, 1e-9), st.just(math.nan), st.just(0.0)), min_size=8, max_size=12
    ),
    kernel=st.sampled_from(KERNELS),
    acquisition=st.sampled_from(ACQUISITIONS),
)
def test_any_scalars_give_a_usable_decision(values: list[float], kernel: str, acquisition: str) -> None:
    """Constant, tiny, missing or wild scalars: the decision is a free candidate with finite numbers."""
    candidates, _ = surface(6)
    planner = Planner(section(kernel=kernel, acquisition=acquisition, fit_steps=5), candidates, 0)
    for k, v in enumerate(values):
        planner.observe(f"r/{k}", candidates.x_m[2 * k], candidates.y_m[2 * k], v)
    p = planner.propose([], 12)
    assert p.candidate >= 0 and p.candidate not in range(0, 2 * len(values), 2)
    assert all(math.isfinite(v) for v in (p.acquisition, p.mean, p.std))


def test_control_predicts_the_map_from_as_many_points() -> None:
    """The space-filling control uses exactly the number of points, none twice, and correlates with the
    map."""
    candidates, values = surface()
    control = space_filling_control(section(fit_steps=60), candidates, values, 60, 0)
    assert len(set(control.chosen)) == 60 and control.mean.shape == values.shape
    assert 0.5 < control.correlation <= 1.0
    assert math.isnan(correlation(np.ones(4), np.arange(4)))
    with pytest.raises(UsageError):
        space_filling_control(section(), candidates, values[:-1], 5, 0)
