"""How often something may be started again before a person has to look."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """At most ``restarts`` in any ``window_s`` seconds; Ray's own restarts have no such limit."""

    def __init__(self, restarts: int = 3, window_s: float = 60.0) -> None:
        self.restarts = restarts
        self.window_s = window_s
        self.total = 0
        self._times: deque[float] = deque(maxlen=restarts)

    def spend(self, now_s: float) -> bool:
        """Ask for one restart at monotonic time ``now_s``; False when the budget is spent."""
        if len(self._times) == self.restarts and now_s - self._times[0] < self.window_s:
            return False
        self._times.append(now_s)
        self.total += 1
        return True

    def reset(self) -> None:
        """A person has looked."""
        self._times.clear()
