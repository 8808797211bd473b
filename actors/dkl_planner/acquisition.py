"""How much a spectrum at each candidate would be worth.  The scalar is always to be maximised.

All in standardised units.  Sources: Narasimha et al. (annealed UCB as mean + sqrt(beta * variance), EI);
Thomas et al., npj Comput.  Mater. 8, 99 (2022), supporting information (variance, UCB, Shannon
information gain, covariance).
"""

from __future__ import annotations

import math

import torch

from actors.dkl_planner.gaussian_process import Posterior
from actors.dkl_planner.kernels import DTYPE, Inputs


def annealed_beta(index: int, seeds: int, start: float, decay: float, end: float) -> float:
    """beta = start * decay^k, never below ``end``; k counts decisions after the seeds."""
    return max(end, start * decay ** max(0, index - seeds))


def upper_confidence_bound(mean: torch.Tensor, variance: torch.Tensor, beta: float) -> torch.Tensor:
    """mean + sqrt(beta * variance)."""
    return mean + (beta * variance).sqrt()


def expected_improvement(mean: torch.Tensor, variance: torch.Tensor, best: float) -> torch.Tensor:
    """Expected amount by which a candidate exceeds ``best`` (Jones et al. 1998)."""
    std = variance.sqrt()
    z = (mean - best) / std
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return (mean - best) * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))) + std * density


def information_gain(variance: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Shannon information (nats) that a spectrum gives about the scalar at its own place: 1/2 log(1 +
    variance / noise)."""
    return 0.5 * torch.log1p(variance / noise)


def covariance_gain(
    posterior: Posterior, candidates: Inputs, variance: torch.Tensor, reference: Inputs
) -> torch.Tensor:
    """By how much a spectrum at a candidate would lower the variance of the whole map, on average over
    ``reference``.

    cov(candidate, place)^2 / (variance + noise), averaged over the reference places: it uses the
    covariance with all that is not measured yet, so it does not waste points on edges and isolated spots
    as the variance alone does (Cohn 1996).
    """
    gain = torch.empty(len(candidates), dtype=DTYPE)
    for index, covariance in posterior.covariance_with(candidates, reference):
        gain[index] = (covariance * covariance).mean(1) / (variance[index] + posterior.noise)
    return gain
