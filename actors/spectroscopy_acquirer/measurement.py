"""From a decision to an order, and from an order's data to the record of a spectrum."""

from __future__ import annotations

import math

from actors.analysis.scalarizers import scalar_of
from actors.spectroscopy_acquirer.quality import QualityOptions, check_spectrum
from protocols.errors import PeerError
from protocols.messages.campaign import Campaign
from protocols.messages.data import Chunk, EndOfStream, SweepData
from protocols.messages.recipes import SpectrumRecipe, Sweep
from protocols.messages.records import JobIssued, SpectrumTaken, Transform

MARGIN_S = 60.0
"""Wall seconds that a sweep may wait for others and for travel, above three times its own duration."""


def nominal_s(recipe: SpectrumRecipe) -> float:
    """Instrument seconds that a spectrum takes without travel."""
    return recipe.settle_s + recipe.sweep_duration_s


def deadline_s(recipe: SpectrumRecipe, time_scale: float) -> float:
    """Wall seconds after which a sweep that has not ended is a fault."""
    return MARGIN_S + 3.0 * nominal_s(recipe) / time_scale


def issue_sweep(
    job_id: str,
    place: tuple[float, float],
    campaign: Campaign,
    transform: Transform,
    time_s: float,
    epoch: int,
    window: int,
    decision: str,
    by: str,
) -> JobIssued:
    """The record written before the sweep is sent.

    Args:
        job_id: ``run/d0012/a1``.
        place: target in sample coordinates (m).
        campaign: whose spectrum recipe is used.
        transform: drift in force.
        time_s: instrument time (s) at which the sweep is expected to begin.
        epoch: of the lease under which it will be sent.
        window: index of the window, -1 for none.
        decision: id of the decision, empty for an operator's spectrum.
        by: "campaign" or who asked.
    """
    x, y = transform.to_piezo(*place, time_s)
    return JobIssued(
        job_id=job_id,
        recipe=Sweep(x_m=x, y_m=y, spectrum=campaign.spectrum),
        epoch=epoch,
        decision=decision,
        window=window,
        sample_x_m=place[0],
        sample_y_m=place[1],
        transform=transform,
        by=by,
    )


def spectrum_taken(
    issued: JobIssued, end: EndOfStream, chunks: list[Chunk], campaign: Campaign, rail_a: float
) -> SpectrumTaken:
    """Check the data of a finished sweep, and make its record with its scalar.

    ``sample_x_m``, ``sample_y_m`` say where the spectrum was really taken: the drift between the time it was
    planned for and the time it began is in them.

    Raises:
        PeerError: the job was no sweep, or gave not exactly one spectrum.
    """
    bodies = [c.body for c in chunks if isinstance(c.body, SweepData)]
    recipe = issued.recipe
    if not isinstance(recipe, Sweep) or len(bodies) != 1 or len(chunks) != 1:
        raise PeerError(
            f"{issued.job_id} ({type(recipe).__name__}) gave {len(chunks)} pieces, {len(bodies)} of them "
            "spectra; one was expected.",
            "The gateway is of another version.",
        )
    (data,) = bodies
    quality = check_spectrum(data, recipe.spectrum, QualityOptions(current_rail_a=rail_a))
    scalar = scalar_of(data, campaign.scalar)
    valid = quality.valid and math.isfinite(scalar.value)
    failed = quality.failed
    if quality.valid and not valid:
        failed = (*failed, f"no scalar: {scalar.reason}")
    x, y = issued.transform.to_sample(data.x_m, data.y_m, data.time_s)
    return SpectrumTaken(
        job_id=issued.job_id,
        decision=issued.decision,
        window=issued.window,
        sample_x_m=x,
        sample_y_m=y,
        piezo_x_m=data.x_m,
        piezo_y_m=data.y_m,
        recipe=recipe.spectrum,
        data=data,
        scalar=scalar.value,
        valid=valid,
        quality=failed,
        began_s=end.began_s,
        ended_s=end.ended_s,
        travel_s=end.travel_s,
        settle_s=end.settle_s,
    )
