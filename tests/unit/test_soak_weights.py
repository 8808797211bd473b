"""The soak's own judgement: what counts as flat."""

from __future__ import annotations

import random

import psutil
import pytest

from tests.soak.good_client import quantile
from tests.soak.weights import FILES, FLAT_MIB, GREETING_S, GROWTH_MIB, MOST_FILES, WARM_UP_SHARE, Weights

SECONDS = 600


def weighed(mib: list[float], files: list[int] | None = None, speaks_grpc: bool = False) -> Weights:
    """Samples, one a second."""
    times = [float(k) for k in range(len(mib))]
    return Weights(psutil.Process(), speaks_grpc, times, mib, files or [20] * len(mib))


def test_noise_and_a_warm_up_are_flat() -> None:
    """What is gained in the first third does not count, nor does an allocator's noise after it."""
    rng = random.Random(1)
    warm = [50.0 + 0.2 * min(k, 150) + rng.uniform(-3.0, 3.0) for k in range(SECONDS)]
    assert abs(weighed(warm).fitted_mib) < 2.0
    assert weighed(warm).faults(50.0) == []


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.2])
def test_a_slow_leak_is_found(rate: float) -> None:
    """A line through the samples after the warm-up gains more than is allowed, though no sample is high."""
    gain = rate * 2.0 * FLAT_MIB
    leak = [50.0 + gain * k / SECONDS for k in range(SECONDS)]
    found = weighed(leak)
    assert found.fitted_mib == pytest.approx(gain * (1.0 - WARM_UP_SHARE), rel=0.01)
    assert bool(found.faults(50.0)) == (rate > 0.75)


def test_a_moment_of_much_memory_is_found() -> None:
    """One high sample is enough."""
    mib = [50.0] * SECONDS
    mib[400] += GROWTH_MIB + 1.0
    assert any("for a while" in fault for fault in weighed(mib).faults(50.0))


def test_open_files_are_counted_where_they_say_something() -> None:
    """A leak of them is found; of a process with ports of Ray only in a run whose warm-up is long enough, and
    any number that comes near the system's limit."""
    leak = [20 + k * 3 * FILES // SECONDS for k in range(SECONDS)]
    assert weighed([50.0] * SECONDS, leak).faults(50.0)
    assert weighed([50.0] * SECONDS, leak, speaks_grpc=True).faults(50.0)
    short = int(GREETING_S / WARM_UP_SHARE) // 2
    steep = [20 + k * 3 * FILES // short for k in range(short)]
    assert weighed([50.0] * short, steep).faults(50.0)
    assert not weighed([50.0] * short, steep, speaks_grpc=True).faults(50.0)
    assert weighed([50.0] * short, [MOST_FILES + 1] * short, speaks_grpc=True).faults(50.0)


def test_broken_greetings_come_and_go() -> None:
    """Of a process with ports of Ray a tenth more open files is weather; what one connection in ten would
    leave behind is found."""
    for gain, fault in ((0.12, False), (0.4, True)):
        files = [int(280 + 280 * gain * 1.5 * (k / SECONDS - 1 / 3)) for k in range(SECONDS)]
        found = weighed([50.0] * SECONDS, files, speaks_grpc=True)
        assert found.fitted_files > FILES
        assert bool(found.faults(50.0)) == fault
    assert weighed([50.0] * SECONDS, files).faults(50.0)


def test_quantiles() -> None:
    """Of all values, in any order."""
    values = [float(k) for k in range(100, 0, -1)]
    assert quantile(values, 0.5) == 51.0
    assert quantile(values, 0.99) == 100.0
    assert quantile(values, 1.0) == 100.0
    assert quantile([], 0.5) == 0.0
