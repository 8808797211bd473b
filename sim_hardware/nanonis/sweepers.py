"""BiasSwp, GenSwp and LockInFreqSwp: sweeping a signal in steps while others are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import DriverError
from protocols.files.nanonis_dat import DatFile, write_dat
from sim_hardware import motions
from sim_hardware.nanonis import bias, files, lock_in, signals
from sim_hardware.nanonis.calls import Call
from sim_hardware.nanonis.instrument import Instrument
from sim_hardware.nanonis.registry import Registry, Settings
from sim_hardware.nanonis.z_motion import go
from sim_hardware.situation import Activity
from sim_hardware.world import World

Floats = npt.NDArray[np.float64]
REGISTRY = Registry()

MOST_STEPS = 65_535
SWEPT = ("Bias (V)", "Z (m)", "LI Modulator 1 Amplitude (V)", "LI Modulator 1 Frequency (Hz)", "Output 2 (V)")
"""What the generic sweeper can sweep."""

REGISTRY.keep(
    Settings(
        "BiasSwp.Props",
        {"number_of_steps": 100, "period_ms": 10, "autosave": False, "save_dialog_box": False},
        {"number_of_steps": (2, MOST_STEPS)},
    ),
    Settings("BiasSwp.Limits", {"lower_limit": -1.0, "upper_limit": 1.0}),
    Settings("GenSwp.Limits", {"lower_limit": -1.0, "upper_limit": 1.0}),
    Settings(
        "GenSwp.Props",
        {
            "initial_settling_time_ms": 10.0,
            "maximum_slew_rate_units_s": math.inf,
            "number_of_steps": 100,
            "period_ms": 10,
            "autosave": False,
            "save_dialog_box": False,
            "settling_time_ms": 0.0,
        },
        {
            "number_of_steps": (2, MOST_STEPS),
            "initial_settling_time_ms": (0.0, 1e6),
            "maximum_slew_rate_units_s": (1e-12, math.inf),
        },
    ),
    Settings(
        "LockInFreqSwp.Signal", {"sweep_signal_index": 0}, {"sweep_signal_index": (-1, signals.SIGNALS - 1)}
    ),
    Settings(
        "LockInFreqSwp.Limits",
        {"lower_limit_hz": 100.0, "upper_limit_hz": 5000.0},
        {"lower_limit_hz": (1e-2, 40e3), "upper_limit_hz": (1e-2, 40e3)},
    ),
    Settings(
        "LockInFreqSwp.Props",
        {
            "number_of_steps": 99,
            "integration_periods": 5,
            "minimum_integration_time_s": 1e-3,
            "settling_periods": 3,
            "minimum_settling_time_s": 1e-3,
            "autosave": 0,
            "save_dialog": 0,
            "basename": "LockInFreqSwp",
        },
        {"number_of_steps": (2, MOST_STEPS)},
    ),
)
REGISTRY.settings["BiasSwp.Start"] = Settings("BiasSwp.Start", {"held": True, "basename": "Bias-Sweep"})
REGISTRY.settings["GenSwp.Start"] = Settings("GenSwp.Start", {"held": False, "basename": "Sweep"})
REGISTRY.settings["GenSwp.AcqChs"] = Settings("GenSwp.AcqChs", {"channel_indexes": [0]})
REGISTRY.settings["GenSwp.SwpSignal"] = Settings("GenSwp.SwpSignal", {"sweep_channel_name": SWEPT[0]})


def _open(call: Call) -> None:
    """Open its window."""
    call.lab.open(call.name.partition(".")[0])


for _module in ("BiasSwp", "GenSwp", "LockInFreqSwp"):
    REGISTRY.add(f"{_module}.Open", _open)


# -- one loop for all ----------------------------------------------------------------------------------------


def stepping(
    lab: Instrument,
    values: Floats,
    indexes: list[int],
    period_s: float,
    put: Callable[[World, Activity, float], None],
    rows: list[list[float]],
) -> motions.Run:
    """Put each value out, wait, read; the rows grow as they are read."""

    def run(world: World, activity: Activity) -> None:
        for value in values:
            put(world, activity, float(value))
            world.wait(activity, world.clock.now() + period_s)
            rows.append(signals.values(lab, indexes))

    return run


def put_bias(lab: Instrument) -> Callable[[World, Activity, float], None]:
    """Puts a bias out."""

    def put(world: World, activity: Activity, value: float) -> None:
        wanted = bias.applied(lab, bias.coerced(lab, value))
        if world.situation.bias_v != wanted:
            world.play(activity, motions.ramp_path(world, wanted, 1e-4))

    return put


def _put_z(world: World, activity: Activity, value: float) -> None:
    if world.situation.feedback:
        raise DriverError("the Z-Controller is on: it determines Z. Switch it off first.")
    go(world, activity, value, 1e-3)


def _put_setting(
    lab: Instrument, stem: str, place: int, name: str
) -> Callable[[World, Activity, float], None]:
    def put(world: World, activity: Activity, value: float) -> None:
        lab.apply_setting(stem, place, {name: value})

    return put


def _as_found(lab: Instrument, held: bool, inner: motions.Run, reset_bias: bool) -> motions.Run:
    """The Z-controller held or left on during a sweep; the bias as it was before, if wanted."""

    def run(world: World, activity: Activity) -> None:
        s = world.situation
        before, feedback, z = s.bias_v, s.feedback, world.state().z_m
        with world.lock:
            world.advance()
            s.feedback = feedback and not held
        try:
            inner(world, activity)
        finally:
            with world.lock:
                if not (s.retracting or s.withdrawn or s.shorted):
                    if reset_bias:
                        s.bias_v = before
                    if held and feedback:
                        s.z_m = max(s.z_m, z)
                    world.resume_feedback(feedback)
                elif reset_bias and s.withdrawn:
                    s.bias_v = before

    return run


def _started(lab: Instrument, stem: str, held: bool | None, basename: str | None) -> dict[str, Any]:
    """What Start was told, now or the last time: whether the Z-controller is held, and the files' name."""
    given = {"held": held, "basename": basename}
    lab.change_setting(stem, 0, **{name: value for name, value in given.items() if value is not None})
    return lab.setting(stem)


def _answer(
    lab: Instrument, swept: str, values: Floats, names: list[str], rows: list[list[float]], wanted: bool
) -> dict[str, Any]:
    taken = np.array(rows, np.float64).reshape(len(rows), len(names))
    if not wanted:
        return {"channels": (), "data": np.zeros((0, 0), np.float32)}
    data = np.vstack([values[: len(rows)], taken.T])
    return {"channels": (swept, *names), "data": data.astype(np.float32)}


def _save(lab: Instrument, name: str, answer: dict[str, Any]) -> None:
    if not answer["channels"] or not answer["data"].shape[1]:
        return
    columns = {
        label: np.asarray(row, np.float64)
        for label, row in zip(answer["channels"], answer["data"], strict=True)
    }
    state = lab.world.state()
    write_dat(
        files.next_path(lab, name, ".dat"),
        DatFile(
            columns=columns,
            experiment="Sweep",
            saved=files.now(),
            x_m=state.x_m,
            y_m=state.y_m,
            z_m=state.z_m,
            settings=files.module_settings(lab, state),
        ),
    )


# -- bias sweep ----------------------------------------------------------------------------------------------


@REGISTRY.command("BiasSwp.Start")
def bias_start(
    call: Call,
    get_data: bool,
    sweep_direction: int,
    status: bool | None,
    basename: str | None,
    reset_bias: bool,
) -> dict[str, Any]:
    """Sweep the bias from the lower limit (direction 1) or the upper; ``status``: whether the Z-controller is
    off meanwhile."""
    lab = call.lab
    kept, limits = lab.setting("BiasSwp.Props"), lab.setting("BiasSwp.Limits")
    low, high = limits["lower_limit"], limits["upper_limit"]
    first, last = (low, high) if sweep_direction else (high, low)
    values = np.linspace(first, last, kept["number_of_steps"])
    rows: list[list[float]] = []
    inner = stepping(lab, values, [signals.CURRENT], kept["period_ms"] / 1000.0, put_bias(lab), rows)
    start = _started(lab, "BiasSwp.Start", status, basename)
    run = _as_found(lab, start["held"], inner, reset_bias)
    call.finish(lab.begin("bias sweep", len(values) * kept["period_ms"] / 1000.0, run))
    answer = _answer(lab, "Bias calc (V)", values, [signals.NAMES[0]], rows, True)
    if kept["autosave"]:
        _save(lab, start["basename"], answer)
    return answer if get_data else _answer(lab, "", values, [signals.NAMES[0]], rows, False)


# -- generic sweep -------------------------------------------------------------------------------------------


@REGISTRY.command("GenSwp.AcqChsSet")
def acquired_set(call: Call, channel_indexes: Any, channel_names: tuple[str, ...] = ()) -> None:
    """What is read, by index, or by name where there are no indexes."""
    chosen = [signals.check_index(int(index)) for index in channel_indexes]
    for name in channel_names if not chosen else ():
        if name not in signals.NAMES:
            raise DriverError(f"there is no signal {name!r}.")
        chosen.append(signals.NAMES.index(name))
    if not chosen:
        raise DriverError("at least one channel is needed.")
    call.lab.store_setting("GenSwp.AcqChs", 0, {"channel_indexes": list(dict.fromkeys(chosen))})


@REGISTRY.command("GenSwp.AcqChsGet")
def acquired_get(call: Call) -> dict[str, Any]:
    """What is read."""
    chosen = call.lab.setting("GenSwp.AcqChs")["channel_indexes"]
    return {
        "channel_indexes": np.array(chosen, np.int32),
        "channels": tuple(signals.NAMES[index] for index in chosen),
    }


@REGISTRY.command("GenSwp.SwpSignalSet")
def swept_set(call: Call, sweep_channel_name: str) -> None:
    """What is swept."""
    if sweep_channel_name not in SWEPT:
        raise DriverError(f"{sweep_channel_name!r} cannot be swept: {', '.join(SWEPT)}.")
    call.lab.store_setting("GenSwp.SwpSignal", 0, {"sweep_channel_name": sweep_channel_name})


@REGISTRY.command("GenSwp.SwpSignalGet")
def swept_get(call: Call) -> dict[str, Any]:
    """What is swept."""
    return {**call.lab.setting("GenSwp.SwpSignal"), "channels": SWEPT}


@REGISTRY.command("GenSwp.SwpSignalListGet")
def swept_list(call: Call) -> tuple[str, ...]:
    """What can be swept."""
    return SWEPT


@REGISTRY.command("GenSwp.Start")
def generic_start(
    call: Call,
    get_data: bool,
    sweep_direction: int,
    basename: str | None,
    reset_signal: bool,
    z_controller: bool | None = None,
) -> dict[str, Any]:
    """Sweep the chosen signal from the lower limit (direction 1) or the upper; ``z_controller``: whether the
    Z-controller is off meanwhile."""
    lab = call.lab
    kept, limits = lab.setting("GenSwp.Props"), lab.setting("GenSwp.Limits")
    low, high = limits["lower_limit"], limits["upper_limit"]
    first, last = (low, high) if sweep_direction else (high, low)
    values = np.linspace(first, last, kept["number_of_steps"])
    swept = lab.setting("GenSwp.SwpSignal")["sweep_channel_name"]
    indexes = lab.setting("GenSwp.AcqChs")["channel_indexes"]
    put, reset = _sweepable(lab, swept)
    rows: list[list[float]] = []
    period = (kept["period_ms"] + kept["settling_time_ms"]) / 1000.0
    inner = stepping(lab, values, indexes, period, put, rows)
    start = _started(lab, "GenSwp.Start", z_controller, basename)
    run = _as_found(lab, start["held"], inner, reset_signal and swept == SWEPT[0])
    try:
        call.finish(lab.begin("generic sweep", len(values) * period, run))
    finally:
        if reset_signal:
            reset()
    names = [signals.NAMES[index] for index in indexes]
    answer = _answer(lab, swept, values, names, rows, True)
    if kept["autosave"]:
        _save(lab, start["basename"], answer)
    return answer if get_data else _answer(lab, swept, values, names, rows, False)


def _sweepable(
    lab: Instrument, swept: str
) -> tuple[Callable[[World, Activity, float], None], Callable[[], None]]:
    """How a signal is put out, and how it is brought back."""
    if swept == SWEPT[0]:
        return put_bias(lab), lambda: None
    if swept == SWEPT[1]:
        before = lab.world.state().z_m
        return _put_z, lambda: _z_back(lab, before)
    stem, name = {
        SWEPT[2]: ("LockIn.ModAmp", "amplitude"),
        SWEPT[3]: ("LockIn.ModPhasFreq", "frequency_hz"),
        SWEPT[4]: ("UserOut.Val", "output_value"),
    }[swept]
    place = 2 if swept == SWEPT[4] else 1
    kept = lab.setting(stem, place)
    return _put_setting(lab, stem, place, name), lambda: lab.apply_setting(stem, place, kept)


def _z_back(lab: Instrument, z_m: float) -> None:
    if not lab.world.situation.feedback:
        lab.brief("z", lambda world, activity: go(world, activity, z_m, 1e-3))


@REGISTRY.command("GenSwp.Stop")
def generic_stop(call: Call) -> None:
    """End a sweep under way."""
    running = call.lab.running("generic sweep")
    if running is not None:
        running.stop("stopped")


# -- the lock-in's frequency ---------------------------------------------------------------------------------


@REGISTRY.command("LockInFreqSwp.Start")
def frequency_start(call: Call, get_data: int, direction: int) -> dict[str, Any]:
    """The first demodulator over the modulation's frequency (direction 1 up): the preamplifier's pole."""
    lab = call.lab
    kept, limits = lab.setting("LockInFreqSwp.Props"), lab.setting("LockInFreqSwp.Limits")
    ends = sorted((limits["lower_limit_hz"], limits["upper_limit_hz"]))
    first, last = ends if direction else ends[::-1]
    frequencies = np.geomspace(first, last, kept["number_of_steps"] + 1)
    rows: list[list[float]] = []
    seconds = float(np.sum(_sample_times(kept, frequencies)))

    def run(world: World, activity: Activity) -> None:
        for frequency, time_s in zip(frequencies, _sample_times(kept, frequencies), strict=True):
            world.wait(activity, world.clock.now() + float(time_s))
            rows.append(_response(lab, float(frequency)))

    call.finish(lab.begin("frequency sweep", seconds, run))
    names = ["LI Demod 1 R (A)", "LI Demod 1 phi (deg)"]
    answer = _answer(lab, "Frequency (Hz)", frequencies, names, rows, True)
    if kept["autosave"]:
        _save(lab, kept["basename"], answer)
    return answer if get_data else _answer(lab, "", frequencies, names, rows, False)


def _sample_times(kept: dict[str, Any], frequencies: Floats) -> Floats:
    """Time of each sample (s): periods, at least the least times."""
    integration = np.maximum(kept["integration_periods"] / frequencies, kept["minimum_integration_time_s"])
    settling = np.maximum(kept["settling_periods"] / frequencies, kept["minimum_settling_time_s"])
    return np.asarray(integration + settling)


def _response(lab: Instrument, frequency_hz: float) -> list[float]:
    """R (A) and phase (deg) of the modulated current behind the preamplifier's first-order pole."""
    state = lab.world.state()
    found = lock_in.modulation(lab)
    amplitude = lab.setting("LockIn.ModAmp", 1)["amplitude"] if found is None else found[1].amplitude_v
    size = 0.0
    if amplitude and not state.withdrawn and state.bias_v != 0.0:
        size = amplitude * lock_in.conductance(lab, state)
    passed = size / (1.0 + 1j * frequency_hz / lab.world.electronics.bandwidth_hz)
    return [abs(passed), math.degrees(math.atan2(passed.imag, passed.real))]
