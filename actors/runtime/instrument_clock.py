"""What time it is at the instrument: its clock runs at the time scale, ours does not."""

from __future__ import annotations

import time

from actors.runtime.tip_ownership import TipOwnership


def instrument_time_s(tip: TipOwnership, time_scale: float) -> float:
    """The instrument's clock now (s), from the guard's last reading of it; 0 before there is one."""
    if tip.status is None or tip.status.instrument is None:
        return 0.0
    return tip.status.instrument.time_s + (time.monotonic() - tip.asked_s) * time_scale
