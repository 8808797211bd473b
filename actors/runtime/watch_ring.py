"""Events for people who watch: a bounded ring with numbers, so that a late asker knows what he missed."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from protocols.messages.daemon import Event, WatchEvents

BOUND = 2000
LONGEST_WAIT_S = 30.0


class WatchRing:
    """The last events of this daemon's life."""

    def __init__(self, bound: int = BOUND) -> None:
        self._events: deque[Event] = deque(maxlen=bound)
        self._number = 0
        self._new = asyncio.Event()

    @property
    def said(self) -> int:
        """Events so far."""
        return self._number

    def say(self, source: str, kind: str, text: str, run: str = "", job_id: str = "") -> None:
        """Add an event."""
        self._number += 1
        self._events.append(
            Event(
                number=self._number,
                wall_s=time.time(),
                source=source,
                kind=kind,
                text=text,
                run=run,
                job_id=job_id,
            )
        )
        self._new.set()

    async def after(self, since: int, limit: int, wait_s: float) -> WatchEvents:
        """Events after number ``since``; waits for one up to ``wait_s`` if there is none."""
        since = max(since, 0)
        if self._number <= since and wait_s > 0:
            self._new.clear()
            try:
                async with asyncio.timeout(min(wait_s, LONGEST_WAIT_S)):
                    await self._new.wait()
            except TimeoutError:
                pass  # nothing happened: that is an answer too
        found = [e for e in self._events if e.number > since][: max(limit, 1)]
        first = self._events[0].number if self._events else self._number + 1
        return WatchEvents(
            events=tuple(found),
            next=found[-1].number if found else since,
            dropped=max(0, min(first - 1, self._number) - since),
        )
