"""The manifest of a data set: what it is, and which of its shards are finished, with their checksums.

``manifest.json`` is written anew, whole or not at all, after every shard.  Where a run was killed between a
shard and the manifest, the shard is found and taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protocols.errors import ConfigError, DataFormatError
from protocols.files.nanonis_text import write_whole
from sim_hardware.dataset.arrangements import ATOMISTIC
from sim_hardware.dataset.image import class_names
from sim_hardware.dataset.plan import SPLITS, Plan
from sim_hardware.dataset.shards import Shard, ShardResult
from sim_hardware.physics.ldos_tables import FOLDER

SCHEMA = "tunnelpilot/dataset/1"
NAME = "manifest.json"
VERSION = 1
"""Of the simulation; one more with every change of what it makes of a plan."""


@dataclass
class Manifest:
    """``identity`` is all that determines the bytes; ``shards``: name -> images, bytes and checksum."""

    folder: Path
    identity: dict[str, Any]
    about: dict[str, Any]
    total: int
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images in finished shards."""
        return sum(int(entry["images"]) for entry in self.shards.values())

    def add(self, result: ShardResult) -> None:
        """A shard is finished."""
        self.shards[result.name] = {
            "images": result.images,
            "bytes": result.size_bytes,
            "sha256": result.sha256,
        }
        self.write()

    def write(self) -> None:
        """Put it on the disk."""
        body = {
            "schema": SCHEMA,
            "identity": self.identity,
            **self.about,
            "complete": len(self.shards) == self.total,
            "shards": dict(sorted(self.shards.items())),
        }
        write_whole(self.folder / NAME, [json.dumps(body, indent=1).encode()])


def opened(
    folder: Path, whole: Plan, images_per_shard: int, backend: str, shards: Sequence[Shard]
) -> Manifest:
    """The manifest of a folder: a new one, or that of the same data set begun before.

    Raises:
        ConfigError: the folder holds something else, or another data set.
        DataFormatError: the manifest there cannot be read.
    """
    manifest = Manifest(folder, _identity(whole, images_per_shard, backend), _about(whole), len(shards))
    path = folder / NAME
    if not path.exists():
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty and holds no data set.", "Name a new folder with --out."
            )
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write()
        return manifest
    found = read(path)
    wrong = [k for k, v in manifest.identity.items() if found["identity"].get(k) != v]
    if wrong:
        said = ", ".join(f"{k} {found['identity'].get(k)!r} and not {manifest.identity[k]!r}" for k in wrong)
        raise ConfigError(
            f"{folder} holds another data set: {said}.",
            "Give the same options to go on with it, or name a new folder with --out.",
        )
    names = {shard.name for shard in shards}
    manifest.shards = {name: entry for name, entry in found["shards"].items() if name in names}
    return manifest


def read(path: Path) -> dict[str, Any]:
    """A manifest as it stands.

    Raises:
        DataFormatError: it is damaged, or of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataFormatError(f"{path} cannot be read: {problem}.") from problem
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise DataFormatError(f"{path} is no manifest of version {SCHEMA}.")
    return found


def finished(manifest: Manifest, shards: Sequence[Shard]) -> tuple[list[Shard], list[str]]:
    """Which shards have to be made, and the names of those among them that are damaged.

    A finished shard's file is compared with its checksum; a file that the manifest does not know yet is
    taken if it holds the right images whole.
    """
    missing, damaged = [], []
    for shard in shards:
        path = manifest.folder / shard.name
        entry = manifest.shards.get(shard.name)
        if not path.exists():
            manifest.shards.pop(shard.name, None)
            missing.append(shard)
        elif entry is not None and _checksum(path) != entry["sha256"]:
            manifest.shards.pop(shard.name)
            damaged.append(shard.name)
            missing.append(shard)
        elif entry is None:
            if _holds(path, shard):
                size = path.stat().st_size
                manifest.add(ShardResult(shard.name, shard.images, size, _checksum(path), 0.0))
            else:
                missing.append(shard)
    return missing, damaged


def remove_remains(folder: Path) -> None:
    """Delete what a killed run left half written."""
    for split in SPLITS:
        for path in (folder / split).glob(".*.part"):
            path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, shard: Shard) -> bool:
    """Whether a file has the images of a shard; all of it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
        with np.load(path) as arrays:
            return whole and np.array_equal(arrays["index"], np.arange(shard.first, shard.last))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _identity(whole: Plan, images_per_shard: int, backend: str) -> dict[str, Any]:
    spec = whole.spec
    tables = _checksum(FOLDER / f"{spec.sample}.npz") if spec.sample in ATOMISTIC else ""
    return {
        **asdict(spec),
        "version": VERSION,
        "images_per_shard": images_per_shard,
        "backend": backend,
        "plan": whole.fingerprint,
        "densities_of_states": tables,
    }


def _about(whole: Plan) -> dict[str, Any]:
    return {
        "classes": list(class_names(whole.spec.sample)),
        "splits": {
            name: {
                "images": len(whole.images(n)),
                "arrangements": whole.arrangements[n],
                "tips": whole.tips[n],
            }
            for n, name in enumerate(SPLITS)
        },
    }
