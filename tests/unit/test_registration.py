"""Registration of frames: how exact it is, and when it says that it cannot tell."""

import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.analysis.registration import Registration, register, remove_plane
from protocols.errors import UsageError

Image = npt.NDArray[np.float64]
PIXEL = 0.1e-9
NAN = float("nan")


def field(seed: int, size: int, shift: tuple[float, float] = (0.0, 0.0), length: float = 4.0) -> Image:
    """A smooth random surface moved by ``shift`` (rows, cols), nothing interpolated: new surface comes in."""
    n = 2 * size
    rng = np.random.default_rng(seed)
    ky, kx = np.meshgrid(np.fft.fftfreq(n), np.fft.rfftfreq(n), indexing="ij")
    spectrum = np.fft.rfft2(rng.normal(size=(n, n))) * np.exp(-2 * (np.pi * length) ** 2 * (ky**2 + kx**2))
    scale = np.fft.irfft2(spectrum, s=(n, n)).std()
    moved = spectrum * np.exp(-2j * np.pi * (ky * shift[0] + kx * shift[1]))
    image: Image = np.fft.irfft2(moved, s=(n, n))[:size, :size] / scale
    return image


def noise(seed: int, size: int, level: float) -> Image:
    """White noise."""
    made: Image = level * np.random.default_rng(50_000 + seed).normal(size=(size, size))
    return made


def lattice(size: int, shift: tuple[float, float], period: float = 9.3) -> Image:
    """A hexagonal lattice."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    total = np.zeros((size, size))
    for angle in (0.1, 0.1 + np.pi / 3, 0.1 + 2 * np.pi / 3):
        phase = (x - shift[1]) * np.cos(angle) + (y - shift[0]) * np.sin(angle)
        total += np.cos(2 * np.pi * phase / period)
    return total


def dents(size: int, shift: tuple[float, float], seed: int, count: int = 6) -> Image:
    """Defects at random places."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size))
    for _ in range(count):
        cy, cx = rng.uniform(0.1 * size, 0.9 * size, 2)
        total -= 6 * np.exp(-((y - shift[0] - cy) ** 2 + (x - shift[1] - cx) ** 2) / 32)
    return total


def error_px(found: Registration, true: tuple[float, float]) -> float:
    """Distance from the true shift in pixels."""
    return float(np.hypot(found.shift_y_m / PIXEL - true[0], found.shift_x_m / PIXEL - true[1]))


@pytest.mark.parametrize("tilt", [False, True])
def test_errors_are_small_at_noise(tilt: bool) -> None:
    """256 x 256, shift to 8 px, noise 0.3 sigma: median error at most 0.06 px, worst at most 0.14 px."""
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        true = (float(rng.uniform(-8, 8)), float(rng.uniform(-8, 8)))
        a = field(seed, 256) + noise(seed, 256, 0.3)
        b = field(seed, 256, true) + noise(seed + 500, 256, 0.3)
        if tilt:
            rows, cols = np.mgrid[0:1:256j, 0:1:256j]
            a, b = a + 3 * rows - 2 * cols, b + rows + 4 * cols
        found = register(a * 1e-11, b * 1e-11, PIXEL, 12 * PIXEL)
        assert found.verdict == "same place"
        assert found.peak_sigma > 10
        errors.append(error_px(found, true))
        assert errors[-1] * PIXEL < 5 * found.uncertainty_m
    assert np.median(errors) <= 0.06
    assert max(errors) <= 0.14


@settings(max_examples=15, deadline=None)
@given(row=st.integers(-12, 12), col=st.integers(-12, 12), seed=st.integers(0, 100))
def test_the_sign_is_now_minus_reference(row: int, col: int, seed: int) -> None:
    """A feature that moved up by rows and right by columns gives positive y and x."""
    big = field(seed, 96, length=3.0)
    a = big[16:80, 16:80]
    b = big[16 - row : 80 - row, 16 - col : 80 - col]
    found = register(a, b, PIXEL, 16 * PIXEL)
    assert found.verdict == "same place", found.note
    assert error_px(found, (row, col)) < 0.1


def test_pixels_need_not_be_square() -> None:
    """With different sizes along y and x each shift is in its own metres."""
    found = register(field(3, 64), field(3, 64, (2.0, 5.0)), (2e-10, 1e-10), 1.2e-9)
    assert np.allclose((found.shift_y_m, found.shift_x_m), (4e-10, 5e-10), rtol=0.01, atol=0)


def test_missing_lines_are_masked() -> None:
    """NaN rows in either frame neither break the answer nor pull it toward zero."""
    a, b = field(1, 96), field(1, 96, (4.0, -3.0))
    a[10:20], b[60:75] = NAN, NAN
    found = register(a, b, PIXEL, 12 * PIXEL)
    assert found.verdict == "same place", found.note
    assert error_px(found, (4.0, -3.0)) < 0.1


@pytest.mark.parametrize(
    ("size", "length", "reach"), [(64, 3.0, 16), (64, 6.0, 31), (128, 4.0, 30), (128, 12.0, 60)]
)
def test_unrelated_frames_cannot_be_told(size: int, length: float, reach: int) -> None:
    """Frames of different places are never taken for the same one, however far is searched."""
    for seed in range(15):
        found = register(
            field(seed, size, length=length), field(seed + 999, size, length=length), PIXEL, reach * PIXEL
        )
        assert found.verdict == "cannot tell", found
        assert found.confidence < 0.5


def test_a_lattice_cannot_be_told_but_by_what_is_expected() -> None:
    """Pure lattices are ambiguous; an expected shift within half a unit cell names the right one."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        true = (float(rng.uniform(-12, 12)), float(rng.uniform(-12, 12)))
        a = lattice(128, (0, 0)) + noise(seed, 128, 0.3)
        b = lattice(128, true) + noise(seed + 500, 128, 0.3)
        assert register(a, b, PIXEL, 25 * PIXEL).verdict == "cannot tell"
        guess = ((true[1] + 0.8) * PIXEL, (true[0] - 0.8) * PIXEL)
        found = register(a, b, PIXEL, 25 * PIXEL, guess, PIXEL)
        assert found.verdict == "same place", found.note
        assert found.periodic
        assert error_px(found, true) < 0.1
        vague = register(a, b, PIXEL, 25 * PIXEL, guess, 8 * PIXEL)
        assert vague.verdict == "cannot tell"


def test_defects_on_a_lattice_resolve_it() -> None:
    """With a few defects the right unit cell is found; with other defects it cannot be told."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        true = (float(rng.uniform(-12, 12)), float(rng.uniform(-12, 12)))
        a = lattice(128, (0, 0)) + dents(128, (0, 0), seed) + noise(seed, 128, 0.3)
        b = lattice(128, true) + dents(128, true, seed) + noise(seed + 500, 128, 0.3)
        found = register(a, b, PIXEL, 25 * PIXEL)
        assert found.verdict == "same place", found.note
        assert error_px(found, true) < 0.1


def step(angle: float, offset: float, shift: tuple[float, float]) -> Image:
    """One straight terrace edge across a 128 x 128 frame."""
    y, x = np.mgrid[:128, :128].astype(np.float64)
    across = np.cos(angle) * (x - 64 - shift[1]) + np.sin(angle) * (y - 64 - shift[0])
    edge: Image = 1.5 * np.tanh((across - offset) / 2)
    return edge


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.9])
def test_a_lone_step_slides_along_itself(angle: float) -> None:
    """A straight edge fixes one direction only: cannot tell.  Small features beside it settle it."""
    for seed in range(3):
        a = step(angle, 3.0, (0, 0)) + noise(seed, 128, 0.05)
        b = step(angle, 3.0, (3, 5)) + noise(seed + 500, 128, 0.05)
        assert register(a, b, PIXEL, 30 * PIXEL).verdict == "cannot tell"
        a += 0.3 * field(seed, 128, length=3.0)
        b += 0.3 * field(seed, 128, (3, 5), length=3.0)
        found = register(a, b, PIXEL, 30 * PIXEL)
        assert found.verdict == "same place", found.note
        assert error_px(found, (3, 5)) < 0.15


def test_flat_empty_and_far_frames_cannot_be_told() -> None:
    """Constant or mostly missing frames, and shifts at or beyond the range searched, give no verdict."""
    a = field(2, 64)
    plane = np.add.outer(np.arange(64.0), np.arange(64.0)) * 1e-12
    empty = a.copy()
    empty[20:] = NAN
    assert "flat" in register(np.full((64, 64), 3e-9), a, PIXEL, 1e-9).note
    assert register(plane, plane, PIXEL, 1e-9).verdict == "cannot tell"
    assert "missing" in register(a, empty, PIXEL, 1e-9).note
    assert register(a, field(2, 64, (12.0, 0.0)), PIXEL, 8 * PIXEL).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("shapes", "reach", "prior"),
    [
        (((64, 64), (64, 63)), 1e-9, None),
        (((8, 64), (8, 64)), 1e-10, None),
        (((64, 64), (64, 64)), 5e-9, None),
        (((64, 64), (64, 64)), 0.0, None),
        (((64, 64), (64, 64)), 1e-9, (0.0, 0.0)),
    ],
)
def test_misuse_is_refused(
    shapes: tuple[tuple[int, int], tuple[int, int]], reach: float, prior: tuple[float, float] | None
) -> None:
    """Unlike or tiny frames, a range that leaves too little in common, half a prior: errors."""
    with pytest.raises(UsageError):
        register(np.zeros(shapes[0]), np.zeros(shapes[1]), PIXEL, reach, prior)


def test_planes_are_removed_exactly() -> None:
    """A tilted plane with a hole in it becomes zero, at picometre scale, and the hole stays."""
    plane = 5e-9 + np.add.outer(3e-12 * np.arange(40.0), -2e-12 * np.arange(30.0))
    plane[3, 4] = NAN
    flat = remove_plane(plane)
    assert np.isnan(flat[3, 4])
    assert np.nanmax(np.abs(flat)) < 1e-22


def read_sxm(path: Path, channel: str) -> Image:
    """Forward image of one channel, row 0 at the bottom: a minimal reader for upward .sxm frames."""
    raw = path.read_bytes()
    end = raw.index(b":SCANIT_END:")
    head = raw[:end].decode("latin-1")
    columns, rows = map(int, re.search(r":SCAN_PIXELS:\s+(\d+)\s+(\d+)", head).groups())  # type: ignore[union-attr]
    assert re.search(r":SCAN_DIR:\s+up", head)
    table = head.split(":DATA_INFO:")[1].split("\n\n")[0].splitlines()[2:]
    names = [line.split("\t")[2] for line in table if line.count("\t") > 3]
    start = raw.index(b"\x1a\x04", end) + 2
    block = np.frombuffer(raw, ">f4", 2 * len(names) * rows * columns, start)
    image: Image = block.reshape(len(names), 2, rows, columns)[names.index(channel), 0].astype(np.float64)
    return image


@pytest.mark.parametrize("channel", ["Current", "Frequency_Shift"])
def test_a_real_pair_of_frames(channel: str) -> None:
    """Two frames of a molecule, 80 minutes apart: it moved by about 0.41 nm in x and 0.25 nm in y."""
    root = os.environ.get("TUNNELPILOT_DATA")
    paths = [Path(root or "") / "drift_pair" / name for name in ("01514.sxm", "01516.sxm")]
    if not root or not all(p.exists() for p in paths):
        pytest.skip("TUNNELPILOT_DATA does not name a folder with drift_pair/01514.sxm and 01516.sxm")
    a, b = (read_sxm(p, channel) for p in paths)
    found = register(a, b, 5e-9 / 160, 1.2e-9)
    assert found.verdict == "same place", found.note
    assert abs(found.shift_x_m - 0.41e-9) < 0.03e-9
    assert abs(found.shift_y_m - 0.25e-9) < 0.03e-9
    # Noise of the same frames holds nothing.
    empty = [read_sxm(p, "Excitation") for p in paths]
    assert register(*empty, 5e-9 / 160, 1.2e-9).verdict == "cannot tell"
