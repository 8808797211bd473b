"""Shards: a few hundred images in one .npz file that ``numpy.load`` opens, the same bytes whenever they are
made.

Arrays of a shard of n images of s x s pixels (SI units; [row, column], row 0 at the frame's lower edge):

- ``z_m`` (n, 2, s, s) float32: topograph, forward and backward; ``current`` (n, 2, s, s) float16: |I| over
  the setpoint;
- ``ideal_z_m`` (n, s, s) float32: the same frame without distortions, noise and errors of the controller;
- ``defect_map`` (n, classes, s, s) uint8: 255 on a defect, falling as a Gaussian, as the forward image shows
  it;
- ``defect_image``, ``defect_class``, ``defect_row``, ``defect_column``, ``defect_x_m``, ``defect_y_m``: one
  entry for each defect in a frame: which image of the shard, which of ``classes``, where in the forward
  image (pixels) and in the arrangement (m);
- every field of ``plan.ImageRecipe`` by its name (n,), and the tip's by ``tip_*``.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_text import write_whole
from sim_hardware.dataset.image import Image, class_names, simulate
from sim_hardware.dataset.plan import COLUMNS, SPLITS, ImageRecipe, Plan, Spec, plan
from sim_hardware.dataset.scenes import tip_recipe

Arrays = dict[str, npt.NDArray[np.generic]]
COMPRESSED = frozenset({"defect_map"})
"""Nearly empty; the images are noise to a compressor."""
BACKENDS = ("compiled", "torch")
TORCH_BATCH = 64


@dataclass(frozen=True)
class Shard:
    """Images ``first`` to ``last`` - 1 of a data set, in the file ``name`` below its folder."""

    name: str
    first: int
    last: int

    @property
    def images(self) -> int:
        """How many."""
        return self.last - self.first


@dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to make a shard."""

    spec: Spec
    shard: Shard
    folder: str
    backend: str = "compiled"


@dataclass(frozen=True)
class ShardResult:
    """A shard on the disk: its length, checksum (SHA-256), and how long it took."""

    name: str
    images: int
    size_bytes: int
    sha256: str
    seconds: float


@lru_cache(maxsize=2)
def planned(spec: Spec) -> Plan:
    """The plan, made once in each process."""
    return plan(spec)


def shards_of(whole: Plan, images_per_shard: int) -> tuple[Shard, ...]:
    """All shards: none has images of two splits."""
    found = []
    for number, split in enumerate(SPLITS):
        images = whole.images(number)
        for n, first in enumerate(range(images.start, images.stop, images_per_shard)):
            last = min(first + images_per_shard, images.stop)
            found.append(Shard(f"{split}/{n:05d}.npz", first, last))
    return tuple(found)


def make_shard(job: ShardJob, seen: Callable[[int], None] = lambda images: None) -> ShardResult:
    """Simulate and write a shard, whole or not at all; ``seen`` hears how many more images are done.

    Raises:
        StorageError: the file could not be written.
    """
    began = time.perf_counter()
    whole = planned(job.spec)
    recipes = [whole.recipe(n) for n in range(job.shard.first, job.shard.last)]
    arrays = stacked(job.spec, recipes, list(_simulated(job, recipes, seen)))
    data = packed(arrays)
    path = Path(job.folder) / job.shard.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, [data])
    digest = hashlib.sha256(data).hexdigest()
    return ShardResult(job.shard.name, job.shard.images, len(data), digest, time.perf_counter() - began)


def _simulated(job: ShardJob, recipes: Sequence[ImageRecipe], seen: Callable[[int], None]) -> Iterable[Image]:
    if job.backend == "compiled":
        for recipe in recipes:
            yield simulate(job.spec, recipe)
            seen(1)
        return
    from sim_hardware.dataset.torch_images import simulate_batch

    for start in range(0, len(recipes), TORCH_BATCH):
        batch = recipes[start : start + TORCH_BATCH]
        yield from simulate_batch(job.spec, batch)
        seen(len(batch))


def stacked(spec: Spec, recipes: Sequence[ImageRecipe], images: Sequence[Image]) -> Arrays:
    """The arrays of the module's text."""
    counts = [len(image.classes) for image in images]
    arrays: Arrays = {
        "z_m": np.stack([image.z_m for image in images]),
        "current": np.stack([image.current for image in images]).astype(np.float16),
        "ideal_z_m": np.stack([image.ideal_m for image in images]),
        "defect_map": np.stack([np.rint(255.0 * image.maps).astype(np.uint8) for image in images]),
        "defect_image": np.repeat(np.arange(len(images), dtype=np.int32), counts),
        "defect_class": np.concatenate([image.classes for image in images]).astype(np.uint8),
        "defect_row": np.concatenate([image.row for image in images]),
        "defect_column": np.concatenate([image.column for image in images]),
        "defect_x_m": np.concatenate([image.x_m for image in images]),
        "defect_y_m": np.concatenate([image.y_m for image in images]),
        "classes": np.array(class_names(spec.sample)),
    }
    arrays |= {name: np.array([getattr(recipe, name) for recipe in recipes]) for name in COLUMNS}
    return arrays | _tips(spec, recipes)


def _tips(spec: Spec, recipes: Sequence[ImageRecipe]) -> Arrays:
    """What is known of the tips; three NaN where one has no resonance or no second apex."""
    tips = [tip_recipe(spec, recipe.tip) for recipe in recipes]
    none = (np.nan, np.nan, np.nan)
    return {
        "tip_orientation": np.array([t.orientation for t in tips]),
        "tip_dull_layers": np.array([t.dull_layers for t in tips]),
        "tip_worn_share": np.array([t.worn_share for t in tips]),
        "tip_angle_rad": np.array([t.angle_rad for t in tips]),
        "tip_slope_per_v": np.array([t.slope_per_v for t in tips]),
        "tip_resonance": np.array([t.resonance or none for t in tips]),
        "tip_second_m": np.array([t.second or none for t in tips]),
        "tip_seed": np.array([t.seed for t in tips]),
    }


def packed(arrays: Arrays) -> bytes:
    """An .npz file without dates and without anything else that changes from time to time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED if name in COMPRESSED else zipfile.ZIP_STORED
            piece = io.BytesIO()
            np.lib.format.write_array(piece, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, piece.getvalue(), compresslevel=1)
    return buffer.getvalue()
