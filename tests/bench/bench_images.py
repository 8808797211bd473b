"""Labelled images of data sets: 64 x 64 pixels, full controller, noise and distortions, in images per second.

    python -m tests.bench images

Four ways to the same images: the plain loop of the formulas (a sum over all pairs of atoms at every tick of
the controller; some ticks of a line, extrapolated to a whole image), the compiled kernels on one core and,
by Ray tasks, on two, and PyTorch on one thread of the processor (or a GPU where there is one).  Compiling
and starting are left out: a data set of 100,000 images takes a minute or two of that once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim_hardware.dataset.image import Way, lanes_of, rng_of, simulate, way_of
from sim_hardware.dataset.plain import plain_lane
from sim_hardware.dataset.plan import ImageRecipe, Spec, plan
from sim_hardware.dataset.scenes import current_map
from sim_hardware.dataset.shards import ShardJob, shards_of
from sim_hardware.dataset.tasks import make_shards
from sim_hardware.dataset.torch_images import simulate_batch
from sim_hardware.dataset.torch_maps import device
from tests.bench.figures import Figure, Findings

WHOLE = 100_000
ASKED_PER_S = WHOLE / 3600.0
COMPILED, TORCH, SHARD, SHARDS, WORKERS = 200, 32, 128, 8, 2
PLAIN_PLACES = 4


def plain_per_s(spec: Spec, recipes: list[ImageRecipe]) -> float:
    """The plain loop, from a few places of one line of each image."""
    seconds = 0.0
    for recipe in recipes:
        way, z_m = _start(spec, recipe)
        began = time.perf_counter()
        plain_lane(spec, recipe, way, spec.size // 2, PLAIN_PLACES, z_m)
        places = len(way.lanes) * spec.size
        seconds += (time.perf_counter() - began) * places / PLAIN_PLACES
    return len(recipes) / seconds


def _start(spec: Spec, recipe: ImageRecipe) -> tuple[Way, float]:
    """The tip's way, and its height at the beginning of the middle line."""
    rng = rng_of(spec, recipe)
    way = way_of(spec, recipe, rng)
    lanes = lanes_of(spec, recipe, way, current_map(spec, recipe, way.grid), rng)
    return way, float(lanes.path[0, 0, spec.size // 2]) * 1e-9


def compiled_per_s(spec: Spec, recipes: list[ImageRecipe]) -> float:
    """One core."""
    simulate(spec, recipes[0])
    began = time.perf_counter()
    for recipe in recipes:
        simulate(spec, recipe)
    return len(recipes) / (time.perf_counter() - began)


def ray_per_s(spec: Spec) -> float:
    """Two processes, with writing: from the moment when each has delivered its first shard."""
    with tempfile.TemporaryDirectory() as folder:
        shards = shards_of(plan(spec), SHARD)[:SHARDS]
        jobs = [ShardJob(spec, shard, str(Path(folder))) for shard in shards]
        ready = [
            (time.perf_counter(), result.images) for result in make_shards(jobs, WORKERS, lambda _: None)
        ]
    after = ready[WORKERS:]
    return sum(images for _, images in after) / (after[-1][0] - ready[WORKERS - 1][0])


def torch_per_s(spec: Spec, recipes: list[ImageRecipe]) -> float:
    """One batch."""
    torch.set_num_threads(1)
    simulate_batch(spec, recipes[:1])
    began = time.perf_counter()
    simulate_batch(spec, recipes)
    return len(recipes) / (time.perf_counter() - began)


def findings(sample: str = "ws2") -> Findings:
    """All four."""
    spec = Spec(sample, WHOLE, seed=1)
    whole = plan(spec)
    chosen = np.random.default_rng(0).permutation(WHOLE)
    recipes = [whole.recipe(int(n)) for n in chosen[:COMPILED]]
    plain = plain_per_s(spec, recipes[:3])
    raw: dict[str, Any] = {
        "sample": sample,
        "plain_per_s": plain,
        "compiled_per_s": compiled_per_s(spec, recipes),
        "ray_two_cores_per_s": ray_per_s(spec),
        "torch_per_s": torch_per_s(spec, recipes[:TORCH]),
        "torch_device": str(device()),
    }
    two = raw["ray_two_cores_per_s"]
    hour = f"100,000 in {WHOLE / two / 60.0:.0f} min"
    beside = f"plain loop: {plain:.2g} images/s"
    figures = [
        Figure("images", "plain loop of the formulas, one core (extrapolated)", plain, "images/s"),
        Figure(
            "images",
            "compiled, one core",
            raw["compiled_per_s"],
            "images/s",
            f"{beside}, {raw['compiled_per_s'] / plain:.3g} times as fast",
        ),
        Figure(
            "images",
            "compiled, two cores by Ray, shards written",
            two,
            "images/s",
            f"{beside}; {hour}",
            f"{ASKED_PER_S:.0f} images/s: 100,000 in an hour",
            two >= ASKED_PER_S,
        ),
        Figure("images", f"PyTorch, {raw['torch_device']}", raw["torch_per_s"], "images/s", beside),
    ]
    return Findings(figures, raw)
