"""What each kind of job does with the tip, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from actors.gateway.approach import EngageProgress, engage_tip
from actors.gateway.job_run import Apparatus, JobRun
from actors.gateway.tip_steps import end_modulation, go_to_bias, settle, travel
from protocols.errors import DriverError
from protocols.messages.data import ChunkBody, InstrumentState
from protocols.messages.recipes import (
    BiasFrames,
    Engage,
    Frame,
    Indentation,
    Move,
    Park,
    Pulse,
    Recipe,
    ReferencePatch,
    Sweep,
)

PARK_WITHIN_S = 30.0
"""A park job waits so long for the guard's confirmation."""


def act_on(
    run: JobRun, state: InstrumentState, emit: Callable[[ChunkBody], None], progress: EngageProgress
) -> None:
    """Do what the job's recipe says.  ``state`` is the reading before it; ``emit`` takes the lines of frames
    as they come, a sweep's data goes into the outcome.

    Raises:
        TunnelpilotError, OSError: the job did not go well; the class says how.
    """
    apparatus = run.apparatus
    match run.job.recipe:
        case Sweep() as recipe:
            _sweep(run, recipe, state)
        case Frame() as frame:
            _frames(run, frame, (frame.bias_v,), state, emit)
        case ReferencePatch() as recipe:
            _frames(run, recipe.frame, (recipe.frame.bias_v,), state, emit)
        case BiasFrames() as recipe:
            _frames(run, recipe.frame, recipe.biases_v, state, emit)
        case Move() as recipe:
            run.keep(state)
            travel(run, recipe.x_m, recipe.y_m, recipe.speed_m_s or apparatus.limits.tip_speed, state)
        case Pulse() as recipe:
            run.keep(state)
            with run.acting():
                run.acted = True
                apparatus.driver().pulse(recipe.bias_v, recipe.width_s, recipe.hold_z)
        case Indentation() as recipe:
            run.keep(state)
            with run.acting():
                run.acted = True
                apparatus.driver().indent(recipe.depth_m, recipe.bias_v, recipe.dwell_s)
        case Engage() as recipe:
            engage_tip(run, recipe, state, progress)
        case Park() as recipe:
            _park(apparatus, recipe)


def _sweep(run: JobRun, recipe: Sweep, state: InstrumentState) -> None:
    spectrum, apparatus = recipe.spectrum, run.apparatus
    run.keep(state)
    arrived = travel(run, recipe.x_m, recipe.y_m, apparatus.limits.tip_speed, state)
    run.require_as_expected(arrived)
    if spectrum.lockin is None or spectrum.lockin != apparatus.modulation:
        end_modulation(run, arrived)
    go_to_bias(run, spectrum.stabilise_bias_v, spectrum.stabilise_current_a, arrived)
    with run.acting():
        apparatus.driver().set_lockin(spectrum.lockin)
    apparatus.modulation = spectrum.lockin
    settle(run, spectrum.settle_s)
    run.go_on()
    with run.acting():
        data = apparatus.driver().sweep(spectrum)
    run.go_on()
    run.outcome.chunks.append(data)


def _frames(
    run: JobRun,
    frame: Frame,
    biases_v: tuple[float, ...],
    state: InstrumentState,
    emit: Callable[[ChunkBody], None],
) -> None:
    """One image per bias."""
    run.keep(state)
    end_modulation(run, state)
    for image, bias_v in enumerate(biases_v):
        found = run.apparatus.read()
        run.require_as_expected(found)
        go_to_bias(run, bias_v, frame.setpoint_a, found)
        rows = _scan(run, msgspec.structs.replace(frame, bias_v=bias_v), image, emit)
        run.go_on()
        if rows != frame.lines:
            raise DriverError(f"the frame ended after {rows} of {frame.lines} lines.")


def _scan(run: JobRun, frame: Frame, image: int, emit: Callable[[ChunkBody], None]) -> int:
    """Scan one image; the number of different lines that came."""
    rows: set[int] = set()
    lines = run.apparatus.driver().frame(frame)
    try:
        while True:
            run.go_on()
            with run.acting():
                piece = next(lines, None)
            if piece is None:
                break
            rows.update(piece.rows)
            emit(msgspec.structs.replace(piece, image=image))
    finally:
        close = getattr(lines, "close", None)
        if close is not None:
            close()
    return len(rows)


def _park(apparatus: Apparatus, recipe: Park) -> None:
    gate = apparatus.gate
    before = gate.generation
    apparatus.guard.ask_park(recipe.reason, "job")
    deadline = time.monotonic() + PARK_WITHIN_S
    while gate.generation == before:
        if time.monotonic() > deadline:
            raise DriverError(f"the guard did not begin to park within {PARK_WITHIN_S:g} s.")
        # Polled: the gate wakes those who wait for it to close, and an older park may hold it closed already.
        time.sleep(0.001)
    if not gate.wait_open(max(0.0, deadline - time.monotonic())):
        raise DriverError(f"the park was not confirmed within {PARK_WITHIN_S:g} s.")


def kind_of(recipe: Recipe) -> str:
    """Name of a kind of job, as in the truth log and in answers."""
    return _KINDS[type(recipe)]


_KINDS: dict[type, str] = {
    Sweep: "sweep",
    Frame: "frame",
    BiasFrames: "bias frames",
    ReferencePatch: "reference patch",
    Move: "move",
    Pulse: "pulse",
    Indentation: "indentation",
    Engage: "engage",
    Park: "park",
}
