"""The tip is parked when those who answer for it fail: lease, worker, connection."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from protocols.errors import StaleEpochError
from protocols.messages.control import AcquireLease, GuardStatus, RenewLease
from protocols.messages.jobs import JobState
from protocols.nanonis.address import parse_address
from tests.cluster.gateway_harness import await_that
from tests.hil.figures import milliseconds
from tests.hil.laboratory import Laboratory
from tests.hil.relay import Relay

SHORT_LEASE_S = 2.0
SHORTEST_LEASE_S = 1.0
"""On the simulated microscope, which answers sooner."""


def require_parked(lab: Laboratory, status: GuardStatus) -> None:
    """Withdrawn, controller off, modulation off and bias at rest, as the guard's own connection reads it."""
    found = lab.gateway.reading()
    assert status.latch == "open", status.latch_reason
    assert found.withdrawn
    assert not found.feedback
    assert not found.sweeping
    assert not found.lockin_on
    assert abs(found.bias_v - lab.limits.rest_bias) <= lab.limits.bias_tolerance


def test_a_lost_lease_parks(lab: Laboratory, figures: Callable[[str, str], None]) -> None:
    """Nobody renews the lease: the tip is parked in mid-sweep, and the next owner engages."""
    gateway = lab.gateway
    gateway.give_lease_back()
    seconds = SHORTEST_LEASE_S if lab.microscope else SHORT_LEASE_S
    gateway.epoch = gateway.ask(AcquireLease(owner="qualification", duration_s=seconds)).epoch
    lab.engaged()
    gateway.ask(RenewLease(epoch=gateway.epoch))
    job = lab.sweeping()
    lost = gateway.epoch
    left_s = gateway.guard().lease_left_s
    began = time.monotonic()
    status = gateway.parked("lease")
    figures("parked", f"{1e3 * (time.monotonic() - began - left_s):.0f} ms after the lease ran out")
    require_parked(lab, status)
    assert gateway.state_of(job).state is JobState.INTERRUPTED
    with pytest.raises(StaleEpochError):
        gateway.ask(RenewLease(epoch=lost))
    lab.engaged()
    assert gateway.epoch > lost


def test_a_hung_worker_does_not_keep_the_tip_down(
    lab: Laboratory, figures: Callable[[str, str], None]
) -> None:
    """The worker hangs in mid-sweep with its connection: a stop parks over the guard's own."""
    lab.engaged()
    gateway = lab.gateway
    lab.sweeping()
    hung = gateway.worker_pid()
    os.kill(hung, signal.SIGSTOP)
    try:
        answer = gateway.stop("qualification: the worker hangs")
        assert answer["withdrawn"], answer["detail"]
        status = gateway.parked()
    finally:
        gateway.resume(hung)
    figures("retraction has begun", milliseconds([answer["round_trip_s"]]))
    require_parked(lab, status)
    await_that("a new worker", lambda: gateway.worker_pid() not in (0, hung), 20.0)
    gateway.seen_pids.add(gateway.worker_pid())
    lab.engaged()


def test_a_hung_connection_does_not_keep_the_tip_down(
    lab: Laboratory, figures: Callable[[str, str], None]
) -> None:
    """The worker's ports fall silent in mid-sweep: a stop parks over the guard's ports."""
    if lab.electronics.driver != "nanonis":
        pytest.skip("these electronics have one port for all; a connection of its own is cut on Nanonis")
    address = parse_address(lab.electronics.endpoint)
    lab.end_gateway()
    with Relay(address.host, address.ports) as relay:
        gateway = lab.restart_gateway(relay.endpoint)
        try:
            lab.engaged()
            lab.sweeping()
            relay.hang(0, 1)
            answer = gateway.stop("qualification: the worker's connection hangs")
            assert answer["withdrawn"], answer["detail"]
            status = gateway.parked()
            figures("retraction has begun", milliseconds([answer["round_trip_s"]]))
            require_parked(lab, status)
        finally:
            relay.flow()
            lab.end_gateway()
