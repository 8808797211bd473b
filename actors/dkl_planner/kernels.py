"""Covariance functions on position and on the topograph's patches, as sums of terms.

A term maps its inputs to an embedding (a turned and stretched position, principal components, the output of
a network) and correlates embeddings.  Parameters live in flat dictionaries of tensors, so that a model's
state is a set of named arrays.  Everything is standardised: positions in units of half the window's width,
patch scores near 1, outputs with variance 1.

Sources: anisotropic Matern: Thomas et al., npj Comput.  Mater. 8, 99 (2022), eq. 5; deep kernel 64-64-2
with RBF: Narasimha et al. (DKL on STM), Methods; Wilson et al., "Deep kernel learning", AISTATS 2016.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import gpytorch
import torch

Parameters: TypeAlias = dict[str, torch.Tensor]
Embedding: TypeAlias = tuple[torch.Tensor, ...]

DTYPE = torch.float64
"""In float32 the Cholesky factorisation of a deep kernel fails from 60 points on."""

_MEAN_VARIANCE = 0.25
"""Prior variance of the unknown constant mean, in units of the outputs' variance."""


@dataclass(frozen=True)
class Inputs:
    """What is known of n places before a spectrum is taken: ``position`` (n, 2), ``scores`` (n, k)
    principal components of the patches, ``patches`` (n, d) themselves."""

    position: torch.Tensor
    scores: torch.Tensor
    patches: torch.Tensor

    def take(self, index: torch.Tensor) -> Inputs:
        """The places with these indices."""
        return Inputs(self.position[index], self.scores[index], self.patches[index])

    def __len__(self) -> int:
        return int(self.position.shape[0])


def _unit(kernel: gpytorch.kernels.Kernel) -> gpytorch.kernels.Kernel:
    """A library's kernel with length 1: lengths are in our embeddings."""
    kernel = kernel.double()
    kernel.lengthscale = 1.0
    return kernel.requires_grad_(False)


_MATERN = {nu: _unit(gpytorch.kernels.MaternKernel(nu=nu)) for nu in (1.5, 2.5)}
_RBF = _unit(gpytorch.kernels.RBFKernel())


def matern(a: torch.Tensor, b: torch.Tensor, nu: float) -> torch.Tensor:
    """Matern correlation of order 1.5 or 2.5 at unit length, shape (len(a), len(b))."""
    correlation: torch.Tensor = _MATERN[nu].forward(a, b)
    return correlation


def rbf(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Gaussian correlation at unit length, shape (len(a), len(b))."""
    correlation: torch.Tensor = _RBF.forward(a, b)
    return correlation


def normal_penalty(value: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Minus the logarithm of a normal prior, without its constant."""
    return 0.5 * (((value - mean) / std) ** 2).sum()


class Term(ABC):
    """One summand of a kernel.  Its parameters' names begin with ``name``."""

    def __init__(self, name: str, log_variance: float = 0.0) -> None:
        self.name = name
        self.log_variance = log_variance

    def initial(self, generator: torch.Generator, restart: int) -> Parameters:
        """Starting values; ``restart`` 0 is the plain guess, others are drawn around it."""
        jitter = (
            0.5 * torch.randn((), dtype=DTYPE, generator=generator)
            if restart
            else torch.zeros((), dtype=DTYPE)
        )
        return {f"{self.name}.log_variance": torch.tensor(self.log_variance, dtype=DTYPE) + jitter}

    def variance(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Prior variance of this term (outputs have variance 1)."""
        return torch.exp(p[f"{self.name}.log_variance"])

    @abstractmethod
    def embed(self, p: Mapping[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """Embedding, shape (n, m), in which correlation is isotropic with unit length."""

    @abstractmethod
    def correlate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Correlation of embeddings, shape (len(a), len(b)), 1 at distance 0."""

    def penalty(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Minus log prior of the parameters."""
        return normal_penalty(p[f"{self.name}.log_variance"], self.log_variance, 1.0)

    def describe(self, p: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """What a physicist would want to know of the fitted term."""
        return {f"{self.name} variance": float(self.variance(p))}


class PositionTerm(Term):
    """Matern correlation on position with its own length along two axes and free orientation.

    Embedding: x -> exp(-S) x with the symmetric S = [[a + b, c], [c, a - b]]: a is the logarithm of the
    mean length (in half window widths), (b, c) stretch it in any direction without a singular point
    where both lengths are equal.
    """

    def __init__(self, nu: float = 1.5, log_variance: float = 0.0, log_length: float = -1.4) -> None:
        super().__init__("position", log_variance)
        self.nu = nu
        self.log_length = log_length

    def initial(self, generator: torch.Generator, restart: int) -> Parameters:
        """Starting values (see :class:`Term`)."""
        p = super().initial(generator, restart)
        noise = torch.randn(3, dtype=DTYPE, generator=generator) if restart else torch.zeros(3, dtype=DTYPE)
        p["position.log_length"] = self.log_length + 0.5 * noise[0]
        p["position.stretch"] = 0.4 * noise[1:]
        return p

    def embed(self, p: Mapping[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """Embedding (see :class:`Term`)."""
        return inputs.position @ self._metric(p)

    def correlate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Correlation (see :class:`Term`)."""
        return matern(a, b, self.nu)

    def penalty(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Minus log prior (see :class:`Term`)."""
        return (
            super().penalty(p)
            + normal_penalty(p["position.log_length"], self.log_length, 0.7)
            + normal_penalty(p["position.stretch"], 0.0, 0.4)
        )

    @staticmethod
    def _metric(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        b, c = p["position.stretch"][0], p["position.stretch"][1]
        r = (b * b + c * c + 1e-12).sqrt()
        even, odd = torch.cosh(r), torch.sinh(r) / r
        matrix = torch.stack(
            [torch.stack([even - odd * b, -odd * c]), torch.stack([-odd * c, even + odd * b])]
        )
        return torch.exp(-p["position.log_length"]) * matrix

    def describe(self, p: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Fitted quantities by name."""
        b, c = (float(v) for v in p["position.stretch"])
        stretch = math.hypot(b, c)
        mean = math.exp(float(p["position.log_length"]))
        return {
            **super().describe(p),
            "correlation length along (half widths)": mean * math.exp(stretch),
            "correlation length across (half widths)": mean * math.exp(-stretch),
            "direction of the long axis (rad)": 0.5 * math.atan2(c, b),
        }


class ScoresTerm(Term):
    """Matern correlation on the first principal components of the patches, a length for each (ARD)."""

    def __init__(self, components: int, nu: float = 2.5, log_variance: float = 0.0) -> None:
        super().__init__("patch", log_variance)
        self.components = components
        self.nu = nu
        self.log_length = 0.5 * math.log(max(components, 1)) + 0.2

    def initial(self, generator: torch.Generator, restart: int) -> Parameters:
        """Starting values (see :class:`Term`)."""
        p = super().initial(generator, restart)
        noise = torch.randn(self.components, dtype=DTYPE, generator=generator)
        p["patch.log_lengths"] = self.log_length + (0.4 if restart else 0.0) * noise
        return p

    def embed(self, p: Mapping[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """Embedding (see :class:`Term`)."""
        return inputs.scores * torch.exp(-p["patch.log_lengths"])

    def correlate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Correlation (see :class:`Term`)."""
        return matern(a, b, self.nu)

    def penalty(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Minus log prior (see :class:`Term`)."""
        return super().penalty(p) + normal_penalty(p["patch.log_lengths"], self.log_length, 0.7)


FREEDOM = 0.06
"""Prior standard deviation of a deep kernel's weights about their random start, as a share of the
start's own."""


class DeepTerm(Term):
    """Deep kernel: a network 64-64-2 with ReLU on the patch, then an RBF on its output (Narasimha et al.,
    Methods).

    Two things keep it from the collapse to a constant that the published recipe suffers from: the output
    is standardised over a fixed set of anchor patches (it cannot shrink to a point), and weights are
    drawn to where they began (with few spectra the network stays close to a random, distance-preserving
    projection and departs from it as data demand).
    """

    widths = (64, 64, 2)

    def __init__(self, anchors: torch.Tensor, log_variance: float = 0.0) -> None:
        super().__init__("deep", log_variance)
        self.anchors = anchors
        self.freedom = FREEDOM

    def initial(self, generator: torch.Generator, restart: int) -> Parameters:
        """Starting values (see :class:`Term`)."""
        p = super().initial(generator, restart)
        p["deep.log_length"] = torch.zeros((), dtype=DTYPE)
        size = int(self.anchors.shape[1])
        for layer, width in enumerate(self.widths):
            gain = math.sqrt((2.0 if layer else 1.0) / size)
            p[f"begin.w{layer}"] = gain * torch.randn(size, width, dtype=DTYPE, generator=generator)
            p[f"begin.b{layer}"] = 0.1 * torch.randn(width, dtype=DTYPE, generator=generator)
            p[f"deep.w{layer}"] = torch.zeros(size, width, dtype=DTYPE)
            p[f"deep.b{layer}"] = torch.zeros(width, dtype=DTYPE)
            size = width
        return p

    def _forward(self, p: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        last = len(self.widths) - 1
        for layer in range(last + 1):
            w0, b0 = p[f"begin.w{layer}"], p[f"begin.b{layer}"]
            weight = w0 + (self.freedom / math.sqrt(w0.shape[0])) * p[f"deep.w{layer}"]
            x = torch.addmm(b0 + 0.1 * self.freedom * p[f"deep.b{layer}"], x, weight)
            if layer < last:
                x = torch.relu(x)
        return x

    def embed(self, p: Mapping[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """Embedding (see :class:`Term`)."""
        anchor = self._forward(p, self.anchors)
        centre, spread = anchor.mean(0), anchor.std(0) + 1e-6
        return (self._forward(p, inputs.patches) - centre) / spread * torch.exp(-p["deep.log_length"])

    def correlate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Correlation (see :class:`Term`)."""
        return rbf(a, b)

    def penalty(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Minus log prior (see :class:`Term`)."""
        total = super().penalty(p) + normal_penalty(p["deep.log_length"], 0.0, 0.7)
        for key, value in p.items():
            if key.startswith(("deep.w", "deep.b")):
                total = total + normal_penalty(value, 0.0, 1.0)
        return total


class Kernel:
    """A sum of terms and an unknown constant mean."""

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms

    def initial(self, generator: torch.Generator, restart: int) -> Parameters:
        """Starting values of all parameters, the noise's included."""
        p: Parameters = {"log_noise": torch.tensor(-2.5 if restart % 2 == 0 else -1.2, dtype=DTYPE)}
        for term in self.terms:
            p.update(term.initial(generator, restart))
        return p

    def embed(self, p: Mapping[str, torch.Tensor], inputs: Inputs) -> Embedding:
        """Embeddings of all terms."""
        return tuple(term.embed(p, inputs) for term in self.terms)

    def covariance(self, p: Mapping[str, torch.Tensor], a: Embedding, b: Embedding) -> torch.Tensor:
        """Prior covariance between embedded places, shape (len(a), len(b))."""
        total = torch.full((a[0].shape[0], b[0].shape[0]), _MEAN_VARIANCE, dtype=DTYPE)
        for term, ea, eb in zip(self.terms, a, b, strict=True):
            total = total + term.variance(p) * term.correlate(ea, eb)
        return total

    def variance(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Prior variance at any place, the unknown mean's included."""
        return _MEAN_VARIANCE + sum((term.variance(p) for term in self.terms), torch.zeros((), dtype=DTYPE))

    def penalty(self, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Minus log prior of all parameters."""
        total = normal_penalty(p["log_noise"], -2.5, 1.2)
        for term in self.terms:
            total = total + term.penalty(p)
        return total

    def describe(self, p: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Fitted quantities by name."""
        out = {"noise variance": math.exp(float(p["log_noise"]))}
        for term in self.terms:
            out.update(term.describe(p))
        return out


KERNEL_NAMES = {
    "matern_xy": "position",
    "dkl": "the look of the surface",
    "dkl_xy": "the look of the surface and position",
    "pca_xy": "the look of the surface and position",
}


def make_kernel(name: str, components: int, anchors: torch.Tensor) -> Kernel:
    """The kernel of that name (see ``PlannerSection.kernel``).

    Args:
        name: "matern_xy", "dkl", "dkl_xy" or "pca_xy".
        components: principal components of the patches that the inputs carry.
        anchors: shape (m, d), patches on which a deep kernel's output is standardised.
    """
    match name:
        case "matern_xy":
            return Kernel((PositionTerm(),))
        case "dkl":
            return Kernel((DeepTerm(anchors),))
        case "dkl_xy":
            return Kernel((DeepTerm(anchors, -0.7), PositionTerm(log_variance=-0.7)))
        case _:
            return Kernel((ScoresTerm(components, log_variance=-0.7), PositionTerm(log_variance=-0.7)))
