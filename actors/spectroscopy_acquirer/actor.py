"""Ray shell of the spectroscopy acquirer: one sweep from its decision to its acknowledged record."""

from __future__ import annotations

from typing import Any

from actors.runtime.job_desk import Order, Outcome
from actors.runtime.shell import Shell
from actors.spectroscopy_acquirer.measurement import deadline_s, issue_sweep, spectrum_taken
from protocols.messages.control import WorkerQuery, WorkerStatus
from protocols.messages.jobs import Priority
from protocols.messages.records import Transform


class SpectroscopyAcquirer(Shell):
    """Takes spectra; several may be ordered at a time, the gateway does one after the other."""

    name = "spectroscopy_acquirer"
    _rail_a: float | None = None

    async def measure(
        self,
        run: str,
        job_id: str,
        place: tuple[float, float],
        transform: Transform,
        time_s: float,
        epoch: int,
        window: int,
        decision: str = "",
        by: str = "campaign",
        after: str = "",
    ) -> Outcome:
        """One spectrum at ``place`` (sample coordinates, m), expected to begin at instrument ``time_s``;
        with ``after``, not before that job."""
        started = self.desk.started(run)
        campaign = started.campaign
        priority = Priority.CAMPAIGN if by == "campaign" else Priority.OPERATOR
        longest_s = deadline_s(campaign.spectrum, started.time_scale)
        order = Order(run, job_id, epoch, longest_s, priority, after=after)
        rail_a = await self._rail()

        def result(issued: Any, job: Any) -> Any:
            body = spectrum_taken(issued, job.end, job.chunks, campaign, rail_a)
            facts = {"scalar": body.scalar, "valid": body.valid, "quality": list(body.quality)}
            return [(f"spectrum:{job_id}", body)], facts

        def issue() -> Any:
            return issue_sweep(job_id, place, campaign, transform, time_s, epoch, window, decision, by)

        return await self.desk.perform(order, issue, result)

    async def _rail(self) -> float:
        """The preamplifier's rail (A), asked once."""
        if self._rail_a is None:
            answer = await self.desk.gateway.ask(WorkerQuery())
            assert isinstance(answer, WorkerStatus)
            self._rail_a = answer.preamplifier_rail_a
        return self._rail_a
