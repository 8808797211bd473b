"""``current_map`` in PyTorch: the same sums in double blocks of nodes and pairs, on the GPU where there is
one.

As the compiled kernel: nodes in blocks, for each block the virtual atoms P = r_i - t_j that count there,
Newton's method on ln |I|, expansion to third order about the setpoint's height.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sim_hardware.dataset.current_map import BLOCK, CUT, LOWEST_NM, CurrentMap, Grid, PairTable

_COARSE_STEPS = 5
_FINE_STEPS = 2
_MARGIN_NM = 0.06
_LARGEST_STEP_NM = 0.2
_PAIRS_AT_ONCE = {"cpu": 100_000, "cuda": 8_000_000}
"""Distances held at a time: what stays in a core's cache, or fills a GPU."""


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_of_pairs(pairs: PairTable, grid: Grid, on: torch.device) -> CurrentMap:
    """As ``current_map.map_of_pairs``, within a part in a thousand of the current."""
    atoms = torch.from_numpy(pairs.atoms).to(on)
    tip = torch.from_numpy(pairs.tip).to(on)
    virtual = (atoms[:, :, None] - tip[:, None, :]).reshape(3, -1)
    weight = torch.from_numpy(pairs.weights).to(on).reshape(-1)
    top, decay = float(pairs.atoms[2].max()), pairs.decay
    floor = top + LOWEST_NM
    u, v, shape = _blocks(grid, on)
    middle = torch.stack([u.mean(dim=1), v.mean(dim=1)])[:, :, None]
    height = torch.full((u.shape[0], 1), floor + 0.5, device=on)
    alone = max(1, _PAIRS_AT_ONCE[on.type] // virtual.shape[1])
    for start in range(0, u.shape[0], alone):
        part = slice(start, start + alone)
        for _ in range(_COARSE_STEPS):
            at = middle[0, part], middle[1, part], height[part]
            level, slope, _, _ = _expansion(*at, virtual[:, None], weight[None], decay)
            height[part] = _stepped(height[part], level / slope, floor)
    lowest = torch.clamp(height[:, 0] - _MARGIN_NM, min=floor)
    chosen, valid = _near(u, v, lowest, top, virtual, decay)
    out = torch.empty((u.shape[0], u.shape[1], 4), device=on)
    at_once = max(1, _PAIRS_AT_ONCE[on.type] // (u.shape[1] * chosen.shape[1]))
    for start in range(0, u.shape[0], at_once):
        part = slice(start, start + at_once)
        listed = virtual[:, chosen[part]]
        own = torch.where(valid[part], weight[chosen[part]], torch.zeros((), device=on))
        out[part] = _settled(u[part], v[part], height[part], listed, own, decay, floor)
    return CurrentMap(grid.u0, grid.v0, grid.step, _unblocked(out, shape, grid))


def _blocks(grid: Grid, on: torch.device) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """u and v of the nodes by block: (blocks, nodes of a block) each, and how many blocks along rows and
    columns; the last blocks reach beyond the grid."""
    rows, columns = math.ceil(grid.rows / BLOCK), math.ceil(grid.columns / BLOCK)
    v = grid.v0 + grid.step * torch.arange(rows * BLOCK, device=on, dtype=torch.float32)
    u = grid.u0 + grid.step * torch.arange(columns * BLOCK, device=on, dtype=torch.float32)
    both = torch.stack(torch.meshgrid(v, u, indexing="ij"))
    both = both.reshape(2, rows, BLOCK, columns, BLOCK).permute(0, 1, 3, 2, 4).reshape(2, rows * columns, -1)
    return both[1], both[0], (rows, columns)


def _unblocked(
    values: torch.Tensor, shape: tuple[int, int], grid: Grid
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rows, columns = shape
    whole = values.reshape(rows, columns, BLOCK, BLOCK, 4).permute(0, 2, 1, 3, 4)
    whole = whole.reshape(rows * BLOCK, columns * BLOCK, 4)[: grid.rows, : grid.columns]
    return np.ascontiguousarray(whole.cpu().numpy())


def _near(
    u: torch.Tensor, v: torch.Tensor, lowest: torch.Tensor, top: float, virtual: torch.Tensor, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which virtual atoms count in each block, and which entries of that list are meant: (blocks, listed)
    each."""
    zero = torch.zeros((), device=u.device)
    low_u, high_u, low_v, high_v = (t[:, None] for t in (u.amin(1), u.amax(1), v.amin(1), v.amax(1)))
    du = torch.maximum(torch.maximum(low_u - virtual[0], virtual[0] - high_u), zero)
    dv = torch.maximum(torch.maximum(low_v - virtual[1], virtual[1] - high_v), zero)
    depth = lowest[:, None] - virtual[2]
    far = lowest[:, None] - top + CUT / decay
    excess = du * du + dv * dv + depth * depth - far * far
    most = int((excess < 0.0).sum(dim=1).max())
    near = torch.topk(excess, most, dim=1, largest=False, sorted=False)
    return near.indices, near.values < 0.0


def _expansion(
    u: torch.Tensor,
    v: torch.Tensor,
    z: torch.Tensor,
    virtual: torch.Tensor,
    weight: torch.Tensor,
    decay: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ln |I| and minus its first, plus its second and third derivative by z at places (blocks, nodes).

    ``virtual`` (3, blocks or 1, pairs), ``weight`` (blocks or 1, pairs).
    """
    du, dv, dz = (at[..., None] - virtual[k][:, None, :] for k, at in enumerate((u, v, z)))
    distance = torch.sqrt(du * du + dv * dv + dz * dz)
    share = weight[:, None, :] * torch.exp(decay * (z[..., None] - distance))
    fall = dz / distance
    bent = (1.0 - fall * fall) / distance
    total = share.sum(dim=-1)
    first = (share * fall).sum(dim=-1) / total
    second = (share * (decay * fall * fall - bent)).sum(dim=-1) / total
    third = share * fall * (decay * decay * fall * fall - 3.0 * bent * (decay + 1.0 / distance))
    slope, curved, twisted = decay * first, decay * second, -decay * third.sum(dim=-1) / total
    bend = curved - slope * slope
    twist = twisted + 3.0 * slope * curved - 2.0 * slope**3
    return torch.log(total) - decay * z, slope, bend, twist


def _stepped(z: torch.Tensor, miss: torch.Tensor, floor: float) -> torch.Tensor:
    return torch.clamp(z + torch.clamp(miss, -_LARGEST_STEP_NM, _LARGEST_STEP_NM), min=floor)


def _settled(
    u: torch.Tensor,
    v: torch.Tensor,
    height: torch.Tensor,
    virtual: torch.Tensor,
    weight: torch.Tensor,
    decay: float,
    floor: float,
) -> torch.Tensor:
    """z0, s, c and k at nodes: (blocks, nodes, 4)."""
    z = height.expand(u.shape)
    for step in range(_FINE_STEPS):
        level, slope, bend, twist = _expansion(u, v, z, virtual, weight, decay)
        if step < _FINE_STEPS - 1:
            z = _stepped(z, level / slope, floor)
    away = level / slope
    for _ in range(2):
        value = level - away * (slope - away * (0.5 * bend + twist * away / 6.0))
        away = away + value / (slope - away * (bend + 0.5 * twist * away))
    steep = slope - away * (bend + 0.5 * twist * away)
    return torch.stack([z + away, steep, bend + twist * away, twist], dim=-1)
