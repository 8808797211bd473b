"""FolMe and TipRec: moving the tip over the surface, and the record of where it was."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols.errors import DriverError
from protocols.files.nanonis_dat import DatFile, write_dat
from sim_hardware import motions
from sim_hardware.nanonis import files, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import PATIENCE_S, Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.situation import Activity
from sim_hardware.world import World

REGISTRY = Registry()
USUAL_SPEED_M_S = 200e-9
EXPERIMENTS = ("Bias Spectroscopy", "Z Spectroscopy", "Bias Pulse", "External VI")
LARGEST_BUFFER = 1_000_000
RECORDED = (signals.CURRENT, signals.BIAS, signals.X, signals.Y, signals.Z)
SAMPLES_PER_MOVE = 16

REGISTRY.keep(
    Settings(
        "FolMe.Speed",
        {"speed_m_s": USUAL_SPEED_M_S, "custom_speed": True},
        {"speed_m_s": (1e-13, 1e-3)},
    ),
    Settings(
        "FolMe.Oversampl",
        {"oversampling": 10},
        {"oversampling": (1, 1000)},
        more=lambda lab, kept: {
            "sampling_rate_samples_s": lab.setting("Util.RTFreq")["rt_frequency"] / kept["oversampling"]
        },
    ),
    Settings("FolMe.PSOnOff", {"point_shoot_status": False}),
    Settings(
        "FolMe.PSExp",
        {"point_shoot_experiment": 0},
        choices={"point_shoot_experiment": len(EXPERIMENTS)},
        more=lambda lab, kept: {"list_of_experiments": EXPERIMENTS},
    ),
    Settings(
        "FolMe.PSProps",
        {
            "auto_resume": False,
            "use_own_basename": True,
            "basename": "",
            "external_vi_path": "",
            "pre_measure_delay_s": 0.0,
        },
        {"pre_measure_delay_s": (0.0, 3600.0)},
    ),
)


@dataclass
class TipRecorder:
    """The last positions of the tip with what was measured there."""

    size: int = 1000
    rows: list[list[float]] = field(default_factory=list)

    def add(self, row: list[float]) -> None:
        """One more sample; the oldest go."""
        self.rows.append(row)
        del self.rows[: max(0, len(self.rows) - self.size)]


def speed(lab: Instrument) -> float:
    """Of a move (m/s): the custom one, or that of the scan."""
    kept = lab.setting("FolMe.Speed")
    if kept["custom_speed"]:
        return float(kept["speed_m_s"])
    return float(lab.setting("Scan.Speed")["forward_linear_speed_m_s"])


def _check_voltages(lab: Instrument, x_m: float, y_m: float) -> None:
    """Refuse a place beyond the limits of the piezo's voltage."""
    kept = lab.setting("Piezo.XYZLimits")
    if not kept["enable_limits"]:
        return
    for axis, metres in (("x", x_m), ("y", y_m)):
        volts = metres / lab.setting("Piezo.Sens")[f"calibration_{axis}_m_v"]
        low, high = kept[f"voltage_limit_{axis}_low_v"], kept[f"voltage_limit_{axis}_high_v"]
        if not low <= volts <= high:
            raise DriverError(
                f"{axis} = {metres:g} m needs {volts:.4g} V, beyond the limits {low:g} to {high:g} V."
            )


def recorded_move(lab: Instrument, x_m: float, y_m: float, speed_m_s: float) -> motions.Run:
    """A move whose way goes into the tip recorder."""

    def run(world: World, activity: Activity) -> None:
        _record(lab)
        motions.travel(world, activity, x_m, y_m, speed_m_s)
        _record(lab)

    return run


def _record(lab: Instrument) -> None:
    row = signals.values(lab, list(RECORDED))
    with lab.lock:
        lab.of(TipRecorder).add(row)


@REGISTRY.command("FolMe.XYPosSet")
def position_set(call: Call, x_m: float, y_m: float, wait: bool) -> None:
    """Go there; a move under way goes on from where it is to the new place."""
    lab = call.lab
    if not (math.isfinite(x_m) and math.isfinite(y_m)):
        raise DriverError(f"({x_m}, {y_m}) m is no place.")
    _check_voltages(lab, x_m, y_m)
    stop_move(lab)
    seconds = motions.move_duration(lab.world, x_m, y_m, speed(lab))
    activity = lab.begin("move", seconds, recorded_move(lab, x_m, y_m, speed(lab)))
    if wait:
        call.finish(activity)
        if lab.setting("FolMe.PSOnOff")["point_shoot_status"]:
            shoot(call)


def shoot(call: Call) -> None:
    """Point and shoot: the chosen experiment, after the delay."""
    kept = call.lab.setting("FolMe.PSProps")
    chosen = EXPERIMENTS[call.lab.setting("FolMe.PSExp")["point_shoot_experiment"]]
    call.lab.pass_time(call.wait, kept["pre_measure_delay_s"])
    experiment = call.lab.experiments.get(chosen)
    if experiment is None:
        raise DriverError(f"{chosen} cannot be shot.")
    experiment(call, "" if kept["use_own_basename"] else kept["basename"])


def stop_move(lab: Instrument) -> None:
    """End a move under way."""
    move = lab.running("move")
    if move is not None:
        move.stop("stopped")
        move.done.wait(PATIENCE_S)


@REGISTRY.command("FolMe.XYPosGet")
def position_get(call: Call, wait_for_newest_data: bool) -> tuple[float, float]:
    """Where the tip is."""
    signals.settle_newest(call, wait_for_newest_data)
    return call.lab.place_m()


@REGISTRY.command("FolMe.Stop")
def stop(call: Call) -> None:
    """End a move under way."""
    stop_move(call.lab)


# -- tip recorder --------------------------------------------------------------------------------------------


@REGISTRY.command("TipRec.BufferSizeSet")
def buffer_size_set(call: Call, buffer_size: int) -> None:
    """How many samples are kept; what was recorded is cleared."""
    if not 1 <= buffer_size <= LARGEST_BUFFER:
        raise DriverError(f"a buffer of {buffer_size} samples is outside 1 to {LARGEST_BUFFER}.")
    with call.lab.lock:
        recorder = call.lab.of(TipRecorder)
        recorder.size, recorder.rows = buffer_size, []


@REGISTRY.command("TipRec.BufferSizeGet")
def buffer_size_get(call: Call) -> int:
    """How many samples are kept."""
    return call.lab.of(TipRecorder).size


@REGISTRY.command("TipRec.BufferClear")
def buffer_clear(call: Call) -> None:
    """Forget what was recorded."""
    with call.lab.lock:
        call.lab.of(TipRecorder).rows = []


def _recorded(lab: Instrument) -> Any:
    with lab.lock:
        rows = list(lab.of(TipRecorder).rows)
    return np.array(rows, np.float64).reshape(len(rows), len(RECORDED)).T


@REGISTRY.command("TipRec.DataGet")
def data_get(call: Call) -> dict[str, Any]:
    """What was recorded: one row for each signal."""
    return {"channel_indexes": np.array(RECORDED, np.int32), "data": _recorded(call.lab)}


@REGISTRY.command("TipRec.DataSave")
def data_save(call: Call, clear_buffer: int, basename: str) -> None:
    """Write it to a file."""
    rows = _recorded(call.lab)
    if not rows.size:
        raise DriverError("the tip recorder is empty.")
    columns = {"Index": np.arange(rows.shape[1], dtype=np.float64)}
    columns |= {signals.NAMES[index]: row for index, row in zip(RECORDED, rows, strict=True)}
    state = call.lab.world.state()
    write_dat(
        files.next_path(call.lab, basename or "TipRec", ".dat"),
        DatFile(
            columns=columns,
            experiment="Tip Recorder",
            saved=files.now(),
            settings=files.module_settings(call.lab, state),
        ),
    )
    if clear_buffer:
        buffer_clear(call)
