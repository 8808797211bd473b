"""A small autonomous run written as sidpy and pyNSID write it, for the tests of its readers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

PLACES_NM = np.array([[10.0, 20.0], [30.0, 5.0], [55.0, 40.0], [10.0, 20.0]])
"""x and y of four spectra, the last where the first was: multiples of 5 nm in a frame of 80 x 60 nm."""
BIAS_V = np.linspace(-1.5, 1.5, 7)


def stored_image_nm() -> np.ndarray:
    """12 rows x 16 columns, the top row first: height = 100 x (row from below) + column, in nm."""
    rows, cols = np.mgrid[0:12, 0:16]
    return (100.0 * rows + cols)[::-1]


def spectra() -> np.ndarray:
    """(4, 4, 7): bias, current = (index + 1) x V nA, and two lock-in channels that tell index and point."""
    count = len(PLACES_NM)
    out = np.empty((count, 4, BIAS_V.size))
    index = np.arange(count)[:, None]
    out[:, 0] = BIAS_V
    out[:, 1] = (index + 1) * BIAS_V * 1e-9
    out[:, 2] = 1e-12 * (10 * index + np.arange(BIAS_V.size))
    out[:, 3] = -out[:, 2]
    return out


def main_dataset(
    file: h5py.File,
    group: str,
    name: str,
    values: np.ndarray,
    labels: tuple[str, ...] = ("a", "b", "c"),
    units: str = "generic",
    axis_attributes: dict[int, dict[str, str]] | None = None,
    axis_values: dict[int, np.ndarray] | None = None,
) -> None:
    """One main dataset with its axes, in ``group/name``."""
    inside = file.create_group(f"{group}/{name}")
    dataset = inside.create_dataset(name, data=values)
    for number, length in enumerate(values.shape):
        places = (axis_values or {}).get(number, np.arange(float(length)))
        axis = inside.create_dataset(labels[number], data=places)
        told = {
            "quantity": "generic",
            "units": "generic",
            "dimension_type": "UNKNOWN",
            "name": labels[number],
        }
        axis.attrs.update({**told, **(axis_attributes or {}).get(number, {})})
        axis.make_scale(labels[number])
        dataset.dims[number].attach_scale(axis)
    dataset.attrs["DIMENSION_LABELS"] = np.array(labels[: values.ndim], dtype=h5py.string_dtype())
    dataset.attrs.update(
        {
            "quantity": "generic",
            "units": units,
            "main_data_name": "generic",
            "data_type": "UNKNOWN",
            "modality": "generic",
            "source": "generic",
        }
    )


def write_run(
    path: Path,
    *,
    places_nm: np.ndarray = PLACES_NM,
    values: np.ndarray | None = None,
    channels: str = "Bias_Current_didv_LIY",
    image_units: str = "generic",
    image_axes: dict[int, dict[str, str]] | None = None,
    image_axis_values: dict[int, np.ndarray] | None = None,
    scalar: np.ndarray | None = None,
    leave_out: tuple[str, ...] = (),
) -> Path:
    """The whole run: 12 x 16 pixels, 80 x 60 nm if the name says ``_80nm``, four spectra."""
    with h5py.File(path, "w") as file:
        if "spectra" not in leave_out:
            main_dataset(
                file,
                "Measurement_000/Tunneling Spectroscopy",
                "Tunneling Spectroscopy",
                spectra() if values is None else values,
                ("DKL_iteration", "Spectroscpy_Channel", "Spectroscpy_Sweep"),
                axis_attributes={1: {"quantity": channels}},
            )
        if "image" not in leave_out:
            main_dataset(
                file,
                "Measurement_001/STM Image",
                "Image",
                stored_image_nm(),
                units=image_units,
                axis_attributes=image_axes,
                axis_values=image_axis_values,
            )
        if "position" not in leave_out:
            main_dataset(file, "Metadata_000/DKL Position", "Position", places_nm)
        if "scalar" not in leave_out:
            told = np.arange(float(len(places_nm))) if scalar is None else scalar
            main_dataset(file, "Metadata_001/DKL Scalar", "Scalar", told)
    return path
