"""Acquisition functions: their limits and orderings."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.dkl_planner import acquisition as acq
from actors.dkl_planner import gaussian_process as gp
from actors.dkl_planner.kernels import DTYPE, Inputs, make_kernel


def tensor(*values: float) -> torch.Tensor:
    """A vector."""
    return torch.tensor(values, dtype=DTYPE)


@given(index=st.integers(0, 500), seeds=st.integers(0, 50))
def test_beta_is_annealed_between_its_ends(index: int, seeds: int) -> None:
    """Beta is 10 until the seeds are done, falls by 10 % a decision, and stays at 0.001."""
    beta = acq.annealed_beta(index, seeds, 10.0, 0.9, 0.001)
    assert 0.001 <= beta <= 10.0
    if index <= seeds:
        assert beta == 10.0
    if index > seeds + 90:
        assert beta == 0.001
    assert acq.annealed_beta(index + 1, seeds, 10.0, 0.9, 0.001) <= beta


def test_ucb_follows_uncertainty_first_and_the_mean_last() -> None:
    """With a large beta the uncertain candidate wins, with a small one the high candidate."""
    mean, variance = tensor(1.0, 0.0), tensor(0.01, 1.0)
    assert int(acq.upper_confidence_bound(mean, variance, 10.0).argmax()) == 1
    assert int(acq.upper_confidence_bound(mean, variance, 0.001).argmax()) == 0


def test_expected_improvement_has_its_closed_form_limits() -> None:
    """Far above the best it is the difference, far below nothing, at the best sigma / sqrt(2 pi)."""
    value = acq.expected_improvement(tensor(5.0, -5.0, 0.0), tensor(0.01, 0.01, 4.0), 0.0)
    assert math.isclose(float(value[0]), 5.0, rel_tol=1e-9)
    assert abs(float(value[1])) < 1e-12
    assert math.isclose(float(value[2]), 2.0 / math.sqrt(2 * math.pi), rel_tol=1e-9)


def test_information_gain_in_nats() -> None:
    """A variance equal to the noise gives half of ln 2; no variance gives nothing."""
    gain = acq.information_gain(tensor(0.5, 0.0), tensor(0.5)[0])
    assert math.isclose(float(gain[0]), 0.5 * math.log(2.0)) and float(gain[1]) == 0.0


def test_covariance_gain_prefers_the_middle_of_the_unknown_to_its_edge() -> None:
    """In an unmeasured half the variance is largest at the far corner; a spectrum amid the gap teaches
    more of the map."""
    axis = torch.linspace(-1, 1, 21, dtype=DTYPE)
    xy = torch.cartesian_prod(axis, axis)
    grid = Inputs(xy, torch.zeros(len(xy), 1, dtype=DTYPE), torch.zeros(len(xy), 4, dtype=DTYPE))
    kernel = make_kernel("matern_xy", 1, grid.patches[:4])
    generator = torch.Generator()
    p = kernel.initial(generator, 0)
    p["position.log_length"] = torch.tensor(-0.5, dtype=DTYPE)
    known = grid.take(torch.nonzero(xy[:, 0] < 0)[::7, 0])
    y = known.position[:, 1]
    post = gp.Posterior(kernel, p, known, y, gp.ones(len(known)))
    _, variance = post.predict(grid)
    gain = acq.covariance_gain(post, grid, variance, grid)
    by_variance, by_gain = xy[int(variance.argmax())], xy[int(gain.argmax())]
    assert float(by_variance.abs().max()) > 0.95
    assert float(by_gain.abs().max()) < 0.9 and float(by_gain[0]) > 0.0
    assert (gain >= 0).all()
