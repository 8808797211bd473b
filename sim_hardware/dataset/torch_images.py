"""Images of a data set in batches with PyTorch: current maps and controller on the GPU where there is one.

All lanes of all images of a batch run side by side; those with fewer ticks to a pixel end earlier.  The
noise is that of the compiled loop, number by number, so that the images agree within single precision and
the cut of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sim_hardware.dataset.arrangements import ATOMISTIC
from sim_hardware.dataset.current_map import CurrentMap
from sim_hardware.dataset.image import Image, Way, assembled, lanes_of, loop_constants, rng_of, way_of
from sim_hardware.dataset.loop import Lanes, LaneScan, Singles
from sim_hardware.dataset.plan import ImageRecipe, Spec
from sim_hardware.dataset.scenes import current_map, pair_table
from sim_hardware.dataset.torch_maps import device, map_of_pairs

NOISE_TICKS = 64
"""Ticks for which normal numbers are drawn at a time."""


@dataclass(frozen=True)
class _Batch:
    """Lanes of several images: ``path`` (places, 5, lanes), ``constants`` (constants, lanes), ``ticks``
    (lanes,) per place, ``keys``, ``first`` and ``count`` (lanes,) of the noise's counters, ``mains_lanes``
    (6, lanes), ``image`` (lanes,) and ``mains`` (images, 6, most ticks)."""

    path: torch.Tensor
    constants: torch.Tensor
    ticks: torch.Tensor
    keys: torch.Tensor
    number: torch.Tensor
    count: int
    mains_lanes: torch.Tensor
    mains: torch.Tensor
    image: torch.Tensor


@torch.inference_mode()
def simulate_batch(spec: Spec, recipes: Sequence[ImageRecipe]) -> list[Image]:
    """The images of several recipes."""
    on = device()
    prepared: list[tuple[Way, CurrentMap, Lanes]] = []
    for recipe in recipes:
        rng = rng_of(spec, recipe)
        way = way_of(spec, recipe, rng)
        if spec.sample in ATOMISTIC:
            found = map_of_pairs(pair_table(spec, recipe, way.grid), way.grid, on)
        else:
            found = current_map(spec, recipe, way.grid)
        prepared.append((way, found, lanes_of(spec, recipe, way, found, rng)))
    scans = scan_batch([p[2] for p in prepared], [loop_constants(r) for r in recipes], on)
    return [
        assembled(spec, recipe, way, found, scan)
        for recipe, (way, found, _), scan in zip(recipes, prepared, scans, strict=True)
    ]


@torch.inference_mode()
def scan_batch(lanes: Sequence[Lanes], constants: Sequence[Singles], on: torch.device) -> list[LaneScan]:
    """``loop.scan_lanes`` of several images of one size."""
    batch = _batched(lanes, constants, on)
    z, seen = _scan(batch)
    size = lanes[0].path.shape[2]
    heights, currents = z.cpu().numpy(), seen.cpu().numpy()
    return [
        LaneScan(
            np.ascontiguousarray(heights[:, n * size : (n + 1) * size]),
            np.ascontiguousarray(currents[:, n * size : (n + 1) * size]),
        )
        for n in range(len(lanes))
    ]


def _batched(lanes: Sequence[Lanes], constants: Sequence[Singles], on: torch.device) -> _Batch:
    size = lanes[0].path.shape[2]
    most = max(len(one.mains_ticks) for one in lanes)
    mains = np.zeros((len(lanes), lanes[0].mains_ticks.shape[1], most), dtype=np.float32)
    for n, one in enumerate(lanes):
        mains[n, :, : len(one.mains_ticks)] = one.mains_ticks.T
    image = np.repeat(np.arange(len(lanes)), size)

    def put(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(on)

    return _Batch(
        path=put(np.concatenate([one.path for one in lanes], axis=2)),
        constants=put(np.stack(list(constants), axis=1)[:, image]),
        ticks=put(np.array([one.ticks_per_place for one in lanes])[image]),
        keys=put(np.array([one.key for one in lanes], dtype=np.uint32).view(np.int32)[image]),
        number=put(np.tile(np.arange(size, dtype=np.int32), len(lanes))),
        count=size,
        mains_lanes=put(np.concatenate([one.mains_lanes for one in lanes], axis=1)),
        mains=put(mains),
        image=put(image),
    )


def _scan(batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """z and seen (places, lanes); the names are those of ``loop._scan``."""
    path, places = batch.path, batch.path.shape[0]
    smoothing, rail, proportional, integral_gain, derivative, z_low, z_high, furthest = batch.constants[:8]
    shot, white, logarithmic, trust, largest, least, charge = batch.constants[8:]
    log_error = logarithmic > 0.0
    z = path[0, 0].clone()
    seen = torch.clamp(rail, max=1.0)
    before = torch.where(log_error, torch.log(seen), seen - 1.0)
    integral = z - proportional * before
    voltage_before = torch.zeros_like(z)
    z_out, seen_out = torch.zeros((2, places, z.numel()), device=z.device)
    lane = torch.arange(z.numel(), device=z.device)
    columns = path.permute(0, 2, 1).contiguous()
    total_ticks = int(batch.ticks.max()) * places
    for tick in range(total_ticks):
        if tick % NOISE_TICKS == 0:
            ticks = torch.arange(
                tick, min(tick + NOISE_TICKS, total_ticks), device=z.device, dtype=torch.int32
            )
            normals, voltages = normal_pairs(ticks[:, None] * batch.count + batch.number, batch.keys)
            pick_up = _mains(batch, ticks)
        normal, voltage = normals[tick % NOISE_TICKS], voltages[tick % NOISE_TICKS]
        place = torch.div(torch.full_like(batch.ticks, tick), batch.ticks, rounding_mode="floor")
        running = place < places
        share = (tick - place * batch.ticks + 1).to(torch.float32) / batch.ticks
        place = torch.clamp(place, max=places - 1)
        here, there = columns[place, lane], columns[torch.clamp(place - 1, min=0), lane]
        old, new = _exponent(z, there, trust), _exponent(z, here, trust)
        current = torch.exp(torch.minimum(old + share * (new - old), largest))
        flicker = there[:, 4] + share * (here[:, 4] - there[:, 4])
        noise = torch.sqrt(shot * current + white) * normal + charge * (voltage - voltage_before)
        voltage_before = voltage
        current = torch.abs(current + noise + pick_up[tick % NOISE_TICKS] + flicker * current)
        shown = seen + smoothing * (torch.minimum(current, rail) - seen)
        error = torch.where(log_error, torch.log(torch.maximum(shown, least)), shown - 1.0)
        total = torch.minimum(torch.maximum(integral + integral_gain * error, z_low), z_high)
        wanted = total + proportional * error + derivative * (error - before)
        wanted = torch.minimum(torch.maximum(wanted, z_low), z_high)
        moved = torch.minimum(torch.maximum(wanted, z - furthest), z + furthest)
        z, seen = torch.where(running, moved, z), torch.where(running, shown, seen)
        integral, before = total, error
        # Later ticks of the same place overwrite; a lane that has ended keeps its last.
        z_out[place, lane], seen_out[place, lane] = z, seen
    return z_out, seen_out


def _exponent(z: torch.Tensor, at: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    s, c, k = at[:, 1], at[:, 2], at[:, 3]
    away = z - at[:, 0]
    near = torch.minimum(torch.maximum(away, -trust), trust)
    value = -s * near + near * near * (0.5 * c + near * k / 6.0)
    return value + (away - near) * (-s + near * (c + 0.5 * near * k))


def _mains(batch: _Batch, ticks: torch.Tensor) -> torch.Tensor:
    """Pick-up at some ticks: (ticks, lanes)."""
    waves = batch.mains[:, :, ticks.long()][batch.image]
    return torch.einsum("lct,cl->tl", waves, batch.mains_lanes)


def _hashed(n: torch.Tensor) -> torch.Tensor:
    """``fast_math.hashed`` in int32, whose products wrap."""
    n = n ^ ((n >> 16) & 0xFFFF)
    n = n * 0x7FEB352D
    n = n ^ ((n >> 15) & 0x1FFFF)
    n = n * (0x846CA68B - 2**32)
    return n ^ ((n >> 16) & 0xFFFF)


def normal_pairs(counter: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``fast_math.normal_pair`` for counters and keys (int32)."""
    first = _hashed(_hashed(counter ^ key) + key)
    second = _hashed(first + (0x9E3779B9 - 2**32))
    uniform = (((first >> 8) & 0xFFFFFF).to(torch.float32) + 0.5) * 2.0**-24
    radius = torch.sqrt(-2.0 * torch.log(uniform))
    turn = 2.0 * torch.pi * (((second >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 - 0.5)
    return radius * torch.cos(turn), radius * torch.sin(turn)
