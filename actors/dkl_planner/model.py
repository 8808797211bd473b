"""The planner's model: data in, standardised and made robust; fitted from where the last fit ended;
state as named arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from actors.dkl_planner import gaussian_process as gp
from actors.dkl_planner.kernels import DTYPE, Inputs, Kernel, PositionTerm, make_kernel
from actors.dkl_planner.structure import Structure
from protocols.messages.campaign import PlannerSection

_WINSOR_SIGMA = 10.0
"""Values further than this from the median (in robust standard deviations) are taken for this far: one
wild spectrum must not flatten all others to a constant."""
_RESTARTS = 3
_REFRESH_EVERY = 20
"""Every so many points the fit also starts from scratch once, and the better of both is kept."""
_WARM_SHARE = 5
_FALLBACK_GAIN = 0.05
"""A position-only model replaces a deep one that fits worse by so much log evidence per point (the deep
one collapsed)."""


@dataclass(frozen=True)
class Standard:
    """Affine scale of the outputs: value = centre + scale * standardised."""

    centre: float
    scale: float


def standardise(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Standard]:
    """Values with mean 0 and variance 1 after winsorising at 10 robust standard deviations about the
    median."""
    median = float(np.median(values))
    q05, q95 = np.quantile(values, [0.05, 0.95])
    robust = max(1.4826 * float(np.median(np.abs(values - median))), float(q95 - q05) / 3.29)
    if robust > 0.0:
        values = np.clip(values, median - _WINSOR_SIGMA * robust, median + _WINSOR_SIGMA * robust)
    centre, scale = float(values.mean()), float(values.std())
    if not scale > 1e-12 * max(abs(centre), 1e-300):
        scale = max(abs(centre), 1e-300)
    return (values - centre) / scale, Standard(centre, scale)


@dataclass(frozen=True)
class Data:
    """Measured places and their standardised outputs."""

    inputs: Inputs
    y: torch.Tensor
    standard: Standard


class Model:
    """A kernel with its fit.  ``note`` says when a fallback took over."""

    def __init__(self, section: PlannerSection, structure: Structure, seed: int) -> None:
        self.section = section
        self.seed = seed
        self._structure = structure
        self._own = make_kernel(section.kernel, structure.inputs.scores.shape[1], structure.anchors)
        self._plain = Kernel((PositionTerm(),))
        self.fallback = False
        self.fit_state: gp.FitState | None = None
        self.fitted = 0
        self.note = ""

    @property
    def kernel(self) -> Kernel:
        """The kernel in use."""
        return self._plain if self.fallback else self._own

    def update(self, data: Data) -> None:
        """Fit: from scratch with several starts the first time, then a few steps from where the last fit
        ended."""
        steps = self.section.fit_steps
        n = int(data.y.shape[0])
        if self.fit_state is None:
            starts = [(gp.begin(self._own, self._generator(n, r), r), steps) for r in range(_RESTARTS)]
        else:
            warm = gp.FitState(**vars(self.fit_state))
            starts = [(warm, max(10, steps // _WARM_SHARE))]
            if n // _REFRESH_EVERY > self.fitted // _REFRESH_EVERY:
                starts.append((gp.begin(self.kernel, self._generator(n, _RESTARTS), 0), steps))
        inflation = self._inflation(data)
        best = self._best(self.kernel, starts, data, inflation)
        if self.fit_state is None:
            best = self._guard_against_collapse(best, data, inflation)
        if best is not None:
            self.fit_state = best
        self.fitted = n

    def _best(
        self, kernel: Kernel, starts: list[tuple[gp.FitState, int]], data: Data, inflation: torch.Tensor
    ) -> gp.FitState | None:
        fits = []
        for start, steps in starts:
            try:
                fits.append(
                    gp.fit(kernel, start, data.inputs, data.y, inflation, steps, self.section.learning_rate)
                )
            except gp.SingularCovarianceError:
                continue
        finite = [f for f in fits if math.isfinite(f.loss)]
        return min(finite, key=lambda f: f.loss) if finite else None

    def _guard_against_collapse(
        self, best: gp.FitState | None, data: Data, inflation: torch.Tensor
    ) -> gp.FitState | None:
        """A pure deep kernel may explain nothing; then position alone, if that explains more."""
        if best is not None and self.section.kernel != "dkl":
            return best
        n = int(data.y.shape[0])
        plain = self._best(
            self._plain,
            [
                (gp.begin(self._plain, self._generator(n, 10 + r), r), self.section.fit_steps)
                for r in range(2)
            ],
            data,
            inflation,
        )
        if plain is None or (best is not None and best.loss - plain.loss < _FALLBACK_GAIN):
            return best
        self.fallback = True
        self.note = (
            "the deep kernel explains the data worse than position alone (it collapsed to a constant): "
            "position alone is used"
        )
        return plain

    def _generator(self, n: int, restart: int) -> torch.Generator:
        generator = torch.Generator()
        generator.manual_seed(
            int(np.random.SeedSequence([self.seed, n, restart]).generate_state(1, np.uint32)[0])
        )
        return generator

    def _inflation(self, data: Data) -> torch.Tensor:
        none = gp.ones(int(data.y.shape[0]))
        if self.fit_state is None:
            return none
        try:
            return gp.student_inflation(
                gp.Posterior(self.kernel, self.fit_state.parameters, data.inputs, data.y, none)
            )
        except gp.SingularCovarianceError:
            return none

    def posterior(self, data: Data) -> gp.Posterior | None:
        """The process conditioned on ``data`` with outliers believed less; None before the first fit."""
        if self.fit_state is None:
            return None
        return gp.Posterior(
            self.kernel, self.fit_state.parameters, data.inputs, data.y, self._inflation(data)
        )

    def with_pending(self, posterior: gp.Posterior, data: Data, pending: Inputs) -> gp.Posterior:
        """Kriging believer (Ginsbourger et al. 2010): pending points count as measured with their
        predicted means.  The mean stays as it is, the variance shrinks around them."""
        mean, _ = posterior.predict(pending)
        inputs = Inputs(
            torch.cat([data.inputs.position, pending.position]),
            torch.cat([data.inputs.scores, pending.scores]),
            torch.cat([data.inputs.patches, pending.patches]),
        )
        inflation = torch.cat([self._inflation(data), gp.ones(len(pending))])
        assert self.fit_state is not None  # a posterior exists
        return gp.Posterior(
            self.kernel, self.fit_state.parameters, inputs, torch.cat([data.y, mean]), inflation
        )

    def prior_std(self) -> float:
        """Prior standard deviation of the field (the unknown mean left out), standardised."""
        if self.fit_state is None:
            return 1.0
        total = sum(float(term.variance(self.fit_state.parameters)) for term in self.kernel.terms)
        return math.sqrt(max(total, 1e-12))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays from which :meth:`restore` goes on exactly."""
        out: dict[str, npt.NDArray[np.generic]] = {
            "fitted": np.array(self.fitted, dtype=np.int64),
            "fallback": np.array(int(self.fallback), dtype=np.int64),
        }
        if self.fit_state is not None:
            s = self.fit_state
            out["steps"] = np.array(s.steps, dtype=np.int64)
            out["loss"] = np.array(s.loss, dtype=np.float64)
            for prefix, group in (("p", s.parameters), ("m", s.first), ("v", s.second)):
                out.update({f"{prefix}.{k}": v.detach().numpy().copy() for k, v in group.items()})
        return out

    def restore(self, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a state."""
        self.fitted = int(arrays["fitted"])
        self.fallback = bool(arrays["fallback"])
        if self.fallback:
            self.note = "position alone is used (the deep kernel collapsed earlier)"
        if "steps" not in arrays:
            self.fit_state = None
            return

        def group(prefix: str) -> dict[str, torch.Tensor]:
            return {
                k[len(prefix) :]: torch.tensor(np.array(v), dtype=DTYPE)
                for k, v in arrays.items()
                if k.startswith(prefix)
            }

        self.fit_state = gp.FitState(
            group("p."), group("m."), group("v."), int(arrays["steps"]), float(arrays["loss"])
        )
