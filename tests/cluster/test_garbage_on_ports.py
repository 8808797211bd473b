"""Garbage on every port of stmgate, journal writer and two simulated microscopes while a small campaign runs.

The campaign's gateway drives the first microscope over its Nanonis door, before whose occupied ports a crowd
waits; the second one's Nanonis ports serve the crowd.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from protocols.links.sockets import bind_router, connect_dealer
from tests.soak.nanonis_crowd import CROWD
from tests.soak.nanonis_garbage import SERVED
from tests.soak.session import under_garbage

GARBAGE_S = 20.0
"""``make soak`` does it for ten minutes, with the daemon and on Ray's ports too."""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_garbage_on_every_port(tmp_path: Path) -> None:
    """Every process stays the same, answers all along, keeps its connections, and gains no memory and no open
    files to speak of; nothing is lost, nobody is served on an occupied port, and who behaves is answered."""
    outcome = under_garbage(tmp_path, GARBAGE_S, seed=1)
    assert not outcome.faults, "\n".join(outcome.faults)
    assert outcome.comparison.measured == outcome.comparison.journaled > 5
    assert min(outcome.sent.values()) > 0
    assert {f"nanonis: {name}" for name in SERVED} | set(CROWD) <= set(outcome.sent)
    assert min(len(outcome.round_trips_s), len(outcome.served_s)) > 0


def test_servers_send_no_heartbeats() -> None:
    """Clients do.  With a server's own, libzmq 4.3.5 aborts the process one interval after a peer has flooded
    it and gone (Assertion failed: !_io_error; libzmq issue 4364)."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        endpoint = bind_router(server, "tcp://127.0.0.1:0")
        assert server.getsockopt(zmq.HEARTBEAT_IVL) == 0
        connect_dealer(client, endpoint, "test")
        assert client.getsockopt(zmq.HEARTBEAT_IVL) > 0
