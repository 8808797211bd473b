"""Reading autonomous runs from NSID files strictly, and serving them as samples."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsid_file import BIAS_V, PLACES_NM, spectra, write_run

from protocols.errors import DataFormatError, DriverError
from protocols.files.nsid import read_nsid
from protocols.messages.recipes import Frame, LockIn, SpectrumRecipe
from sim_hardware.surfaces.recorded_nsid import RecordedRunSurface
from sim_hardware.surfaces.recording import Recorded
from sim_hardware.tip import Tip

RECIPE = SpectrumRecipe(
    stabilise_bias_v=-1.5,
    stabilise_current_a=2e-10,
    settle_s=0.1,
    z_offset_m=0.0,
    start_v=-1.5,
    stop_v=1.5,
    points=7,
    dwell_s=0.01,
)
FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=80e-9,
    height_m=60e-9,
    pixels=16,
    lines=12,
    bias_v=-1.5,
    setpoint_a=2e-10,
    line_time_s=0.1,
)


@pytest.fixture(name="path")
def run_file(tmp_path: Path) -> Path:
    """A whole run."""
    return write_run(tmp_path / "run_80nm.hf5")


@pytest.fixture(name="surface")
def run_surface(path: Path) -> RecordedRunSurface:
    """The run as a sample."""
    return RecordedRunSurface(read_nsid(path), "recorded:run")


def changed(recipe: SpectrumRecipe, **values: object) -> SpectrumRecipe:
    """The recipe with other values."""
    return SpectrumRecipe(**{**{f: getattr(recipe, f) for f in recipe.__struct_fields__}, **values})


def test_a_run_comes_out_in_si_units(path: Path) -> None:
    """Frame of 80 x 60 nm by the name and the pixels' ratio, positions in m, channels by our names."""
    run = read_nsid(path)
    assert run.shape == (12, 16)
    assert np.allclose([run.width_m, run.height_m], [80e-9, 60e-9], rtol=1e-12, atol=0)
    assert np.allclose(np.stack([run.x_m, run.y_m], axis=1), PLACES_NM * 1e-9, rtol=1e-12, atol=0)
    assert np.array_equal(run.bias_v, BIAS_V)
    assert sorted(run.channels) == ["current", "lockin_x", "lockin_y"]
    assert np.array_equal(run.channels["current"], spectra()[:, 1])
    assert np.array_equal(run.channels["lockin_y"], spectra()[:, 3])
    assert run.scalar is not None
    assert len(run) == len(run.scalar) == 4


def test_the_image_is_turned_so_that_positions_meet_their_pixels(path: Path) -> None:
    """Stored with its top row first, it comes out with row 0 at the lowest y: 100 x row + column nm."""
    rows, cols = np.mgrid[0:12, 0:16]
    assert np.allclose(read_nsid(path).topograph_m, (100.0 * rows + cols) * 1e-9, rtol=1e-12, atol=0)


def test_width_from_axes_with_units(tmp_path: Path) -> None:
    """Axes in a unit of length state the frame, before the name: 16 pixels of 0.5 nm, 12 of 5 angstrom."""
    path = write_run(
        tmp_path / "run_80nm.hf5",
        places_nm=PLACES_NM / 10.0,
        image_units="\u00c5",
        image_axes={0: {"units": "angstrom"}, 1: {"units": "nm"}},
        image_axis_values={0: np.arange(12) * 5.0, 1: np.arange(16) * 0.5},
    )
    run = read_nsid(path)
    assert np.allclose([run.width_m, run.height_m], [8e-9, 6e-9], rtol=1e-12, atol=0)
    assert np.isclose(run.topograph_m[11, 15], 1115e-10, rtol=1e-12, atol=0)


def test_width_given_by_the_caller(tmp_path: Path) -> None:
    """Without units and without a name the caller may state the width; otherwise it is asked for."""
    path = write_run(tmp_path / "run.hf5")
    assert np.isclose(read_nsid(path, width_m=160e-9).height_m, 120e-9, rtol=1e-12, atol=0)
    with pytest.raises(DataFormatError, match=r"run\.hf5: expected the frame's width"):
        read_nsid(path)


def test_a_run_without_scalar(tmp_path: Path) -> None:
    """The scalar is optional."""
    assert read_nsid(write_run(tmp_path / "r_80nm.hf5", leave_out=("scalar",))).scalar is None


@given(st.floats(0.0, 0.999))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_truncation_is_noticed(path: Path, share: float) -> None:
    """However much is missing: a format error that names the file, never half a run."""
    whole = path.read_bytes()
    cut = path.parent / "cut_80nm.hf5"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataFormatError, match=r"cut_80nm\.hf5: expected an HDF5 file"):
        read_nsid(cut)


def test_what_is_no_hdf5_file(tmp_path: Path) -> None:
    """Random bytes and a missing file are named as such."""
    path = tmp_path / "noise.hf5"
    path.write_bytes(b"\x00\xff" * 5000)
    with pytest.raises(DataFormatError, match=r"noise\.hf5: expected an HDF5 file"):
        read_nsid(path)
    with pytest.raises(DataFormatError, match=r"missing\.hf5 cannot be read: No such file"):
        read_nsid(tmp_path / "missing.hf5")


@pytest.mark.parametrize("missing", ["spectra", "image", "position"])
def test_foreign_files_are_told_what_was_expected(tmp_path: Path, missing: str) -> None:
    """An HDF5 file without one of the parts is refused; the error lists what is there."""
    path = write_run(tmp_path / "foreign_80nm.hf5", leave_out=(missing,))
    word = "spectroscopy" if missing == "spectra" else missing
    with pytest.raises(
        DataFormatError, match=rf"foreign.*expected a main dataset .*'{word}'.*found: .*Scalar"
    ):
        read_nsid(path)
    with h5py.File(tmp_path / "empty.hf5", "w"):
        pass
    with pytest.raises(DataFormatError, match="found: none"):
        read_nsid(tmp_path / "empty.hf5")


def broken(**changes: np.ndarray) -> np.ndarray:
    """Spectra of which some channel is replaced: by index as text."""
    values = spectra()
    for channel, samples in changes.items():
        values[:, int(channel[1:])] = samples
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places_nm": PLACES_NM[:3]}, "Position has 3 rows for 4 spectra"),
        ({"places_nm": np.ones((4, 3))}, "Position has 3 columns"),
        ({"places_nm": PLACES_NM + 60.0}, "do not lie in a frame of 80 nm"),
        ({"scalar": np.ones(5)}, "Scalar has 5 rows for 4 spectra"),
        ({"channels": "Bias_Current"}, "names 'bias_current' for 4 channels"),
        ({"channels": "Time_Current_didv_LIY"}, "expected channels Bias and Current"),
        ({"values": broken(c0=np.linspace(-1, 1, 7) * np.arange(1, 5)[:, None])}, "differs from spectrum"),
        ({"values": broken(c0=np.zeros(7))}, "no sweep"),
        ({"values": broken(c1=np.full(7, np.nan))}, "28 values that are no numbers"),
        ({"image_units": "V"}, "Image is in 'V'"),
    ],
)
def test_files_that_contradict_themselves(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """Parts that do not fit together are refused; the error names the file and both sides."""
    path = write_run(tmp_path / "odd_80nm.hf5", **changes)  # type: ignore[arg-type]
    with pytest.raises(DataFormatError, match=r"odd_80nm\.hf5") as caught:
        read_nsid(path)
    assert message in str(caught.value)


def test_a_spectrum_lies_where_the_frame_shows_it(surface: RecordedRunSurface) -> None:
    """Pixel (row, col) = (y, x) / 5 nm: served at that pixel's centre, about the frame's centre."""
    assert isinstance(surface, Recorded)
    assert surface.spectrum_at(-40e-9 + 32.5e-9, -30e-9 + 7.5e-9) == (1, 6)
    assert np.isclose(surface.topograph[1, 6], 106e-9, rtol=1e-12, atol=0)
    assert len(surface.places) == 3


def test_a_sweep_elsewhere_is_refused(surface: RecordedRunSurface) -> None:
    """Half a nanometre (a tenth of a pixel) is near enough; beyond, the error names the nearest place."""
    x, y = -7.5e-9, -22.5e-9
    assert surface.spectrum_at(x + 0.49e-9, y) == surface.spectrum_at(x, y)
    with pytest.raises(DriverError, match=r"nearest is \(-7\.5000 nm, -22\.5000 nm\)") as caught:
        surface.spectrum_at(x + 0.6e-9, y)
    assert np.isclose(caught.value.details["nearest_x_m"], x, rtol=1e-9, atol=0)


def test_sweeps_as_they_were_recorded(surface: RecordedRunSurface) -> None:
    """Values come out unchanged, against the recorded direction turned around; the first of two at a place;
    4 nA at 1.5 V is not at the rail of 10 nA, 15 nA would be."""
    row, col = surface.spectrum_at(*surface.places[1])
    channels, saturated = surface.recorded_sweep(RECIPE, row, col)
    assert [c.name for c in channels] == ["current", "lockin_x", "lockin_y"]
    assert np.array_equal(np.asarray(channels[0].values)[0, 0], 2e-9 * BIAS_V)
    assert not saturated
    turned, _ = surface.recorded_sweep(changed(RECIPE, start_v=1.5, stop_v=-1.5), row, col)
    assert np.array_equal(np.asarray(turned[1].values)[0, 0], np.asarray(channels[1].values)[0, 0, ::-1])
    first, _ = surface.recorded_sweep(RECIPE, *surface.spectrum_at(*surface.places[0]))
    assert np.array_equal(np.asarray(first[0].values)[0, 0], 1e-9 * BIAS_V)


def test_saturation_is_told(tmp_path: Path) -> None:
    """A current at the rail of 10 nA marks the sweep."""
    path = write_run(tmp_path / "r_80nm.hf5", values=broken(c1=np.linspace(-1e-9, 1.0001e-8, 7)))
    surface = RecordedRunSurface(read_nsid(path), "r")
    assert surface.recorded_sweep(RECIPE, *surface.spectrum_at(*surface.places[0]))[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 8}, "in 8 points, but"),
        ({"start_v": -1.4}, "-1.4 V to 1.5 V"),
        ({"backward": True}, "backward = true"),
        ({"repeats": 2}, "2 repeats"),
    ],
)
def test_other_sweeps_are_refused(
    surface: RecordedRunSurface, change: dict[str, object], message: str
) -> None:
    """Only the recorded sweep is served; the error says what there is."""
    with pytest.raises(DriverError, match=r"holds -1\.5 V to 1\.5 V in 7 points") as caught:
        surface.check_recipe(changed(RECIPE, **change))
    assert message in str(caught.value)
    lockin = LockIn(amplitude_v=0.01, frequency_hz=800.0, time_constant_s=0.01)
    assert surface.check_recipe(changed(RECIPE, lockin=lockin)) is False


def test_only_the_recorded_frame_is_served(surface: RecordedRunSurface) -> None:
    """Its own pixels about (0, 0) pass; anything else is refused with what was recorded."""
    surface.check_frame(FRAME)
    other = Frame(**{**{f: getattr(FRAME, f) for f in FRAME.__struct_fields__}, "lines": 16})
    with pytest.raises(DriverError, match=r"holds 16 x 12 pixels, 80 x 60 nm"):
        surface.check_frame(other)


def test_the_controller_stands_on_the_recorded_topograph(surface: RecordedRunSurface) -> None:
    """Under a tip the height is the nearest pixel's: between pixels 6 and 7 of a row it differs by 1 nm."""
    junction = surface.junction(Tip())
    profile = junction.profile(np.array([-7.5e-9, -2.5e-9]), np.full(2, -22.5e-9), -1.5, 2e-10)
    assert np.isclose(np.diff(profile.target(2e-10))[0], 1e-9, rtol=1e-9, atol=0)


def test_a_recording_has_no_true_density(surface: RecordedRunSurface) -> None:
    """It is refused instead of being made up."""
    with pytest.raises(DriverError, match="no true density"):
        surface.true_density(0.0, 0.0, np.array([0.0]))


DATA = os.environ.get("TUNNELPILOT_DATA", "")
PUBLISHED = [
    ("Figure3_large_area_250nm.hf5", 250e-9, 267, 267),
    ("Figure6_Vacancy_defect_4nm.hf5", 4e-9, 230, 230),
    ("Figure7_DKL1_200nm.hf5", 200e-9, 210, 210),
    ("Figure7_DKL2_100nm.hf5", 100e-9, 210, 207),
    ("Figure7_DKL3_20nm.hf5", 20e-9, 210, 209),
]


@pytest.mark.skipif(not DATA, reason="TUNNELPILOT_DATA does not name a folder with dkl_on_stm in it")
@pytest.mark.parametrize(("name", "width_m", "count", "places"), PUBLISHED)
def test_published_runs(name: str, width_m: float, count: int, places: int) -> None:
    """The five published runs: 512 x 512 pixels, 121 points, positions on pixels, every place served."""
    path = Path(DATA) / "dkl_on_stm" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    run = read_nsid(path)
    assert (run.shape, len(run), len(run.bias_v)) == ((512, 512), count, 121)
    assert np.isclose(run.width_m, width_m, rtol=1e-9, atol=0)
    pixels = np.stack([run.x_m, run.y_m]) / width_m * 512
    assert np.abs(pixels - np.rint(pixels)).max() < 1e-6
    surface = RecordedRunSurface(run, name)
    assert len(surface.places) == places
    for x, y in surface.places:
        row, col = surface.spectrum_at(float(x), float(y))
        assert np.hypot(*(surface.places - (x, y)).T).min() == 0.0
        assert 0 <= row < 512
        assert 0 <= col < 512


@pytest.mark.skipif(not DATA, reason="TUNNELPILOT_DATA does not name a folder with dkl_on_stm in it")
def test_orientation_of_the_published_runs() -> None:
    """Turned as the reader turns it, height and in-gap scalar of the vacancy's run go together (rank
    correlation above 0.6); in no other orientation do they (below 0.5)."""
    path = Path(DATA) / "dkl_on_stm" / "Figure6_Vacancy_defect_4nm.hf5"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    run = read_nsid(path)
    col, row = (np.rint(p / run.width_m * 512).astype(int) for p in (run.x_m, run.y_m))

    def together(image: np.ndarray) -> float:
        heights = [image[r - 6 : r + 6, c - 6 : c + 6].mean() for r, c in zip(row, col, strict=True)]
        ranks = [np.argsort(np.argsort(v)) for v in (heights, run.scalar)]
        return float(np.corrcoef(*ranks)[0, 1])

    image = run.topograph_m
    assert together(image) > 0.6
    for other in (image[::-1], image[:, ::-1], image[::-1, ::-1], image.T):
        assert together(other) < 0.5
