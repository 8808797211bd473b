"""Where the first spectra go, before there is a model: spread over the surface and over the kinds of
structure seen on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from actors.analysis.patches import FEATURE, INHERITED, Candidates

_NEAR_M = 5e-9
_NEAR_COUNT = 3
"""So many structures within this distance of a handed-down place come right after it: drift and creep
between two frames may have moved it by a nanometre or two."""


def space_filling(
    position: npt.NDArray[np.float64], count: int, seed: int, taken: tuple[int, ...] = ()
) -> list[int]:
    """Indices of ``count`` candidates along a scrambled Sobol sequence over their bounding box, none
    twice."""
    low, high = position.min(axis=0), position.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    free = np.ones(len(position), dtype=bool)
    free[list(taken)] = False
    count = min(count, int(free.sum()))
    if count == 0:
        return []
    exponent = max(1, int(np.ceil(np.log2(count))))
    points = qmc.Sobol(2, scramble=True, rng=np.random.default_rng((seed, 2))).random_base2(exponent)[:count]
    chosen = []
    for point in low + span * points:
        distance = np.where(free, ((position - point) ** 2).sum(axis=1), np.inf)
        index = int(np.argmin(distance))
        free[index] = False
        chosen.append(index)
    return chosen


def farthest_first(
    scores: npt.NDArray[np.float64], members: npt.NDArray[np.intp], count: int, start: int
) -> list[int]:
    """Indices (of ``members``) such that each is as unlike all before it as possible; ``start`` itself is
    not among them.

    Greedy k-centre: after k of them every structure has a measured one that looks like it, as closely as
    k allow.
    """
    gap = np.linalg.norm(scores[members] - scores[start], axis=1)
    chosen = []
    for _ in range(min(count, members.size)):
        pick = int(np.argmax(gap))
        if gap[pick] <= 0.0:
            break
        chosen.append(int(members[pick]))
        gap = np.minimum(gap, np.linalg.norm(scores[members] - scores[members[pick]], axis=1))
    return chosen


def most_unlike(
    scores: npt.NDArray[np.float64], members: npt.NDArray[np.intp], known: npt.NDArray[np.intp]
) -> int:
    """The member that is least like any of the ``known`` ones; -1 without members."""
    if members.size == 0:
        return -1
    if known.size == 0:
        return int(members[0])
    gap = np.full(members.size, np.inf)
    for k in known:
        gap = np.minimum(gap, ((scores[members] - scores[k]) ** 2).sum(axis=1))
    return int(members[np.argmax(gap)])


def _around(candidates: Candidates, places: list[int]) -> list[int]:
    """Structures close to the places, nearest first."""
    structures = np.flatnonzero(candidates.origin == FEATURE)
    out: list[int] = []
    for i in places:
        distance = np.hypot(
            candidates.x_m[structures] - candidates.x_m[i], candidates.y_m[structures] - candidates.y_m[i]
        )
        order = np.argsort(distance, kind="stable")[:_NEAR_COUNT]
        out += [int(structures[k]) for k in order if distance[k] <= _NEAR_M]
    return list(dict.fromkeys(out))


def seed_sequence(
    candidates: Candidates,
    position: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    count: int,
    seed: int,
    by_structure: bool,
) -> list[int]:
    """The seeds in order.

    Handed-down places and the structures next to them first (does what led here hold?).  Then, without
    ``by_structure``, a space-filling sequence.  With it, one plain place, then the kinds of structure by
    :func:`farthest_first`, every fourth seed space-filling; where nothing stands out, space-filling and
    unlike patches in turn.
    """
    inherited = [int(i) for i in np.flatnonzero(candidates.origin == INHERITED)]
    inherited += [i for i in _around(candidates, inherited) if i not in inherited]
    if not by_structure:
        return (inherited + space_filling(position, count, seed, tuple(inherited)))[:count]
    # The plainest place (nearest to the median patch) is the reference from which structures differ.
    plain = int(np.argmin(((scores - np.median(scores, axis=0)) ** 2).sum(axis=1)))
    structures = np.flatnonzero(candidates.origin == FEATURE)
    if structures.size:
        unlike = farthest_first(scores, structures, count, plain)
        share = 4
    else:
        unlike = farthest_first(scores, np.arange(len(candidates)), count, plain)
        share = 2
    spread = iter(space_filling(position, count, seed))
    kinds = iter(unlike)
    sequence = [*inherited, plain]
    while len(sequence) < count:
        source, other = (spread, kinds) if len(sequence) % share == share - 1 else (kinds, spread)
        pick = next(source, None)
        if pick is None:
            pick = next(other, None)
        if pick is None:
            break
        if pick not in sequence:
            sequence.append(pick)
    return sequence[:count]
