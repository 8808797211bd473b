"""Data sets on the disk: the same bytes from any number of processes, runs that were ended go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from protocols.errors import ConfigError, DataFormatError
from sim_hardware.dataset.command import dataset_command
from sim_hardware.dataset.image import simulate
from sim_hardware.dataset.plan import Spec, plan
from sim_hardware.dataset.shards import COLUMNS

COUNT, PER_SHARD = 20, 6
OPTIONS = ["--sample", "ws2", "--count", str(COUNT), "--shard-images", str(PER_SHARD)]
OPTIONS += ["--size", "16", "--seed", "5"]
COMMAND = "from sim_hardware.dataset.command import dataset_command; dataset_command()"
DEADLINE_S = 100.0


def make(folder: Path, *more: str) -> str:
    """Run the command; what it said."""
    run = CliRunner().invoke(
        dataset_command, [*OPTIONS, "--out", str(folder), "--workers", "1", *more], catch_exceptions=False
    )
    assert run.exit_code == 0, run.output
    return run.output


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All shards."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("*/*.npz"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole data set."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    make(folder)
    return folder


def test_a_data_set_is_whole(made: Path) -> None:
    """All images are there, in three parts; the manifest says complete, with lengths and checksums."""
    manifest = json.loads((made / "manifest.json").read_text())
    shards = bytes_of(made)
    assert manifest["complete"] is True
    assert set(manifest["shards"]) == set(shards)
    assert all(manifest["shards"][name]["bytes"] == len(data) for name, data in shards.items())
    images = {part: manifest["splits"][part]["images"] for part in ("train", "validation", "test")}
    assert sum(images.values()) == COUNT
    assert not list(made.glob("*/.*"))


def test_a_shard_holds_images_labels_and_parameters(made: Path) -> None:
    """``numpy.load`` gives topographs, currents, maps, defects, and every number of the recipes."""
    spec = Spec("ws2", COUNT, 5, 16)
    recipe = plan(spec).recipe(2)
    image = simulate(spec, recipe)
    with np.load(made / "train" / "00000.npz") as shard:
        assert shard["z_m"].shape == (PER_SHARD, 2, 16, 16)
        assert np.array_equal(shard["z_m"][2], image.z_m)
        assert np.allclose(shard["current"][2], image.current, rtol=1e-3, atol=1e-4)
        assert np.array_equal(shard["ideal_z_m"][2], image.ideal_m)
        assert shard["defect_map"].shape == (PER_SHARD, 4, 16, 16)
        assert np.allclose(shard["defect_map"][2] / 255.0, image.maps, rtol=0, atol=0.002)
        mine = shard["defect_image"] == 2
        assert np.array_equal(shard["defect_class"][mine], image.classes)
        assert np.array_equal(shard["defect_row"][mine], image.row)
        assert list(shard["classes"]) == ["vacancy", "lower vacancy", "oxygen", "dopant"]
        assert all(shard[name][2] == getattr(recipe, name) for name in COLUMNS)
        assert shard["tip_orientation"].shape == (PER_SHARD,)
        assert shard["tip_resonance"].shape == (PER_SHARD, 3)


def test_a_run_that_was_ended_goes_on(made: Path, tmp_path: Path) -> None:
    """Finished shards are left alone, those that the manifest does not know are taken as they are, missing
    ones are made; the bytes are those of a run that was not ended, and what was half written is gone."""
    make(tmp_path / "set")
    folder = tmp_path / "set"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "test" / "00000.npz").unlink()
    (folder / "train" / "00002.npz").unlink()
    del manifest["shards"]["train/00001.npz"]
    del manifest["shards"]["train/00002.npz"]
    manifest["complete"] = False
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "train" / ".00002.npz.123.part").write_bytes(b"half")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npz")}
    make(folder)
    assert bytes_of(folder) == bytes_of(made)
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(
        (made / "manifest.json").read_text()
    )
    assert not (folder / "train" / ".00002.npz.123.part").exists()


def test_a_damaged_shard_is_made_again(made: Path, tmp_path: Path) -> None:
    """A shard whose bytes are not those of its checksum is named and replaced."""
    folder = tmp_path / "set"
    make(folder)
    victim = folder / "train" / "00000.npz"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert "train/00000.npz" in make(folder)
    assert bytes_of(folder) == bytes_of(made)


def test_a_truncated_shard_unknown_to_the_manifest_is_not_taken(made: Path, tmp_path: Path) -> None:
    """It is made anew."""
    folder = tmp_path / "set"
    make(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"]["train/00000.npz"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    victim = folder / "train" / "00000.npz"
    victim.write_bytes(victim.read_bytes()[:5000])
    make(folder)
    assert bytes_of(folder) == bytes_of(made)


def test_another_data_set_is_not_mixed_in(made: Path, tmp_path: Path) -> None:
    """Another seed, or a folder that holds something else, is refused with the difference named; a manifest
    that cannot be read is told."""
    with pytest.raises(ConfigError, match="seed 5 and not 6"):
        make(made, "--seed", "6")
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ConfigError, match="not empty"):
        make(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with pytest.raises(DataFormatError, match="manifest"):
        make(tmp_path / "broken")


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less room than the images need: refused before anything is made."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ConfigError, match="GB"):
        make(tmp_path / "set")
    assert not bytes_of(tmp_path / "set")


def test_killed_and_started_again(made: Path, tmp_path: Path) -> None:
    """SIGKILL after the first shard; the second run ends with the bytes of an undisturbed one and leaves the
    first shard as it was."""
    folder = tmp_path / "set"
    command = [sys.executable, "-c", COMMAND, *OPTIONS, "--out", str(folder), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first = folder / "train" / "00000.npz"
    until = time.monotonic() + DEADLINE_S
    while not first.exists() and process.poll() is None and time.monotonic() < until:
        os.sched_yield()
    written = first.stat().st_mtime_ns
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
    make(folder)
    assert bytes_of(folder) == bytes_of(made)
    assert first.stat().st_mtime_ns == written


@pytest.mark.cluster
def test_two_processes_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Two Ray tasks side by side write what one process writes, and nothing of Ray is left."""
    folder = tmp_path / "set"
    command = [sys.executable, "-c", COMMAND, *OPTIONS, "--out", str(folder), "--workers", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert bytes_of(folder) == bytes_of(made)
    assert "20 images in" in done.stderr
    assert done.stdout.strip() == str(folder / "manifest.json")
