"""Raster lines to images: any order, any direction, missing and repeated lines."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scan_controller.assembly import FrameAssembler, FrameDataError, frame_taken
from protocols.messages.data import Channel, FrameLines
from protocols.messages.recipes import Frame
from protocols.messages.records import Transform


def recipe(lines: int = 6, pixels: int = 5, upward: bool = True) -> Frame:
    """A small frame."""
    return Frame(
        centre_x_m=3e-9,
        centre_y_m=1e-9,
        width_m=10e-9,
        height_m=10e-9,
        pixels=pixels,
        lines=lines,
        bias_v=0.5,
        setpoint_a=5e-11,
        line_time_s=0.1,
        upward=upward,
    )


def truth(lines: int, pixels: int, image: int = 0) -> np.ndarray:
    """Values that name their place: direction, row and column."""
    d, row, col = np.mgrid[0:2, 0:lines, 0:pixels]
    return (1000 * image + 100 * d + 10 * row + col).astype(np.float32)


def chunk(rows: tuple[int, ...], values: np.ndarray, image: int = 0, time_s: float = 0.0) -> FrameLines:
    """Lines of ``values`` (directions, lines, pixels) in this order."""
    taken = np.stack([values[:, row] for row in rows]) if rows else np.zeros((0, 2, values.shape[2]))
    channels = (
        Channel(name="z", unit="m", values=taken),
        Channel(name="current", unit="A", values=-taken),
    )
    return FrameLines(rows=rows, channels=channels, time_s=time_s, image=image)


@given(
    order=st.permutations(range(6)),
    cuts=st.lists(st.integers(0, 6), max_size=4),
    upward=st.booleans(),
    repeats=st.lists(st.integers(0, 5), max_size=4),
)
def test_lines_in_any_order_make_the_same_image(
    order: list[int], cuts: list[int], upward: bool, repeats: list[int]
) -> None:
    """Whatever the order, the chunking and the repetitions, each line lands in its row, both directions."""
    assembler = FrameAssembler(recipe(upward=upward))
    values = truth(6, 5)
    edges = sorted({0, 6, *cuts})
    for a, b in itertools.pairwise(edges):
        assembler.add(chunk(tuple(order[a:b]), values))
    assert assembler.progress.complete
    for row in repeats:
        assembler.add(chunk((row,), values * 0 - 1))
    assert assembler.progress.duplicates == len(repeats)
    z, current = assembler.images()
    assert (z.channel, z.unit, z.bias_v) == ("z", "m", 0.5)
    assert z.values.dtype == np.float32
    assert np.array_equal(z.values, values)
    assert np.array_equal(current.values, -values)


@given(present=st.sets(st.integers(0, 5)))
def test_missing_lines_are_said_and_are_nan(present: set[int]) -> None:
    """A partial frame names every missing line, and only those are NaN."""
    assembler = FrameAssembler(recipe())
    for row in sorted(present, reverse=True):
        assembler.add(chunk((row,), truth(6, 5)))
    progress = assembler.progress
    assert {row for _, row in progress.missing} == set(range(6)) - present
    assert progress.share == len(present) / 6
    if present:
        image = np.asarray(assembler.images()[0].values)
        assert {int(r) for r in np.flatnonzero(np.isfinite(image).all(axis=(0, 2)))} == present


def test_frames_at_several_biases_are_kept_apart() -> None:
    """Each bias has its own images, in the order of the biases."""
    assembler = FrameAssembler(recipe(), biases_v=(-0.5, 0.5))
    for image in (1, 0):
        for row in range(6):
            assembler.add(chunk((row,), truth(6, 5, image), image, time_s=10.0 * image + row))
    images = assembler.images()
    assert [(i.bias_v, i.channel) for i in images] == [
        (-0.5, "z"),
        (-0.5, "current"),
        (0.5, "z"),
        (0.5, "current"),
    ]
    assert np.array_equal(images[2].values, truth(6, 5, 1))
    assert assembler.first_s == 0.0


def test_a_line_in_one_direction_leaves_the_other_empty() -> None:
    """Forward-only channels are NaN backward."""
    assembler = FrameAssembler(recipe())
    values = np.ones((1, 1, 5), dtype=np.float32)
    assembler.add(FrameLines(rows=(2,), channels=(Channel(name="z", unit="m", values=values),), time_s=0.0))
    image = np.asarray(assembler.images()[0].values)
    assert np.array_equal(image[0, 2], np.ones(5))
    assert np.isnan(image[1]).all()


@pytest.mark.parametrize(
    ("rows", "shape", "image", "said"),
    [
        ((6,), (1, 2, 5), 0, "row 6"),
        ((-1,), (1, 2, 5), 0, "row -1"),
        ((0,), (1, 2, 4), 0, "5 pixels"),
        ((0,), (2, 2, 5), 0, "1 lines"),
        ((0,), (1, 3, 5), 0, "3 directions"),
        ((0,), (1, 2, 5), 1, "image 1"),
    ],
)
def test_foreign_lines_are_refused(
    rows: tuple[int, ...], shape: tuple[int, ...], image: int, said: str
) -> None:
    """Lines that do not belong to the frame are an error of the peer and change nothing."""
    assembler = FrameAssembler(recipe())
    lines = FrameLines(
        rows=rows, channels=(Channel(name="z", unit="m", values=np.zeros(shape)),), time_s=0.0, image=image
    )
    with pytest.raises(FrameDataError, match=said):
        assembler.add(lines)
    assert assembler.progress.lines == 0


def test_the_record_puts_the_centre_where_the_transform_says() -> None:
    """A frame's centre in sample coordinates follows from the recipe in the middle of the frame."""
    assembler = FrameAssembler(recipe())
    transform = Transform(offset_x_m=1e-9, velocity_y_m_s=1e-12, time_s=0.0)
    record = frame_taken("r/f0001/a1", 0, recipe(), assembler, transform, (100.0, 300.0), ("good", ""))
    assert np.allclose((record.centre_x_m, record.centre_y_m), (2e-9, 0.8e-9), rtol=1e-12, atol=0)
    assert record.purpose == "survey"
