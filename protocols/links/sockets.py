"""How every socket of ours is set up: no lingering, no queue without bound, no silent drop."""

from __future__ import annotations

import errno
import os
from typing import Any, TypeVar

import zmq

from protocols.errors import ConfigError, MalformedMessageError
from protocols.links.loopback import check_endpoint

HIGH_WATER_MARK = 1100
"""Messages queued per connection and direction; above the largest credit window of a stream."""

MAXIMUM_FRAME_BYTES = 65 * 2**20
"""A peer that sends a longer frame is disconnected."""

HEARTBEAT_MS = 1000
"""Between heartbeats of clients; a peer that is silent for three of them is disconnected, by either side (the
heartbeat says so itself).  Servers send none: libzmq aborts the process when a heartbeat is due on a
connection that was cut while its input stood still because nobody had read it yet (libzmq issue 4364)."""

HANDSHAKE_MS = 3000
"""A connection that has not finished its handshake by then is closed."""

RECONNECT_MS = 50
RECONNECT_MAXIMUM_MS = 500

_Socket = TypeVar("_Socket", bound=zmq.Socket[Any])


def connect_dealer(socket: _Socket, endpoint: str, me: str) -> _Socket:
    """Connect a DEALER as ``me`` (a random suffix makes the identity unique).

    IMMEDIATE is on: nothing queues for a peer that is not there, so that a request given up before it was
    sent is never acted upon later.

    Raises:
        ConfigError: the endpoint is not on this computer.
    """
    check_endpoint(endpoint)
    _set_common(socket)
    socket.setsockopt(zmq.ROUTING_ID, f"{me[:100]}-{os.getpid()}-{os.urandom(6).hex()}".encode())
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAXIMUM_MS)
    socket.connect(endpoint)
    return socket


def bind_router(socket: zmq.Socket[Any], endpoint: str) -> str:
    """Bind a ROUTER and return the endpoint with its real port.

    Raises:
        ConfigError: the endpoint is not on this computer, or somebody listens there already.
    """
    try:
        check_endpoint(endpoint)
        _set_common(socket)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.bind(endpoint)
    except zmq.ZMQError as failed:
        socket.close()
        port = endpoint.rpartition(":")[2]
        if failed.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {endpoint} is in use by another process.",
                f"Stop that process (find it: ss -ltnp 'sport = :{port}') or choose another port (0: any).",
            ) from None
        raise ConfigError(
            f"cannot listen at {endpoint}: {failed.strerror}.", "Choose another port."
        ) from failed
    except ConfigError:
        socket.close()
        raise
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def split_routed(frames: list[bytes]) -> tuple[bytes, bytes]:
    """Identity and content of what a ROUTER received.

    Raises:
        MalformedMessageError: the peer sent more or fewer than one frame.
    """
    if len(frames) != 2:
        raise MalformedMessageError(f"a message of {len(frames) - 1} frames instead of one.", request_id="")
    return frames[0], frames[1]


def _set_common(socket: zmq.Socket[Any]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAXIMUM_FRAME_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
