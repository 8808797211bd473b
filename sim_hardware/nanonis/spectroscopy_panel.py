"""What BiasSpectr and ZSpectr have in common: window, channels, starting, waiting, stopping, columns, files.

The two differ in what they sweep and how; each says so to a ``SpectroscopyPanel``, which offers the commands
that are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError, TunnelpilotError
from protocols.files.nanonis_dat import DatFile, write_dat
from protocols.files.nanonis_text import Setting
from protocols.messages.data import SweepData
from protocols.nanonis.conventions import channel_name
from sim_hardware.nanonis import files, jobs, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.situation import Activity

Floats = npt.NDArray[np.float64]

SHORTEST_S = 50e-6
"""Times below this are 0 or this."""


@dataclass(frozen=True)
class Spectrum:
    """A finished spectrum as clients and files get it.

    ``columns``: by name, the swept quantity first, each (points,).
    """

    columns: dict[str, Floats]
    parameters: tuple[float, ...]
    data: SweepData
    final_z_m: float


@dataclass(frozen=True)
class SpectroscopyPanel:
    """One of the two modules.

    ``stem`` is the first part of its commands' names, ``kind`` that of its activities and jobs, ``basename``
    what its files are called at first.
    """

    stem: str
    kind: str
    basename: str
    begin: Callable[[Instrument], Activity]
    """Begins the sweep that the panel describes; raises TunnelpilotError where the world refuses it."""
    evaluated: Callable[[Instrument, SweepData], Spectrum]
    """What a finished sweep shows."""
    described: Callable[[Instrument, DatFile], DatFile]
    """The same file, with what only this module says in its head."""
    sweep_settings: Callable[[Instrument, int], Mapping[str, Setting]]
    """Lines of a file's header that tell how a spectrum of so many points was taken."""

    def offer(self, registry: Registry) -> None:
        """Register what both modules carry out alike."""
        for name in ("Chs", "Start"):
            first = {"channel_indexes": [0]} if name == "Chs" else {"basename": self.basename}
            registry.settings[f"{self.stem}.{name}"] = Settings(f"{self.stem}.{name}", first)
        registry.add(f"{self.stem}.Open", self.window_open)
        registry.add(f"{self.stem}.Stop", self.stop)
        registry.add(f"{self.stem}.StatusGet", self.status_get)
        registry.add(f"{self.stem}.ChsSet", self.channels_set)
        registry.add(f"{self.stem}.ChsGet", self.channels_get)
        registry.add(f"{self.stem}.Start", self.start)

    # -- commands --------------------------------------------------------------------------------------------

    def window_open(self, call: Call) -> None:
        """Open its window."""
        call.lab.open(self.stem)

    def stop(self, call: Call) -> None:
        """End a sweep under way; the controller goes on as before."""
        running = call.lab.running(self.kind)
        if running is not None:
            running.stop("stopped")

    def status_get(self, call: Call) -> bool:
        """Whether a sweep is under way."""
        return call.lab.running(self.kind) is not None

    def channels_set(self, call: Call, channel_indexes: Any) -> None:
        """What is recorded.

        Raises:
            DriverError: nothing would be, or there is no such signal.
        """
        chosen = [signals.check_index(int(index)) for index in channel_indexes]
        if not chosen:
            raise DriverError("at least one channel is needed.")
        call.lab.store_setting(f"{self.stem}.Chs", 0, {"channel_indexes": list(dict.fromkeys(chosen))})

    def channels_get(self, call: Call) -> dict[str, Any]:
        """What is recorded."""
        chosen = call.lab.setting(f"{self.stem}.Chs")["channel_indexes"]
        return {
            "channel_indexes": np.array(chosen, np.int32),
            "channels": tuple(signals.NAMES[index] for index in chosen),
        }

    def start(self, call: Call, get_data: bool, basename: str | None) -> dict[str, Any]:
        """Take a spectrum and wait for it.

        Raises:
            TunnelpilotError: the sweep was refused, failed, or was stopped before there were data.
        """
        lab = call.lab
        if basename:
            self.name_files(lab, basename)
        job = jobs.begin(lab.world, basename or "", self.kind)
        try:
            activity = self.begin(lab)
        except TunnelpilotError:
            if job:
                lab.world.end_job(job, "refused")
            raise
        lab.after(activity, lambda ended: self._ended(lab, ended, job))
        call.wait(activity.done)
        lab.settled(activity)
        if activity.state == "failed":
            raise activity.error or DriverError(activity.reason)
        if not get_data:
            return {
                "channels": (),
                "data": np.zeros((0, 0), np.float32),
                "parameters": np.zeros(0, np.float32),
            }
        found = self.spectrum(lab, activity)
        return {
            "channels": tuple(found.columns),
            "data": np.array(list(found.columns.values()), np.float32),
            "parameters": np.array(found.parameters, np.float32),
        }

    def _ended(self, lab: Instrument, activity: Activity, job: str) -> None:
        """What the electronics do at the end, whether or not somebody waits."""
        jobs.end(lab.world, job, activity)
        if activity.sweep is not None and lab.setting(f"{self.stem}.Props")["autosave"]:
            self.save(lab, self.spectrum(lab, activity))

    # -- spectra ---------------------------------------------------------------------------------------------

    def spectrum(self, lab: Instrument, activity: Activity) -> Spectrum:
        """What a finished sweep shows.

        Raises:
            DriverError: it was stopped before there were data.
        """
        data = activity.sweep
        if data is None:
            raise DriverError(f"the sweep was ended: {activity.reason or activity.why}.")
        return self.evaluated(lab, data)

    def name_files(self, lab: Instrument, basename: str) -> None:
        """The base name of its files from now on."""
        lab.store_setting(f"{self.stem}.Start", 0, {"basename": basename})

    def save(self, lab: Instrument, found: Spectrum) -> Path:
        """Write a spectrum to a file."""
        path = files.next_path(lab, lab.setting(f"{self.stem}.Start")["basename"], ".dat")
        timing = lab.setting(f"{self.stem}.Timing")
        record = lab.setting(f"{self.stem}.AdvProps")["record_final_z"]
        points = len(next(iter(found.columns.values())))
        common = DatFile(
            columns=found.columns,
            saved=files.now(),
            started=files.now(),
            x_m=found.data.x_m,
            y_m=found.data.y_m,
            z_m=found.data.z_m,
            settling_s=timing["settling_time_s"],
            integration_s=timing["integration_time_s"],
            final_z_m=found.final_z_m if record else None,
            settings={
                **files.module_settings(lab, lab.world.state()),
                **self.sweep_settings(lab, points),
            },
        )
        write_dat(path, self.described(lab, common))
        return path


# -- settings ------------------------------------------------------------------------------------------------


def check_times(lab: Instrument, wanted: dict[str, Any]) -> dict[str, Any]:
    """Times within reason, and some time for each sample.

    Raises:
        DriverError: names the one that is not.
    """
    for name, value in wanted.items():
        if name.endswith("time_s") and not 0.0 <= value <= 3600.0:
            raise DriverError(f"{name} = {value:g} s is outside 0 to 3600 s.")
    if wanted["settling_time_s"] + wanted["integration_time_s"] <= 0.0:
        wanted["integration_time_s"] = SHORTEST_S
    return wanted


def synchronisation(stem: str) -> tuple[Settings, ...]:
    """The pairs of a module that say which digital lines follow its sweeps."""
    return (
        Settings(f"{stem}.DigSync", {"digital_sync": "off"}),
        Settings(
            f"{stem}.TTLSync",
            {"ttl_line": "1", "ttl_polarity": "high", "time_to_on_s": 0.0, "on_duration_s": 1e-3},
        ),
        Settings(f"{stem}.PulseSeqSync", {"pulse_sequence_nr": 1, "nr_periods": 1}),
    )


# -- columns -------------------------------------------------------------------------------------------------


def recorded_columns(
    lab: Instrument, stem: str, ways: int, values: Callable[[int], Floats]
) -> dict[str, Floats]:
    """The columns of a module's channels, way by way.

    ``values`` gives those of a signal, by its index, during the sweep: (repeats, ways, points).
    """
    save_all = bool(lab.setting(f"{stem}.Props")["save_all"])
    indexes = lab.setting(f"{stem}.Chs")["channel_indexes"]
    columns: dict[str, Floats] = {}
    for way in range(ways):
        for index in indexes:
            columns |= _columns_of(index, way, values(index)[:, way], save_all)
    return columns


def _columns_of(index: int, way: int, values: Floats, save_all: bool) -> dict[str, Floats]:
    """A channel one way, (repeats, points): itself, or the average of several sweeps and, if wanted, each."""
    back = ("bwd",) if way else ()
    if len(values) == 1:
        return {_label(index, *back): values[0]}
    columns = {_label(index, "AVG", *back): values.mean(axis=0)}
    if save_all:
        columns |= {_label(index, f"{n + 1:05d}", *back): one for n, one in enumerate(values)}
    return columns


def _label(index: int, *tags: str) -> str:
    label = channel_name(signals.NAMES[index])
    return str(type(label)(label.quantity, label.unit, tags))
