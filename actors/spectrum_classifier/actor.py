"""Ray shell of the spectrum classifier: every spectrum of the run gets a label, inside the loop."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.runtime.shell import Shell, one_torch_thread
from actors.spectrum_classifier.classifier import Classifier
from actors.spectrum_classifier.training import classifier_for
from protocols.errors import UsageError
from protocols.messages.records import SpectrumTaken


class SpectrumClassifier(Shell):
    """Trains once per campaign, then labels; the same campaign and seed give the same model."""

    name = "spectrum_classifier"
    _classifier: Classifier | None = None
    _run = ""

    async def begin(self) -> int:
        """As every shell, with torch bounded to one thread."""
        one_torch_thread()
        self._training = asyncio.Lock()
        return await super().begin()

    async def prepare(self, run: str) -> str:
        """Train (seconds) what the campaign names; the name of the model."""
        async with self._training:
            if self._classifier is None or self._run != run:
                started = self.desk.started(run)
                campaign = started.campaign
                self._classifier = await asyncio.to_thread(
                    classifier_for, campaign.classifier, campaign.spectrum, started.seed
                )
                self._run = run
            return type(self._classifier).__name__

    async def label(self, run: str, job_id: str) -> dict[str, Any]:
        """Label a measured spectrum; committed."""
        await self.prepare(run)
        record = self.desk.reader(run).get(f"spectrum:{job_id}")
        if record is None or not isinstance(record.body, SpectrumTaken):
            raise UsageError(f"run {run} has no spectrum {job_id}.")
        assert self._classifier is not None
        said = await asyncio.to_thread(self._classifier.classify, record.body.data)
        (seq,) = await self.desk.commit(run, (f"label:{job_id}", said.record(job_id)))
        return {"seq": seq, "label": said.label, "confidence": said.confidence}
