"""Atoms of a crystal's surface on demand: a periodic lattice in closed form, with defects in some of its
cells.

Nothing is stored but the defects: the atoms of any rectangle are made when somebody looks there, in tiles
that are kept for a while, so that a frame costs what lies under the tip.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_hardware.physics.atomic_kernels import Scene
from sim_hardware.physics.ldos_tables import AS_BULK, NOT_THERE, LdosTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TILE_M = 4e-9
CELLS = 6
CELL_M = TILE_M / CELLS
TILES_KEPT = 8192
"""32 bytes an atom and 370 atoms a tile: some 100 MB at most."""


@dataclass(frozen=True)
class Crystal:
    """The perfect surface.

    ``vectors_m`` (2, 2): rows are the lattice vectors; ``basis_m`` (atoms, 3): visible atoms of a cell, z
    from the uppermost; ``origin_m``: of cell (0, 0).
    """

    vectors_m: Floats
    basis_m: Floats
    origin_m: tuple[float, float]

    def place(self, n1: int, n2: int, atom: int) -> tuple[float, float]:
        """x and y (m) of an atom."""
        x, y = n1 * self.vectors_m[0] + n2 * self.vectors_m[1] + self.basis_m[atom, :2]
        return float(x) + self.origin_m[0], float(y) + self.origin_m[1]

    def cell_at(self, x_m: float, y_m: float, atom: int) -> tuple[int, int]:
        """The cell whose ``atom`` is next to a place."""
        apart = np.array([x_m, y_m]) - np.array(self.origin_m) - self.basis_m[atom, :2]
        n1, n2 = np.round(apart @ np.linalg.inv(self.vectors_m))
        return int(n1), int(n2)


@dataclass(frozen=True)
class Site:
    """A defect: the lookup of its name in the table, and its cell."""

    lookup: str
    n1: int
    n2: int


class AtomField:
    """The atoms of a crystal with defects.

    ``top_m``: height of the uppermost atoms where ``relief`` (m, of x and y arrays) is zero; ``lifts_m``
    (kinds,) is how much an atom of a kind stands out.
    """

    def __init__(
        self,
        crystal: Crystal,
        table: LdosTable,
        sites: tuple[Site, ...],
        relief: Callable[[Floats, Floats], Floats],
        top_m: float,
        lifts_m: Floats,
    ) -> None:
        self.crystal = crystal
        self.table = table
        self.sites = sites
        self._relief = relief
        self._top_m = top_m
        self._lifts = lifts_m
        self._inverse = np.linalg.inv(crystal.vectors_m)
        self._cells = np.array([[s.n1, s.n2] for s in sites], dtype=np.int64).reshape(-1, 2)
        self._reach = max((lookup.shape[1] // 2 for lookup in table.lookups.values()), default=0)
        self._tiles: OrderedDict[tuple[int, int], tuple[Floats, Ints, Ints]] = OrderedDict()
        self._scene: tuple[frozenset[tuple[int, int]], Scene] | None = None

    def surface(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) of the uppermost atoms at places (n,)."""
        return np.asarray(self._top_m + self._relief(x_m, y_m))

    def atoms(self, low: tuple[float, float], high: tuple[float, float]) -> tuple[Floats, Ints]:
        """Positions (n, 3) in m and kinds (n,) in the half-open rectangle from ``low`` to ``high`` (x, y in
        m)."""
        origin = np.array(self.crystal.origin_m)
        corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])]) - origin
        inside = corners @ self._inverse
        first, last = (
            np.floor(inside.min(axis=0)).astype(int) - 2,
            np.ceil(inside.max(axis=0)).astype(int) + 2,
        )
        n1, n2 = np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]), indexing="ij")
        cells = np.stack([n1.ravel(), n2.ravel()], axis=1)
        places, kinds = [], []
        for atom, (bx, by, bz) in enumerate(self.crystal.basis_m):
            across = cells @ self.crystal.vectors_m + origin + np.array([bx, by])
            within = np.all((across >= np.array(low)) & (across < np.array(high)), axis=1)
            kind = self._kinds(atom, cells[within], first, last)
            there = kind != NOT_THERE
            place = np.empty((int(there.sum()), 3))
            place[:, :2] = across[within][there]
            place[:, 2] = bz
            places.append(place)
            kinds.append(kind[there])
        found, kind = np.concatenate(places), np.concatenate(kinds)
        found[:, 2] += self.surface(found[:, 0], found[:, 1]) + self._lifts[kind]
        return found, kind

    def _kinds(self, atom: int, cells: Ints, first: Ints, last: Ints) -> Ints:
        """Kinds of an atom of the basis in some cells, all between ``first`` and ``last``."""
        kind = np.full(len(cells), self.table.bulk[atom], dtype=np.int64)
        if not len(self._cells):
            return kind
        near = np.all((self._cells >= first - self._reach) & (self._cells <= last + self._reach), axis=1)
        for n in np.nonzero(near)[0]:
            lookup = self.table.lookups[self.sites[n].lookup][atom]
            reach = lookup.shape[0] // 2
            apart = cells - self._cells[n] + reach
            mine = np.all((apart >= 0) & (apart <= 2 * reach), axis=1)
            own = lookup[apart[mine, 0], apart[mine, 1]].astype(np.int64)
            kind[mine] = np.where(own == AS_BULK, kind[mine], own)
        return kind

    def _tile(self, column: int, row: int) -> tuple[Floats, Ints, Ints]:
        """Positions and kinds of a tile sorted by cell, and where each cell starts (cells^2 + 1,)."""
        key = (column, row)
        found = self._tiles.get(key)
        if found is None:
            low = np.array([column, row]) * TILE_M
            places, kinds = self.atoms((low[0], low[1]), ((column + 1) * TILE_M, (row + 1) * TILE_M))
            inner = np.clip(((places[:, :2] - low) / CELL_M).astype(np.int64), 0, CELLS - 1)
            cell = inner[:, 1] * CELLS + inner[:, 0]
            order = np.argsort(cell, kind="stable")
            starts = np.searchsorted(cell[order], np.arange(CELLS * CELLS + 1))
            found = self._tiles[key] = (places[order], kinds[order], starts)
            while len(self._tiles) > TILES_KEPT:
                self._tiles.popitem(last=False)
        return found

    def scene(self, x_m: Floats, y_m: Floats, margin_m: float) -> Scene:
        """The atoms within ``margin_m`` of places (n,); the last scene is kept if it has them all."""
        needed: set[tuple[int, int]] = set()
        for dx in (-margin_m, 0.0, margin_m):
            for dy in (-margin_m, 0.0, margin_m):
                columns = np.floor((x_m + dx) / TILE_M).astype(np.int64)
                rows = np.floor((y_m + dy) / TILE_M).astype(np.int64)
                needed.update(zip(columns.tolist(), rows.tolist(), strict=True))
        if margin_m > TILE_M:
            needed = _filled(needed, int(np.ceil(margin_m / TILE_M)))
        if self._scene is None or not needed <= self._scene[0]:
            self._scene = (frozenset(needed), self._assembled(sorted(needed)))
        return self._scene[1]

    def _assembled(self, keys: list[tuple[int, int]]) -> Scene:
        columns, rows = np.array(keys).T
        tiles = np.full((rows.max() - rows.min() + 1, columns.max() - columns.min() + 1), -1, dtype=np.int64)
        tiles[rows - rows.min(), columns - columns.min()] = np.arange(len(keys))
        parts = [self._tile(*key) for key in keys]
        counts = np.cumsum([0] + [len(kinds) for _, kinds, _ in parts])
        places = np.concatenate([p for p, _, _ in parts])
        return Scene(
            x=np.ascontiguousarray(places[:, 0]),
            y=np.ascontiguousarray(places[:, 1]),
            z=np.ascontiguousarray(places[:, 2]),
            kind=np.concatenate([k for _, k, _ in parts]),
            starts=np.stack([s + c for (_, _, s), c in zip(parts, counts, strict=False)]),
            tiles=tiles,
            low_x=float(columns.min() * TILE_M),
            low_y=float(rows.min() * TILE_M),
            cell_m=CELL_M,
            cells=CELLS,
        )


def _filled(tiles: set[tuple[int, int]], around: int) -> set[tuple[int, int]]:
    """These tiles and those up to ``around`` beside them."""
    steps = range(-around, around + 1)
    return {(c + i, r + j) for c, r in tiles for i in steps for j in steps}
