"""Exact Gaussian process regression: fit by the marginal likelihood, predict in chunks, leave one out.

Written out on torch's Cholesky factorisation: with at most a few hundred points this is several times
faster than a general library, and a fit can begin where the last one ended.  Equations: Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2.25, 2.26, 2.30 and 5.12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from actors.dkl_planner.kernels import DTYPE, Embedding, Inputs, Kernel, Parameters
from protocols.errors import TunnelpilotError

CHUNK = 2048
"""Candidates predicted at once: a joint posterior over all of them is never formed."""
_JITTER = 1e-6
_STUDENT_SIGMA = 2.5
"""A point whose leave-one-out residual exceeds so many standard deviations is believed less, the more it
does (the weights of a Student likelihood)."""


class SingularCovarianceError(TunnelpilotError):
    """A covariance matrix cannot be factorised."""

    code = "singular-covariance"


def _chunks(n: int) -> Iterator[torch.Tensor]:
    """Indices 0 to n - 1, at most CHUNK at once."""
    for start in range(0, n, CHUNK):
        yield torch.arange(start, min(start + CHUNK, n))


@contextmanager
def single_thread() -> Iterator[None]:
    """Run on one thread: sums then have one order, and the instrument's processes keep the other cores."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


@dataclass
class FitState:
    """Where a fit stands: parameters (those named "begin." are constants) and Adam's moments."""

    parameters: Parameters
    first: Parameters
    second: Parameters
    steps: int = 0
    loss: float = math.inf


def begin(kernel: Kernel, generator: torch.Generator, restart: int) -> FitState:
    """A state with fresh parameters."""
    p = kernel.initial(generator, restart)
    free = [k for k in p if not k.startswith("begin.")]
    return FitState(p, {k: torch.zeros_like(p[k]) for k in free}, {k: torch.zeros_like(p[k]) for k in free})


def loss_of(
    kernel: Kernel, p: Mapping[str, torch.Tensor], inputs: Inputs, y: torch.Tensor, inflation: torch.Tensor
) -> torch.Tensor:
    """Minus log posterior density of the parameters per point.

    ``inflation``: shape (n,), factor (>= 1) on the noise variance of each point.
    """
    embedding = kernel.embed(p, inputs)
    factor = _factorise(kernel.covariance(p, embedding, embedding), torch.exp(p["log_noise"]) * inflation)
    white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    likelihood = -0.5 * (white * white).sum() - torch.log(factor.diagonal()).sum()
    loss: torch.Tensor = (kernel.penalty(p) - likelihood) / y.shape[0]
    return loss


def fit(
    kernel: Kernel,
    state: FitState,
    inputs: Inputs,
    y: torch.Tensor,
    inflation: torch.Tensor,
    steps: int,
    rate: float,
) -> FitState:
    """``steps`` steps of Adam (Kingma and Ba 2015) from ``state``; the state given is left as it was.

    Raises:
        SingularCovarianceError: the covariance is not positive definite even with jitter.
    """
    free = list(state.first)
    p = dict(state.parameters)
    for k in free:
        p[k] = p[k].detach().clone().requires_grad_(True)
    m = {k: v.clone() for k, v in state.first.items()}
    v2 = {k: v.clone() for k, v in state.second.items()}
    count, best_loss, best = state.steps, math.inf, {k: p[k].detach().clone() for k in free}
    for _ in range(steps + 1):
        loss = loss_of(kernel, p, inputs, y, inflation)
        value = float(loss.detach())
        if not math.isfinite(value):
            break
        if value < best_loss:
            best_loss, best = value, {k: p[k].detach().clone() for k in free}
        count += 1
        gradients = torch.autograd.grad(loss, [p[k] for k in free])
        with torch.no_grad():
            for k, g in zip(free, gradients, strict=True):
                m[k].lerp_(g, 0.1)
                v2[k].mul_(0.99).addcmul_(g, g, value=0.01)
                first = m[k] / (1 - 0.9**count)
                second = v2[k] / (1 - 0.99**count)
                p[k] -= rate * first / (second.sqrt() + 1e-8)
    final = {k: value.detach() for k, value in p.items()} | best
    return FitState(final, m, v2, count, best_loss)


def _factorise(covariance: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor of covariance + noise, with more jitter only where it is needed."""
    jitter = _JITTER
    for _ in range(4):
        factor: torch.Tensor
        factor, info = torch.linalg.cholesky_ex(covariance + torch.diag(noise + jitter))
        if int(info) == 0:
            return factor
        jitter *= 100.0
    raise SingularCovarianceError(
        f"the covariance of {noise.shape[0]} points is not positive definite, even with jitter {jitter:g}"
    )


@dataclass(frozen=True)
class LeaveOneOut:
    """Prediction of each point from all others: mean, variance (noise included), shape (n,)."""

    mean: torch.Tensor
    variance: torch.Tensor


class Posterior:
    """A Gaussian process conditioned on data: predictions for any places."""

    def __init__(
        self,
        kernel: Kernel,
        p: Mapping[str, torch.Tensor],
        inputs: Inputs,
        y: torch.Tensor,
        inflation: torch.Tensor,
    ) -> None:
        self.kernel = kernel
        self.p = p
        self.y = y
        self.noise = torch.exp(p["log_noise"])
        self.embedding = kernel.embed(p, inputs)
        self.factor = _factorise(kernel.covariance(p, self.embedding, self.embedding), self.noise * inflation)
        self.weights = torch.cholesky_solve(y[:, None], self.factor)[:, 0]

    def predict(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (without noise), shape (n,), in chunks."""
        means, variances = [], []
        prior = self.kernel.variance(self.p)
        for index in _chunks(len(inputs)):
            cross = self.kernel.covariance(
                self.p, self.embedding, self.kernel.embed(self.p, inputs.take(index))
            )
            means.append(self.weights @ cross)
            white = torch.linalg.solve_triangular(self.factor, cross, upper=False)
            variances.append((prior - (white * white).sum(0)).clamp_min(1e-10))
        return torch.cat(means), torch.cat(variances)

    def covariance_with(self, inputs: Inputs, others: Inputs) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Posterior covariance of places with a few others, by chunks: (indices, covariance (chunk,
        len(others)))."""
        other = self.kernel.embed(self.p, others)
        white_other = self._white(other)
        for index in _chunks(len(inputs)):
            here = self.kernel.embed(self.p, inputs.take(index))
            yield index, self.kernel.covariance(self.p, here, other) - self._white(here).T @ white_other

    def _white(self, embedding: Embedding) -> torch.Tensor:
        cross = self.kernel.covariance(self.p, self.embedding, embedding)
        white: torch.Tensor = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        return white

    def leave_one_out(self) -> LeaveOneOut:
        """Each point predicted from the others (Rasmussen and Williams 5.12)."""
        inverse = torch.cholesky_inverse(self.factor)
        variance = 1.0 / inverse.diagonal()
        return LeaveOneOut(self.y - self.weights * variance, variance)


def student_inflation(posterior: Posterior) -> torch.Tensor:
    """Noise factors (>= 1) that make a Gaussian likelihood forgive single outliers like a Student one."""
    out = posterior.leave_one_out()
    residual = (posterior.y - out.mean).abs() / out.variance.sqrt()
    return (residual / _STUDENT_SIGMA).clamp_min(1.0) ** 2


def ones(n: int) -> torch.Tensor:
    """No inflation."""
    return torch.ones(n, dtype=DTYPE)
