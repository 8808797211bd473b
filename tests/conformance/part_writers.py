"""Part "writers": files of our writers, with numbers of which no two are alike, read by public readers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.files.nanonis_3ds import GridHeader, GridWriter, grid_positions
from protocols.files.nanonis_dat import DatFile, write_dat
from protocols.files.nanonis_sxm import SxmChannel, SxmController, SxmFile, write_sxm
from protocols.nanonis.conventions import FrameArea, angle_deg
from tests.conformance.reading import GridTruth, ImageTruth, SpectrumTruth, Truth, compare
from tests.conformance.results import Findings

WHEN = datetime(2026, 11, 21, 9, 5, 7)
AREA = FrameArea(centre_x_m=1.5e-7, centre_y_m=-2e-7, width_m=5e-9, height_m=3e-9, angle_rad=-0.5)
CONTROLLER = SxmController(name="log Current", on=True, setpoint=1e-10, p_gain_m=1e-12, i_gain_m_s=1e-9)


def run(findings: Findings, folder: Path) -> None:
    """Write every kind of file in its variants and have them read."""
    images = list(_images(folder))
    compare(findings, [*images, *_spectra(folder), *_grids(folder)], folder)
    _controls(findings, images[0], folder)


def run_scifireaders(findings: Findings, folder: Path) -> None:
    """The same for SciFiReaders, which reads images only if they are square, and no grids like ours."""
    images = [image for image in _images(folder) if "8x8" in image.path.name]
    compare(findings, [*images, *_spectra(folder)], folder, ("SciFiReaders",))


def _controls(findings: Findings, image: ImageTruth, folder: Path) -> None:
    """An image that is held against a wrong truth must be found wrong."""
    z, back = image.forward["Z"], image.backward["Z"]
    for what, wrong in {
        "turned up-down": dataclasses.replace(image, forward={"Z": z[::-1]}),
        "turned left-right": dataclasses.replace(image, forward={"Z": z[:, ::-1]}),
        "a backward image not mirrored": dataclasses.replace(image, backward={"Z": back[:, ::-1]}),
        "another scan direction": dataclasses.replace(image, upward=not image.upward),
        "one number off by one part in a million": dataclasses.replace(image, forward={"Z": _touched(z)}),
    }.items():
        tried = Findings("control")
        compare(tried, [wrong], folder)
        findings.add(f"control: {what} is noticed", tried.count()[1] > 0)


def _touched(data: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    touched = data.copy()
    touched[-1, -1] *= np.float32(1.000001)
    return touched


def _image(ny: int, nx: int, first: float) -> npt.NDArray[np.float32]:
    return ((first + np.arange(ny * nx)).reshape(ny, nx) * 1.1e-12).astype(np.float32)


def _images(folder: Path) -> Iterator[ImageTruth]:
    """Up and down, whole and aborted, wider than high and higher than wide."""
    for upward in (True, False):
        for aborted in (False, True):
            for ny, nx in ((5, 16), (16, 5), (8, 8)):
                words = ("up" if upward else "down", "aborted" if aborted else "whole", f"{nx}x{ny}")
                path = folder / f"image-{'-'.join(words)}.sxm"
                forward = {"Z": _image(ny, nx, 1.0), "LI_Demod_1_X": _image(ny, nx, 1000.0)}
                backward = {"Z": _image(ny, nx, 2000.0), "LI_Demod_1_X": _image(ny, nx, 3000.0)}
                if aborted:
                    missing = slice(3, None) if upward else slice(None, -3)
                    for data in (*forward.values(), *backward.values()):
                        data[missing] = np.nan
                channels = tuple(
                    SxmChannel(
                        name=name.replace("_", " "),
                        unit=unit,
                        index=index,
                        forward=forward[name],
                        backward=backward[name],
                    )
                    for name, unit, index in (("Z", "m", 30), ("LI_Demod_1_X", "A", 86))
                )
                scan = SxmFile(
                    channels=channels,
                    area=AREA,
                    upward=upward,
                    bias_v=-0.05,
                    started=WHEN,
                    acquisition_s=92.0,
                    line_time_s=(0.2, 0.2),
                    controllers=(CONTROLLER,),
                    comment="a comment\nof two lines",
                    scan_file=r"C:\Nanonis\image.sxm",
                    settings={"Bias>Bias (V)": -0.05, "Scan>lines": ny},
                )
                write_sxm(path, scan)
                yield ImageTruth(
                    path=path,
                    upward=upward,
                    forward=forward,
                    backward=backward,
                    width_m=AREA.width_m,
                    height_m=AREA.height_m,
                    centre_m=(AREA.centre_x_m, AREA.centre_y_m),
                    bias_v=-0.05,
                )


def _spectra(folder: Path) -> Iterator[Truth]:
    """Swept upward and downward, with the way back, and with a part that was not measured."""
    for words, start, end, missing in (
        ("up", -0.3, 0.3, 0),
        ("down", 0.3, -0.3, 0),
        ("stopped", -0.3, 0.3, 4),
    ):
        sweep = np.linspace(start, end, 21).astype(np.float32)
        columns = {"Bias calc (V)": sweep}
        for i, name in enumerate(("Current", "LI Demod 1 X", "LI Demod 1 Y")):
            for j, tag in enumerate(("", " [bwd]")):
                values = ((1.0 + 100 * i + 50 * j + np.arange(21)) * 1.1e-12).astype(np.float32)
                values[21 - missing :] = np.nan
                columns[f"{name}{tag} (A)"] = values
        path = folder / f"spectrum-{words}.dat"
        spectrum = DatFile(
            columns=columns,
            saved=WHEN,
            started=WHEN,
            x_m=1.25e-9,
            y_m=-3.5e-9,
            z_m=1e-9,
            z_hold=True,
            settings={"Bias Spectroscopy>Num Pixel": 21, "Bias>Bias (V)": 0.1},
        )
        write_dat(path, spectrum)
        yield SpectrumTruth(path, columns, (1.25e-9, -3.5e-9))


def _grids(folder: Path) -> Iterator[Truth]:
    """Whole and aborted within a row, swept upward and downward, turned."""
    for words, start, end, measured in (
        ("up", -0.2, 0.2, 12),
        ("down", 0.2, -0.2, 12),
        ("aborted", -0.2, 0.2, 7),
    ):
        nx, ny, points = 4, 3, 9
        header = GridHeader(
            nx=nx,
            ny=ny,
            area=AREA,
            points=points,
            channels=("Current (A)", "LI Demod 1 X (A)", "Current [bwd] (A)"),
            started=WHEN,
        )
        path = folder / f"grid-{words}.3ds"
        xy = grid_positions(nx, ny, AREA)
        table = np.zeros((nx * ny, len(header.parameters)), np.float32)
        table[:, 0], table[:, 1], table[:, 2:4] = start, end, xy
        table[:, 4:] = 1e-9 * np.arange(1, 1 + nx * ny)[:, None] + 1e-11 * np.arange(6)
        samples = (
            (1.1e-12 * np.arange(1, 1 + nx * ny * 3 * points)).astype(np.float32).reshape(nx * ny, 3, points)
        )
        with GridWriter(path, header) as grid:
            for k in range(measured):
                grid.append(table[k].tolist(), samples[k])
        yield GridTruth(
            path=path,
            sweep=np.linspace(start, end, points),
            channels={name: samples[:, i].reshape(ny, nx, points) for i, name in enumerate(header.channels)},
            parameters={name: table[:, i].reshape(ny, nx) for i, name in enumerate(header.parameters)},
            measured=measured,
            centre_m=(AREA.centre_x_m, AREA.centre_y_m),
            angle_deg=angle_deg(AREA.angle_rad),
        )
