"""The zoom supervisor: windows stay inside, follow what is supported, and false finds are left again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.zoom_supervisor.search import Conclude, OpenWindow, ZoomSearch
from actors.zoom_supervisor.windows import MeasuredPoint, Window, WindowResult, best_supported, choose_window
from protocols.errors import UsageError
from protocols.messages.campaign import ZoomSection

NM = 1e-9
WIDTHS = (200 * NM, 100 * NM, 20 * NM)


def section(selection: str = "peak", widths: tuple[float, ...] = WIDTHS) -> ZoomSection:
    """Windows of the multiscale campaign."""
    return ZoomSection(widths_m=widths, selection=selection)  # type: ignore[arg-type]


def result(
    window: Window,
    special: tuple[tuple[float, float, float], ...] = (),
    seed: int = 0,
    spread: float = 0.01,
) -> WindowResult:
    """Thirty background points (0.1 +- ``spread``) and special ones (x, y, value); the prediction
    follows them."""
    rng = np.random.default_rng(seed)
    half = window.width_m / 2
    background = [
        (*window.to_sample(float(u), float(v)), 0.1 + spread * float(rng.normal()))
        for u, v in rng.uniform(-half, half, (30, 2))
    ]
    points = tuple(
        MeasuredPoint(x, y, value, f"r/w{window.index}/{k:03d}")
        for k, (x, y, value) in enumerate([*background, *special])
    )
    axis = (np.arange(30) - 14.5) / 30 * window.width_m
    u, v = (a.ravel() for a in np.meshgrid(axis, axis))
    x, y = np.array([window.to_sample(float(a), float(b)) for a, b in zip(u, v, strict=True)]).T
    mean = np.full(x.size, 0.1)
    for px, py, value in special:
        mean += (value - 0.1) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (0.05 * window.width_m) ** 2))
    return WindowResult(points, x, y, mean, np.full(x.size, 0.01))


@settings(max_examples=60, deadline=None)
@given(
    u=st.floats(-0.5, 0.5),
    v=st.floats(-0.5, 0.5),
    angle=st.floats(-math.pi, math.pi),
    share=st.floats(0.05, 1.0),
    selection=st.sampled_from(["sum", "peak", "random"]),
)
def test_a_window_never_leaves_its_parent(
    u: float, v: float, angle: float, share: float, selection: str
) -> None:
    """For any place, width, rotation and way of choosing, all corners of the next window lie in the
    parent."""
    parent = Window(0, 0, 30 * NM, -20 * NM, 200 * NM, angle)
    x, y = parent.to_sample(u * parent.width_m, v * parent.width_m)
    width = share * parent.width_m
    choice = choose_window(result(parent, ((x, y, 0.9),)), parent, width, section(selection), 3)
    child = Window(1, 1, choice.centre_x_m, choice.centre_y_m, width, angle)
    for a in (-0.5, 0.5):
        for b in (-0.5, 0.5):
            assert parent.contains(*child.to_sample(a * width, b * width)).all()
    if selection == "peak":
        assert child.contains(x, y).all()
    assert choice.reason


def test_sum_takes_the_richest_region_and_peak_the_best_point() -> None:
    """A broad region of raised scalars wins by the sum; a single sharp find elsewhere wins by the peak."""
    parent = Window(0, 0, 0.0, 0.0, 200 * NM)
    r = result(parent, ((-60 * NM, -60 * NM, 0.9),))
    mean = np.full(r.x_m.size, 0.1)
    mean[(r.x_m > 20 * NM) & (r.y_m > 20 * NM)] = 0.3
    mean[np.argmin(np.hypot(r.x_m + 60 * NM, r.y_m + 60 * NM))] = 0.9
    r = WindowResult(r.points, r.x_m, r.y_m, mean, r.std)
    by_sum = choose_window(r, parent, 80 * NM, section("sum"), 0)
    assert by_sum.centre_x_m > 40 * NM and by_sum.centre_y_m > 40 * NM
    by_peak = choose_window(r, parent, 80 * NM, section("peak"), 0)
    assert np.allclose([by_peak.centre_x_m, by_peak.centre_y_m], -60 * NM, atol=0, rtol=1e-9)
    assert by_peak.expected == 0.9 and (-60 * NM, -60 * NM) in by_peak.handed_down


def test_a_spike_contradicted_by_its_neighbour_does_not_choose_the_window() -> None:
    """A noisy spectrum next to a background one loses against a lower find that a neighbour confirms."""
    parent = Window(0, 0, 0.0, 0.0, 200 * NM)
    spike = ((50 * NM, 50 * NM, 0.6), (50.8 * NM, 50 * NM, 0.1))
    find = ((-50 * NM, 0.0, 0.45), (-50.8 * NM, 0.0, 0.4))
    choice = choose_window(result(parent, spike + find), parent, 100 * NM, section(), 0)
    assert choice.centre_x_m < -40 * NM
    assert any(math.hypot(x - 50 * NM, y - 50 * NM) < NM for x, y, _ in choice.alternatives)


def test_nothing_standing_out_falls_back_to_the_sum_and_says_so() -> None:
    """Background alone: the window is chosen by the sum, nothing is expected there, and the reason
    admits it."""
    parent = Window(0, 0, 0.0, 0.0, 200 * NM)
    choice = choose_window(result(parent), parent, 100 * NM, section(), 0)
    assert math.isnan(choice.expected) and "no measured point stands out" in choice.reason


def test_random_is_reproducible_and_differs_by_seed() -> None:
    """The control draws the same window for the same seed and window, others for others."""
    parent = Window(0, 0, 0.0, 0.0, 200 * NM)
    r = result(parent)
    a = [choose_window(r, parent, 20 * NM, section("random"), s).centre_x_m for s in (1, 1, 2)]
    assert a[0] == a[1] != a[2]


def run(search: ZoomSearch, truth: dict[int, tuple[tuple[float, float, float], ...]]) -> list[object]:
    """Feed windows with the special points listed by window index; all instructions."""
    out: list[object] = [search.start()]
    while isinstance(out[-1], OpenWindow):
        w = out[-1].window
        out.append(search.finished(result(w, truth.get(w.index, ()), seed=w.index)))
    return out


def test_a_find_is_followed_down_to_the_smallest_window() -> None:
    """Three windows, each about the find, each with it handed down; then a confirmed conclusion with the
    best point."""
    spot = (42 * NM, -17 * NM, 0.8)
    steps = run(ZoomSearch(section(), 0), {0: (spot,), 1: (spot,), 2: (spot,)})
    assert [s.window.width_m for s in steps[:-1]] == list(WIDTHS)  # type: ignore[attr-defined]
    for s in steps[1:-1]:
        assert isinstance(s, OpenWindow) and s.window.contains(spot[0], spot[1]).all()
        assert s.handed_down[0] == spot[:2]
    end = steps[-1]
    assert isinstance(end, Conclude) and end.confirmed and end.best is not None
    assert (end.best.x_m, end.best.y_m) == spot[:2]


def test_a_false_find_is_left_for_the_next_alternative() -> None:
    """What led into the second window is not there: back to the first, on to its next best place, which
    holds."""
    false, true = (60 * NM, 60 * NM, 0.9), (-70 * NM, -50 * NM, 0.7)
    search = ZoomSearch(section(), 0)
    steps = run(search, {0: (false, true), 2: (true,), 3: (true,)})
    opened = [s for s in steps if isinstance(s, OpenWindow)]
    assert opened[1].window.contains(*false[:2]).all()
    assert opened[2].going_back and "not found again" in opened[2].reason and "0.9" in opened[2].reason
    assert opened[2].window.contains(*true[:2]).all() and opened[2].window.parent == 0
    assert opened[3].window.width_m == WIDTHS[2]
    end = steps[-1]
    assert isinstance(end, Conclude) and end.confirmed and search.returns == 1


def test_returns_are_bounded() -> None:
    """When nothing is ever confirmed the search ends, unconfirmed, after its bound of returns, with the
    best it saw."""
    falses = tuple((x * NM, y * NM, 0.9 - 0.01 * x / 80) for x in (-80, 0, 80) for y in (-80, 0, 80))
    search = ZoomSearch(section(), 0, max_returns=2)
    steps = run(search, {0: falses})
    end = steps[-1]
    assert isinstance(end, Conclude) and not end.confirmed and "gone back 2 times" in end.reason
    assert len(steps) == 5 and end.best is not None and end.best.value > 0.8
    with pytest.raises(UsageError, match="over"):
        search.finished(result(Window(9, 0, 0, 0, NM)))


def test_doubt_waits_for_enough_spectra() -> None:
    """A false find may be called so before the window is full, but not after a handful of spectra."""
    search = ZoomSearch(section(), 0)
    first = search.start()
    search.finished(result(first.window, ((0.0, 0.0, 0.9),)))
    assert search.window is not None
    points = result(search.window).points
    assert search.should_revisit(points[:8]) == ""
    assert "not found again" in search.should_revisit(points[:20])
    assert "not found again" in search.should_revisit(points[:8], final=True)
    found = MeasuredPoint(0.0, 0.0, 0.7, "r/x")
    assert search.should_revisit((*points, found)) == ""


def test_the_same_events_give_the_same_search() -> None:
    """Rebuilt from the finished windows, as after a restart, it stands where it stood."""
    truth = {0: ((60 * NM, 60 * NM, 0.9), (-70 * NM, 0.0, 0.7)), 2: ((-70 * NM, 0.0, 0.7),)}
    assert run(ZoomSearch(section(), 5), truth) == run(ZoomSearch(section(), 5), truth)
    control = run(ZoomSearch(section("random"), 5), {})
    assert control == run(ZoomSearch(section("random"), 5), {}) and len(control) == 4


def test_one_window_and_windows_without_spectra() -> None:
    """A single window concludes at once; a first window without any valid spectrum concludes unconfirmed."""
    search = ZoomSearch(section(widths=(5 * NM,)), 0)
    end = search.finished(result(search.start().window, ((NM, NM, 0.9),)))
    assert isinstance(end, Conclude) and end.confirmed and end.best is not None and end.best.value == 0.9
    empty = ZoomSearch(section(), 0)
    w = empty.start().window
    r = result(w)
    end = empty.finished(WindowResult((), r.x_m, r.y_m, r.mean, r.std))
    assert isinstance(end, Conclude) and not end.confirmed and end.best is None


def test_the_best_point_is_one_that_the_model_believes() -> None:
    """A wild spectrum higher than a find that its neighbours confirm is not reported as the best place."""
    window = Window(0, 0, 0.0, 0.0, 20 * NM)
    r = result(window, ((4 * NM, 4 * NM, 0.8), (4.2 * NM, 4 * NM, 0.7)))
    spike = MeasuredPoint(-6 * NM, -6 * NM, 2.0, "r/spike")
    best = best_supported(WindowResult((*r.points, spike), r.x_m, r.y_m, r.mean, r.std))
    assert best is not None and best.value == 0.8
    assert best_supported(WindowResult((), r.x_m, r.y_m, r.mean, r.std)) is None
    unfitted = WindowResult((spike,), r.x_m, r.y_m, np.full(r.x_m.size, np.nan), r.std)
    assert best_supported(unfitted) is spike


def test_wrong_use_is_refused() -> None:
    """Growing widths, none at all, a second start and results before the start are errors."""
    for widths in ((), (1e-9, 2e-9), (-1e-9,)):
        with pytest.raises(UsageError):
            ZoomSearch(section(widths=widths), 0)
    search = ZoomSearch(section(), 0)
    with pytest.raises(UsageError):
        search.finished(result(Window(0, 0, 0, 0, NM)))
    search.start()
    with pytest.raises(UsageError):
        search.start()
    with pytest.raises(UsageError):
        choose_window(result(Window(0, 0, 0, 0, NM)), Window(0, 0, 0, 0, NM), 2 * NM, section(), 0)
