"""The planner: observes spectra's scalars, proposes where the next one would teach most, and says why.

Pure: arrays in, arrays out.  What it answers depends only on its section, candidates, seed, the state it
was given and what it has observed; the same again gives the same candidate (and the acquisition value to
1e-6).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from actors.analysis.patches import FEATURE, ORIGIN_NAMES, Candidates
from actors.analysis.scalarizers import STANDS_OUT, background_of
from actors.dkl_planner import acquisition as acq
from actors.dkl_planner.gaussian_process import Posterior, single_thread
from actors.dkl_planner.kernels import KERNEL_NAMES, Inputs
from actors.dkl_planner.model import Data, Model, standardise
from actors.dkl_planner.seeding import most_unlike, seed_sequence, space_filling
from actors.dkl_planner.structure import Structure
from protocols.errors import UsageError
from protocols.messages.campaign import PlannerSection
from protocols.messages.records import Alternative

_MIN_POINTS = 3
"""Below this there is nothing to fit: space-filling goes on."""
_REFERENCE_PLACES = 256
_ALTERNATIVES = 5
_SETTLED = 8
"""The stop rule must hold in so many decisions running: a single fit may think too well of itself."""
_MAX_ATTEMPTS = 2
"""A candidate whose points were revoked or gave no scalar so often is left alone."""


@dataclass(frozen=True)
class Proposal:
    """Where the next spectrum should go.

    ``candidate``: index, -1 when exhausted; ``x_m``, ``y_m``: sample coordinates; ``kind``: "seed",
    "exhausted" or the acquisition's name; ``acquisition``: its value in standardised units (seeds: 0);
    ``mean``, ``std``: prediction there in the scalar's unit; ``reason``: a sentence; ``seconds``: wall
    time of the decision.
    """

    candidate: int
    x_m: float
    y_m: float
    kind: str
    acquisition: float
    mean: float
    std: float
    beta: float
    reason: str
    alternatives: tuple[Alternative, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class _Point:
    candidate: int
    x_m: float
    y_m: float
    value: float


class Planner:
    """Chooses the candidates of one window.

    Args:
        section: how to choose.
        candidates: where a spectrum may be taken.
        seed: of all that is random here.

    Raises:
        UsageError: there is no candidate.
    """

    def __init__(self, section: PlannerSection, candidates: Candidates, seed: int) -> None:
        if len(candidates) == 0:
            raise UsageError("there is no candidate to plan with", "Take a frame first, or a smaller step.")
        self.section = section
        self.candidates = candidates
        self.seed = seed
        self._structure = Structure(candidates, seed)
        self._model = Model(section, self._structure, seed)
        self._points: dict[str, _Point] = {}
        self._attempts: dict[int, int] = {}
        self._last: tuple[float, float] | None = None
        position = self._structure.inputs.position.numpy()
        by_structure = section.kernel != "matern_xy"
        self._seeds = seed_sequence(
            candidates, position, self._structure.scores, section.seed_points, seed, by_structure
        )
        reference = space_filling(position, _REFERENCE_PLACES, seed + 1)
        self._reference = self._structure.inputs.take(torch.as_tensor(reference, dtype=torch.long))
        self._history: list[float] = []  # mean uncertainty over the prior's at the last decisions

    # ---- data ----

    def observe(self, job_id: str, x_m: float, y_m: float, value: float) -> None:
        """A spectrum was taken at (x_m, y_m) (sample coordinates) and gave ``value`` (NaN: nothing
        usable; the place counts as tried).  The same id again replaces what was said before."""
        candidate, distance = self._structure.nearest(x_m, y_m)
        if distance > self._structure.spacing_m:
            candidate = -1 - candidate  # measured off the candidates: data, but no candidate is used up
        elif job_id not in self._points:
            self._attempts[candidate] = self._attempts.get(candidate, 0) + 1
        self._points[job_id] = _Point(candidate, float(x_m), float(y_m), float(value))
        self._last = (float(x_m), float(y_m))

    def revoke(self, job_id: str) -> None:
        """The point no longer counts as data; its place may be measured again (once).  Unknown ids are
        ignored: a point may be revoked before the planner has seen it."""
        self._points.pop(job_id, None)

    @property
    def observed(self) -> int:
        """Number of points that count as data."""
        return sum(math.isfinite(p.value) for p in self._points.values())

    @property
    def best(self) -> tuple[str, float, float, float] | None:
        """(job id, x_m, y_m, value) of the largest observed value."""
        finite = {k: p for k, p in self._points.items() if math.isfinite(p.value)}
        if not finite:
            return None
        job = max(sorted(finite), key=lambda k: finite[k].value)
        return job, finite[job].x_m, finite[job].y_m, finite[job].value

    # ---- decisions ----

    def propose(self, pending: Sequence[tuple[float, float]], index: int) -> Proposal:
        """The next place.

        Args:
            pending: sample positions (m) of spectra that are under way: never proposed again, and counted
                as measured with
                their predicted value.
            index: count of decisions in this window, from 0.
        """
        began = time.perf_counter()
        with single_thread():
            proposal = self._propose(pending, index)
        return _with_seconds(proposal, time.perf_counter() - began)

    def _propose(self, pending: Sequence[tuple[float, float]], index: int) -> Proposal:
        waiting = [self._structure.nearest(x, y)[0] for x, y in pending]
        free = self._free(waiting)
        if not free.any():
            return Proposal(
                -1, math.nan, math.nan, "exhausted", 0.0, math.nan, math.nan, 0.0,
                f"Every one of the {len(self.candidates)} candidates is measured or under way.",
            )  # fmt: skip
        data = self._data()
        if index < self.section.seed_points or data is None:
            return self._seed(free, index)
        self._model.update(data)
        posterior = self._model.posterior(data)
        if posterior is None:
            return self._seed(free, index)
        if pending:
            at = np.array(pending, dtype=float)
            posterior = self._model.with_pending(
                posterior, data, self._structure.at(at[:, 0], at[:, 1], waiting)
            )
        return self._choose(posterior, data, free, pending, index)

    def _free(self, waiting: Sequence[int]) -> npt.NDArray[np.bool_]:
        free = np.ones(len(self.candidates), dtype=bool)
        used = [p.candidate for p in self._points.values() if p.candidate >= 0]
        worn = [c for c, n in self._attempts.items() if n >= _MAX_ATTEMPTS]
        free[[*used, *worn, *waiting]] = False
        return free

    def _data(self) -> Data | None:
        jobs = sorted(j for j, p in self._points.items() if math.isfinite(p.value))  # independent of arrival
        if len(jobs) < _MIN_POINTS:
            return None
        points = [self._points[j] for j in jobs]
        y, standard = standardise(np.array([p.value for p in points]))
        inputs = self._structure.at(
            np.array([p.x_m for p in points]),
            np.array([p.y_m for p in points]),
            [p.candidate if p.candidate >= 0 else -1 - p.candidate for p in points],
        )
        return Data(inputs, torch.tensor(y, dtype=torch.float64), standard)

    def _seed(self, free: npt.NDArray[np.bool_], index: int) -> Proposal:
        pick = next((i for i in self._seeds if free[i]), None)
        if pick is None:
            position = self._structure.inputs.position.numpy()
            taken = tuple(int(i) for i in np.flatnonzero(~free))
            pick = space_filling(position, 1, self.seed + 1000 + index, taken)[0]
        values = np.array([p.value for p in self._points.values() if math.isfinite(p.value)])
        mean, std = (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)
        origin = ORIGIN_NAMES[int(self.candidates.origin[pick])]
        what = {
            "raster": "spread over the surface",
            "structure": f"a structure ({self.candidates.strength[pick]:.0f} sigma) unlike those measured",
            "handed down": "the best place of the window before: does it hold here?",
        }[origin]
        return Proposal(
            pick,
            float(self.candidates.x_m[pick]),
            float(self.candidates.y_m[pick]),
            kind="seed",
            acquisition=0.0,
            mean=mean,
            std=std,
            beta=0.0,
            reason=f"Seed {index + 1} of {self.section.seed_points}: {what}.",
        )

    def _choose(
        self,
        posterior: Posterior,
        data: Data,
        free: npt.NDArray[np.bool_],
        pending: Sequence[tuple[float, float]],
        index: int,
    ) -> Proposal:
        s = self.section
        mean, variance = posterior.predict(self._structure.inputs)
        uncertainty = float(variance.sqrt().mean()) / self._model.prior_std()
        self._history = [*self._history, uncertainty][-_SETTLED:]
        beta = 0.0
        match s.acquisition:
            case "variance":
                value = variance
            case "ucb":
                beta = acq.annealed_beta(index, s.seed_points, s.beta_start, s.beta_decay, s.beta_end)
                value = acq.upper_confidence_bound(mean, variance, beta)
            case "ei":
                value = acq.expected_improvement(mean, variance, float(data.y.max()))
            case "sig":
                value = acq.information_gain(variance, posterior.noise)
            case "covariance":
                value = acq.covariance_gain(posterior, self._structure.inputs, variance, self._reference)
        worth = value.numpy().copy()
        last = pending[-1] if pending else self._last
        if s.travel_weight > 0.0 and last is not None:
            hop = np.hypot(self.candidates.x_m - last[0], self.candidates.y_m - last[1])
            spread = float(worth[free].max() - worth[free].min())
            worth -= s.travel_weight * spread * hop / self.candidates.geometry.width_m
        worth[~free] = -np.inf
        unlike = self._next_kind(free)
        pick = int(np.argmax(worth)) if unlike < 0 else unlike
        mean_y = data.standard.centre + data.standard.scale * mean.numpy()
        std_y = data.standard.scale * variance.sqrt().numpy()
        return Proposal(
            pick,
            float(self.candidates.x_m[pick]),
            float(self.candidates.y_m[pick]),
            s.acquisition if unlike < 0 else "structure",
            float(worth[pick]),
            float(mean_y[pick]),
            float(std_y[pick]),
            beta,
            self._reason(pick, mean_y, std_y, beta, last, unlike >= 0),
            self._alternatives(pick, worth, mean_y, std_y),
        )

    def _next_kind(self, free: npt.NDArray[np.bool_]) -> int:
        """While something is sought (UCB, EI) and no point stands out of the background yet, every
        decision goes to the structure least like any measured one; -1 otherwise, or if none is left.

        Without a find the scalars hold nothing that a kernel could follow; what the topograph shows is
        the only lead left.
        """
        s = self.section
        if s.acquisition not in ("ucb", "ei") or s.kernel == "matern_xy":
            return -1
        values = [p.value for p in self._points.values() if math.isfinite(p.value)]
        background = background_of(values)
        if background.significance(max(values)) >= STANDS_OUT:
            return -1
        members = np.flatnonzero(free & (self.candidates.origin == FEATURE))
        return most_unlike(self._structure.scores, members, np.flatnonzero(~free))

    def _alternatives(
        self,
        pick: int,
        worth: npt.NDArray[np.float64],
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
    ) -> tuple[Alternative, ...]:
        """The best others that are not neighbours of one already named."""
        x, y = self.candidates.x_m, self.candidates.y_m
        open_ = np.isfinite(worth)
        named = [pick]
        out: list[Alternative] = []
        while len(out) < _ALTERNATIVES:
            open_ &= np.hypot(x - x[named[-1]], y - y[named[-1]]) > 2.0 * self._structure.spacing_m
            if not open_.any():
                break
            i = int(np.argmax(np.where(open_, worth, -np.inf)))
            named.append(i)
            out.append(
                Alternative(
                    x_m=float(x[i]),
                    y_m=float(y[i]),
                    acquisition=float(worth[i]),
                    mean=float(mean[i]),
                    std=float(std[i]),
                )
            )
        return tuple(out)

    def _reason(
        self,
        pick: int,
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
        beta: float,
        last: tuple[float, float] | None,
        unlike: bool,
    ) -> str:
        best = self.best
        expected = f"{mean[pick]:.3g} +- {std[pick]:.2g} expected"
        rank = float((std <= std[pick]).mean())
        match self.section.acquisition:
            case "ucb":
                why = f"mean + {math.sqrt(beta):.2g} sigma is largest here"
                exploring = math.sqrt(beta) * std[pick] > abs(mean[pick] - float(np.median(mean)))
                why += " (exploring)" if exploring else " (following high values)"
            case "ei":
                why = f"the best so far ({best[3]:.3g}) is most likely to be exceeded here" if best else ""
            case "covariance":
                why = "a spectrum here lowers the uncertainty of the whole map most"
            case "sig":
                why = "a spectrum here gives most information"
            case _:
                why = "least is known here"
        if unlike:
            why = (
                "nothing stands out of the background yet, and this structure is least like any measured one"
            )
        where = ""
        if self.candidates.origin[pick] == FEATURE:
            where = f"; on a structure that stands out by {self.candidates.strength[pick]:.0f} sigma"
        hop = ""
        if last is not None:
            d = math.hypot(self.candidates.x_m[pick] - last[0], self.candidates.y_m[pick] - last[1])
            hop = f"; {d * 1e9:.3g} nm from the last point"
        note = f" Note: {self._model.note}." if self._model.note else ""
        return (
            f"{why[0].upper()}{why[1:]}: {expected} from {KERNEL_NAMES[self.section.kernel]}, "
            f"uncertainty above {100 * rank:.0f} % of all candidates{where}{hop}.{note}"
        )

    # ---- answers ----

    def predicted(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean, standard deviation) at every candidate, shape (n,), in the scalar's unit, from all that
        is observed with the model as last fitted.  Before the first fit: the observed mean (0 without
        data) and an infinite deviation."""
        n = len(self.candidates)
        data = self._data()
        with single_thread():
            posterior = self._model.posterior(data) if data is not None else None
            if data is None or posterior is None:
                values = [p.value for p in self._points.values() if math.isfinite(p.value)]
                return np.full(n, float(np.mean(values)) if values else 0.0), np.full(n, np.inf)
            mean, variance = posterior.predict(self._structure.inputs)
        return (
            data.standard.centre + data.standard.scale * mean.numpy(),
            data.standard.scale * variance.sqrt().numpy(),
        )

    @property
    def uncertainty(self) -> float:
        """Mean predicted standard deviation over the prior's, as of the last decision; infinite before
        the first fit."""
        return self._history[-1] if self._history else math.inf

    def fit(self) -> None:
        """Fit the model to all that is observed without proposing anything (with fewer than three
        values: nothing)."""
        data = self._data()
        if data is not None:
            with single_thread():
                self._model.update(data)

    def stop_reason(self, index: int) -> str:
        """Why no further spectrum is needed in this window, or "" to go on; ``index`` counts decisions
        made so far."""
        s = self.section
        if index >= s.points:
            return f"all {s.points} spectra of this window are taken"
        settled = len(self._history) == _SETTLED and max(self._history) < s.stop_uncertainty
        if settled and index > s.seed_points:
            return (
                f"the map is known: mean uncertainty {self.uncertainty:.2f} of the prior's, below "
                f"{s.stop_uncertainty:g} in {_SETTLED} decisions running"
            )
        if not self._free([]).any():
            return "every candidate is measured"
        return ""

    def explain(self) -> dict[str, float | str]:
        """The model in words and numbers: lengths, noise, how well each point is predicted from the
        others."""
        out: dict[str, float | str] = {"kernel": self.section.kernel, "points": float(self.observed)}
        if self._model.note:
            out["note"] = self._model.note
        data, fit = self._data(), self._model.fit_state
        if data is None or fit is None:
            return out
        out.update(self._model.kernel.describe(fit.parameters))
        out["log evidence per point"] = -fit.loss
        out["mean uncertainty over prior"] = self.uncertainty
        with single_thread():
            posterior = self._model.posterior(data)
            if posterior is not None:
                loo = posterior.leave_one_out()
                a, b = loo.mean.numpy(), data.y.numpy()
                if a.std() > 0 and b.std() > 0:
                    out["leave-one-out correlation"] = float(np.corrcoef(a, b)[0, 1])
        return out

    # ---- state ----

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """The model as named arrays (the data are not in it: they are a query of the journal)."""
        return {**self._model.state(), "uncertainty": np.array(self._history)}

    def restore(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from :meth:`state`.

        Raises:
            UsageError: the arrays are not a planner's state, or belong to another kernel or patch size.
        """
        try:
            self._model.restore(dict(arrays))
            self._history = [float(u) for u in np.asarray(arrays["uncertainty"], dtype=float)]
        except KeyError as error:
            raise UsageError(f"these arrays are no planner's state: {error} is missing") from error
        with single_thread():
            self._check_restored()

    def _check_restored(self) -> None:
        fit = self._model.fit_state
        if fit is None:
            return
        first: Inputs = self._structure.inputs.take(torch.zeros(1, dtype=torch.long))
        try:
            self._model.kernel.embed(fit.parameters, first)
        except (KeyError, RuntimeError) as error:
            raise UsageError(
                f"the model's state does not fit kernel {self.section.kernel!r} and these patches: {error}"
            ) from error


def _with_seconds(proposal: Proposal, seconds: float) -> Proposal:
    return Proposal(**{**vars(proposal), "seconds": seconds})
