"""Ray shell of the planner: decides where the next spectrum goes while others are being measured."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.dkl_planner.window_planner import WindowPlanner
from actors.runtime.shell import Shell, one_torch_thread
from protocols.errors import UsageError
from protocols.messages.records import WindowOpened


class DklPlanner(Shell):
    """Holds the planner of the open window; all it knows is in the journal."""

    name = "dkl_planner"
    _planner: WindowPlanner | None = None
    _of: tuple[str, int] = ("", -1)

    async def begin(self) -> int:
        """As every shell, with torch bounded to one thread."""
        one_torch_thread()
        self._thinking = asyncio.Lock()
        return await super().begin()

    async def decide(
        self, run: str, window: int, decision: str, index: int, cursor: int, pending: tuple[str, ...]
    ) -> dict[str, Any]:
        """Make a decision and commit it with the model's state; "exhausted" if no candidate is left."""
        async with self._thinking:
            planner = await self._planner_of(run, window)
            key = f"decision:{decision}"
            if self.desk.reader(run).get(key) is not None:
                return {"decision": decision, "stop": planner.stop_reason(index + 1)}
            made = await asyncio.to_thread(planner.decide, decision, index, cursor, pending)
            if isinstance(made, str):
                return {"decision": "", "stop": made}
            seqs = await self.desk.commit(run, (key, made.decision), (f"model:{decision}", made.model))
            planner.kept(seqs[1])
            return {"decision": decision, "stop": planner.stop_reason(index + 1)}

    async def close_window(self, run: str, window: int, cursor: int) -> int:
        """Commit the predicted map of a window; its sequence number."""
        async with self._thinking:
            planner = await self._planner_of(run, window)
            key = f"map:{window}"
            known = self.desk.reader(run).get(key)
            if known is not None:
                return known.seq
            body = await asyncio.to_thread(planner.predicted_map, cursor)
            (seq,) = await self.desk.commit(run, (key, body))
            return seq

    async def _planner_of(self, run: str, window: int) -> WindowPlanner:
        if self._planner is None or self._of != (run, window):
            reader = self.desk.reader(run)
            record = reader.get(f"window:{window}")
            if record is None or not isinstance(record.body, WindowOpened):
                raise UsageError(f"run {run} has no window {window}.")
            self._planner = await asyncio.to_thread(WindowPlanner, reader, record.body)
            self._of = (run, window)
        return self._planner
