"""Kernels: valid covariances, free orientation, and deep ones that do not collapse."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dkl_planner import gaussian_process as gp
from actors.dkl_planner.kernels import DTYPE, Inputs, Kernel, PositionTerm, make_kernel, matern, rbf

KERNELS = ("matern_xy", "dkl", "dkl_xy", "pca_xy")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the planner does: several threads cost more than they bring at these sizes."""
    with gp.single_thread():
        yield


def places(n: int, seed: int = 0) -> Inputs:
    """Random places."""
    g = torch.Generator()
    g.manual_seed(seed)
    return Inputs(
        2 * torch.rand(n, 2, generator=g, dtype=DTYPE) - 1,
        torch.randn(n, 4, generator=g, dtype=DTYPE),
        torch.randn(n, 25, generator=g, dtype=DTYPE),
    )


def generator(seed: int) -> torch.Generator:
    """A seeded generator."""
    g = torch.Generator()
    g.manual_seed(seed)
    return g


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(KERNELS), restart=st.integers(0, 5), seed=st.integers(0, 100))
def test_covariances_are_symmetric_and_positive(name: str, restart: int, seed: int) -> None:
    """With any starting parameters the covariance matrix is symmetric, positive, with the prior variance
    on its diagonal."""
    inputs = places(30, seed)
    kernel = make_kernel(name, 4, inputs.patches[:10])
    p = kernel.initial(generator(seed), restart)
    e = kernel.embed(p, inputs)
    k = kernel.covariance(p, e, e)
    assert torch.allclose(k, k.T)
    assert torch.allclose(k.diagonal(), kernel.variance(p).expand(30), rtol=1e-5)
    assert float(torch.linalg.eigvalsh(k).min()) > -1e-5
    assert math.isfinite(float(kernel.penalty(p)))


def test_correlation_functions_fall_from_one() -> None:
    """Matern 1.5, 2.5 and RBF are 1 at distance 0 and have their known values at distance 1."""
    a, b = torch.zeros(1, 2, dtype=DTYPE), torch.tensor([[1.0, 0.0]], dtype=DTYPE)
    s3, s5 = math.sqrt(3.0), math.sqrt(5.0)
    assert math.isclose(float(matern(a, a, 1.5)), 1.0, abs_tol=1e-5)
    assert math.isclose(float(matern(a, b, 1.5)), (1 + s3) * math.exp(-s3), rel_tol=1e-9)
    assert math.isclose(float(matern(a, b, 2.5)), (1 + s5 + 5 / 3) * math.exp(-s5), rel_tol=1e-9)
    assert math.isclose(float(rbf(a, b)), math.exp(-0.5), rel_tol=1e-9)


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.4])
def test_stripes_in_any_direction_are_recognised(angle: float) -> None:
    """Fitted to stripes, the position kernel's long axis lies along them, to 15 degrees, and is clearly
    longer."""
    inputs = places(90)
    across = -math.sin(angle) * inputs.position[:, 0] + math.cos(angle) * inputs.position[:, 1]
    y = torch.sin(6 * across) * math.sqrt(2.0)
    kernel = Kernel((PositionTerm(),))
    state = gp.fit(kernel, gp.begin(kernel, generator(0), 0), inputs, y, gp.ones(90), 120, 0.05)
    words = kernel.describe(state.parameters)
    error = (words["direction of the long axis (rad)"] - angle + math.pi / 2) % math.pi - math.pi / 2
    assert abs(error) < math.radians(15)
    ratio = words["correlation length along (half widths)"] / words["correlation length across (half widths)"]
    assert ratio > 1.5


@pytest.mark.parametrize("seed", range(4))
def test_a_deep_kernel_does_not_collapse(seed: int) -> None:
    """Fitted to a function of the patch, its predictions vary and correlate, from any random start."""
    inputs = places(80, seed)
    y = torch.tanh(inputs.patches[:, :3].sum(1))
    y = (y - y.mean()) / y.std()
    kernel = make_kernel("dkl", 4, places(64, 9).patches)
    train = torch.arange(60)
    state = gp.fit(
        kernel, gp.begin(kernel, generator(seed), 0), inputs.take(train), y[:60], gp.ones(60), 150, 0.05
    )
    post = gp.Posterior(kernel, state.parameters, inputs.take(train), y[:60], gp.ones(60))
    mean, variance = post.predict(inputs)
    assert float(mean[:60].std()) > 0.3 and (variance > 0).all()
    assert np.corrcoef(mean[:60].numpy(), y[:60].numpy())[0, 1] > 0.7


def test_fitting_lowers_the_loss_and_leaves_its_start_alone() -> None:
    """Adam's best step is kept; the state it began from is unchanged, so a decision can be replayed."""
    inputs = places(40)
    y = torch.sin(3 * inputs.position[:, 0])
    for name in KERNELS:
        kernel = make_kernel(name, 4, inputs.patches[:10])
        start = gp.begin(kernel, generator(1), 0)
        copy = {k: v.clone() for k, v in start.parameters.items()}
        before = float(gp.loss_of(kernel, start.parameters, inputs, y, gp.ones(40)))
        end = gp.fit(kernel, start, inputs, y, gp.ones(40), 30, 0.05)
        assert end.loss < before
        assert all(torch.equal(copy[k], start.parameters[k]) for k in copy)


def test_chunks_do_not_change_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions in chunks of 7 equal those in one piece."""
    inputs, kernel = places(50), make_kernel("pca_xy", 4, places(10).patches)
    p = kernel.initial(generator(0), 0)
    post = gp.Posterior(kernel, p, inputs.take(torch.arange(20)), inputs.scores[:20, 0], gp.ones(20))
    whole = post.predict(inputs)
    monkeypatch.setattr(gp, "CHUNK", 7)
    parts = post.predict(inputs)
    assert torch.allclose(whole[0], parts[0]) and torch.allclose(whole[1], parts[1])


def test_leave_one_out_equals_leaving_out() -> None:
    """The closed form gives what a process without the point predicts there, noise included."""
    inputs, kernel = places(25), make_kernel("matern_xy", 4, places(10).patches)
    p = kernel.initial(generator(0), 0)
    y = torch.sin(4 * inputs.position[:, 0])
    loo = gp.Posterior(kernel, p, inputs, y, gp.ones(25)).leave_one_out()
    keep = torch.tensor([i for i in range(25) if i != 11])
    post = gp.Posterior(kernel, p, inputs.take(keep), y[keep], gp.ones(24))
    mean, variance = post.predict(inputs.take(torch.tensor([11])))
    assert math.isclose(float(loo.mean[11]), float(mean), rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(float(loo.variance[11]), float(variance + post.noise), rel_tol=1e-4)


def test_an_outlier_is_believed_less() -> None:
    """A single point far from its neighbours gets more noise; the others keep theirs."""
    inputs, kernel = places(60), make_kernel("matern_xy", 4, places(10).patches)
    p = kernel.initial(generator(0), 0)
    y = inputs.position[:, 0].clone()
    y[30] += 8.0
    inflation = gp.student_inflation(gp.Posterior(kernel, p, inputs, y, gp.ones(60)))
    assert float(inflation[30]) > 3.0 and float((inflation > 1.0).sum()) < 6


def test_a_covariance_that_cannot_be_factorised_is_a_named_error() -> None:
    """A matrix with a negative eigenvalue raises our error, not torch's."""
    with pytest.raises(gp.SingularCovarianceError, match="not positive definite"):
        gp._factorise(-torch.eye(3, dtype=DTYPE), torch.zeros(3, dtype=DTYPE))


def test_single_thread_restores_the_setting() -> None:
    """Inside, torch runs on one thread; afterwards the setting is what it was."""
    before = torch.get_num_threads()
    with gp.single_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
