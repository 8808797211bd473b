"""``stmctl simulate dataset``: labelled images for training, in shards."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocols.errors import ConfigError

if TYPE_CHECKING:
    from sim_hardware.dataset.manifest import Manifest
    from sim_hardware.dataset.shards import ShardJob

WORDS = """\
Make a data set of labelled STM images of a simulated sample.

Every image has an arrangement of defects, a tip, a controller with its noise, and distortions of its own.
The folder gets train/, validation/ and test/ with shards (.npz, made for numpy.load; the arrays are
described in sim_hardware/dataset/shards.py) and manifest.json with checksums.  Defect arrangements and tips
of one part are never in another.  A run that was ended goes on with the same command; the bytes depend on
sample, count, size and seed alone.
"""
BYTES_PER_PIXEL = 17
"""On the disk, about."""


@click.command("dataset", help=WORDS, context_settings={"show_default": True})
@click.option("--sample", required=True, metavar="NAME", help="ws2, wse2, fese or au111.")
@click.option("--count", required=True, type=click.IntRange(min=1), help="Number of images.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of everything random.")
@click.option("--size", type=int, default=64, help="Pixels along an edge.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes (Ray tasks).  [default: one for each core]"
)
@click.option("--shard-images", type=click.IntRange(1, 10_000), default=256, help="Images in a shard.")
@click.option(
    "--backend",
    type=click.Choice(["compiled", "torch"]),
    default="compiled",
    help="Compiled kernels, or PyTorch, which uses a GPU.",
)
def dataset_command(
    sample: str,
    count: int,
    out: Path,
    seed: int,
    size: int,
    workers: int | None,
    shard_images: int,
    backend: str,
) -> None:
    """Make a data set (the help stands above)."""
    from protocols.files.state_directory import ProcessLock
    from sim_hardware.dataset.manifest import finished, opened, remove_remains
    from sim_hardware.dataset.plan import Spec
    from sim_hardware.dataset.shards import ShardJob, planned, shards_of

    whole = planned(Spec(sample, count, seed, size))
    shards = shards_of(whole, shard_images)
    folder = out.expanduser().absolute()
    lock = ProcessLock(folder, ".lock")
    manifest = opened(folder, whole, shard_images, backend, shards)
    lock.acquire()
    try:
        remove_remains(folder)
        missing, damaged = finished(manifest, shards)
        for name in damaged:
            click.echo(f"{name} does not have the checksum of the manifest: it is made again.", err=True)
        _require_room(folder, sum(shard.images for shard in missing), size)
        jobs = [ShardJob(whole.spec, shard, str(folder), backend) for shard in missing]
        _made(jobs, manifest, count, workers or (os.cpu_count() or 1))
        manifest.write()
    finally:
        lock.release()


def _require_room(folder: Path, images: int, size: int) -> None:
    needed, free = images * size * size * BYTES_PER_PIXEL, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{images} images need {needed / 1e9:.3g} GB, and {folder} has {free / 1e9:.3g} GB left.",
            "Name another folder with --out, or fewer images.",
        )


def _made(jobs: list[ShardJob], manifest: Manifest, count: int, workers: int) -> None:
    """Make shards with a progress bar, and say how fast."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from sim_hardware.dataset.tasks import make_shards

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0.0:.1f} images/s")

    console = Console(stderr=True)
    before = manifest.images
    if before:
        console.print(f"{before} of {count} images are there; going on.", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("images", total=count, completed=before)
        for result in make_shards(jobs, workers, lambda images: progress.advance(bar, images)):
            manifest.add(result)
    elapsed = time.monotonic() - began
    made = manifest.images - before
    if made:
        console.print(f"{made} images in {elapsed:.1f} s: {made / elapsed:.1f} a second.", highlight=False)
    click.echo(str(manifest.folder / "manifest.json"))
