"""Waiting in the control loop: every wait is short, gives a sign of life and looks at the world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

BEAT_S = 0.2


async def watched(work: Coroutine[Any, Any, T], beat: Callable[[], None]) -> T:
    """Do ``work`` in a task and call ``beat`` at least every 0.2 s meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            beat()
            await asyncio.wait({task}, timeout=BEAT_S)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def first_of(tasks: set[asyncio.Task[Any]], changed: asyncio.Event, timeout_s: float = BEAT_S) -> None:
    """Wait until one of the tasks is done, the event is set, or the time is over."""
    waiter = asyncio.ensure_future(changed.wait())
    try:
        await asyncio.wait({*tasks, waiter}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    changed.clear()
