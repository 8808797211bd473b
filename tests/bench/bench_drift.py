"""Drift registration against its peers: median and worst error in pixels, and milliseconds.

256 x 256 smooth random fields, shifts up to 8 pixels, as in BENCHMARKS.  Peers are measured only where they
are importable; they are no dependencies of ours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.analysis.registration import register, remove_plane

Image = npt.NDArray[np.float64]
SIZE = 256
LARGEST_SHIFT = 8.0
CASES: dict[str, tuple[float, bool]] = {
    "clean": (0.0, False),
    "noise 0.3 sigma": (0.3, False),
    "noise 0.3 sigma + tilt": (0.3, True),
    "noise 1 sigma": (1.0, False),
}


def field(rng: np.random.Generator, size: int, length_px: float = 4.0) -> Callable[[float, float], Image]:
    """A smooth random field of unit scatter, to be sampled at any shift (row, col) without interpolation.

    The field lives on a torus four times the frame's area, so that a shifted frame sees new surface.
    """
    n = 2 * size
    ky, kx = np.meshgrid(np.fft.fftfreq(n), np.fft.rfftfreq(n), indexing="ij")
    spectrum = np.fft.rfft2(rng.normal(size=(n, n))) * np.exp(-2 * (np.pi * length_px) ** 2 * (ky**2 + kx**2))
    scale = float(np.fft.irfft2(spectrum, s=(n, n)).std())

    def at(row: float, col: float) -> Image:
        phase = np.exp(-2j * np.pi * (ky * row + kx * col))
        whole: Image = np.fft.irfft2(spectrum * phase, s=(n, n))[:size, :size] / scale
        return whole

    return at


def pair(seed: int, noise: float, tilt: bool) -> tuple[Image, Image, tuple[float, float]]:
    """Reference, shifted frame, and the true shift (row, col) in pixels."""
    rng = np.random.default_rng(seed)
    surface = field(rng, SIZE)
    true = (
        float(rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT)),
        float(rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT)),
    )
    a, b = surface(0.0, 0.0), surface(*true)
    a = a + noise * rng.normal(size=a.shape)
    b = b + noise * rng.normal(size=b.shape)
    if tilt:
        rows, cols = np.mgrid[0 : 1 : SIZE * 1j, 0 : 1 : SIZE * 1j]
        a, b = a + 3 * rows - 2 * cols, b + 1 * rows + 4 * cols
    return a, b, true


def ours(a: Image, b: Image) -> tuple[float, float]:
    """Shift (row, col) by our registration."""
    found = register(a, b, 1.0, 12.0)
    return found.shift_y_m, found.shift_x_m


def peers() -> dict[str, Callable[[Image, Image], tuple[float, float]]]:
    """Registrations of other packages, as far as they are importable."""
    found: dict[str, Callable[[Image, Image], tuple[float, float]]] = {}
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    try:
        skimage: Any = importlib.import_module("skimage.registration")
    except ImportError:
        pass
    else:

        def phase(a: Image, b: Image, **how: Any) -> tuple[float, float]:
            s = skimage.phase_cross_correlation(a, b, upsample_factor=50, **how)[0]
            return -float(s[0]), -float(s[1])

        found["skimage default"] = phase
        found["skimage normalization=None, plane, Hann"] = lambda a, b: phase(
            remove_plane(a) * window, remove_plane(b) * window, normalization=None
        )
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        pass
    else:

        def phase_correlate(a: Image, b: Image) -> tuple[float, float]:
            (x, y), _ = cv2.phaseCorrelate(a, b, window)
            return float(y), float(x)

        def ecc(a: Image, b: Image) -> tuple[float, float]:
            p, q = (remove_plane(z).astype(np.float32) for z in (a, b))
            y, x = phase_start(p.astype(np.float64), q.astype(np.float64))
            warp = np.array([[1, 0, x], [0, 1, y]], dtype=np.float32)
            stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
            _, warp = cv2.findTransformECC(p, q, warp, cv2.MOTION_TRANSLATION, stop, None, 5)
            return float(warp[1, 2]), float(warp[0, 2])

        def phase_start(a: Image, b: Image) -> tuple[float, float]:
            surface = np.fft.irfft2(np.conj(np.fft.rfft2(a * window)) * np.fft.rfft2(b * window), s=a.shape)
            i, j = np.unravel_index(int(np.argmax(surface)), surface.shape)
            return float((i + SIZE // 2) % SIZE - SIZE // 2), float((j + SIZE // 2) % SIZE - SIZE // 2)

        found["OpenCV phaseCorrelate, Hann"] = phase_correlate
        found["OpenCV ECC translation, plane"] = ecc
    return found


def measure(
    method: Callable[[Image, Image], tuple[float, float]], noise: float, tilt: bool, trials: int
) -> dict[str, float]:
    """Median and worst error (px) and median wall time (ms) over ``trials`` seeded pairs."""
    errors, seconds = [], []
    for seed in range(trials):
        a, b, true = pair(seed, noise, tilt)
        began = time.perf_counter()
        y, x = method(a, b)
        seconds.append(time.perf_counter() - began)
        errors.append(float(np.hypot(y - true[0], x - true[1])))
    return {
        "median_px": float(np.median(errors)),
        "worst_px": float(np.max(errors)),
        "ms": 1e3 * float(np.median(seconds)),
    }


def unrelated(trials: int) -> dict[str, float]:
    """Share of unrelated pairs that we refuse, and the strongest peak among them in sigma."""
    refused, strongest = 0, 0.0
    for seed in range(trials):
        rng = np.random.default_rng(10_000 + seed)
        found = register(field(rng, SIZE)(0, 0), field(rng, SIZE)(0, 0), 1.0, 60.0)
        refused += found.verdict == "cannot tell"
        strongest = max(strongest, found.peak_sigma)
    return {"refused_share": refused / trials, "strongest_sigma": strongest}


def run(quick: bool = False) -> dict[str, Any]:
    """The whole table as plain data: {"registration": {method: {case: figures}}, "unrelated": figures}."""
    trials = 4 if quick else 12
    methods: dict[str, Callable[[Image, Image], tuple[float, float]]] = {"Tunnelpilot": ours, **peers()}
    table = {
        name: {case: measure(method, noise, tilt, trials) for case, (noise, tilt) in CASES.items()}
        for name, method in methods.items()
    }
    return {"trials": trials, "registration": table, "unrelated": unrelated(8 if quick else 40)}


def main() -> None:
    """Print the table and, with ``--json``, the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer trials")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    result = run(options.quick)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{'median / worst error (px)':44s}" + "".join(f"{case:>24s}" for case in CASES) + f"{'ms':>8s}")
    for name, cases in result["registration"].items():
        cells = "".join(f"{c['median_px']:14.3f} / {c['worst_px']:7.3f}" for c in cases.values())
        print(f"{name:44s}{cells}{cases['clean']['ms']:8.1f}")
    print(
        f"unrelated frames refused: {result['unrelated']['refused_share']:.0%}, "
        f"strongest chance peak {result['unrelated']['strongest_sigma']:.1f} sigma"
    )


if __name__ == "__main__":
    main()
