"""The emergency stop, with as little as possible that could fail: pyzmq, msgpack and the standard library.

It speaks the wire format of ``protocols.messages.codec`` without importing it, and needs no HELLO.
"""

from __future__ import annotations

import os
import time
from typing import Any

import msgpack
import zmq

from protocols.errors import DeadlineError, MalformedMessageError, PeerError, RefusedError
from protocols.links.loopback import check_endpoint
from protocols.messages.version import PROTOCOL_VERSION

_ADVICE = (
    "Withdraw by hand at the electronics; then see whether stmgate runs, without it nothing parks the tip."
)


def send_stop(endpoint: str, reason: str, timeout_s: float = 1.0) -> dict[str, Any]:
    """Ask the guard at ``endpoint`` to withdraw now and wait until the retraction has begun.

    Returns the fields of its StopAnswer (``withdrawn``, ``detail``, ``took_s``), ``round_trip_s`` and
    ``endpoint``.  ``withdrawn`` False means that the guard tries and has not succeeded yet.

    Raises:
        DeadlineError: no answer within ``timeout_s`` seconds.
        RefusedError: the guard refused.
        PeerError: something else answered there.
        ConfigError: the endpoint is not on this computer.
    """
    check_endpoint(endpoint)
    deadline = time.monotonic() + timeout_s
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDTIMEO, max(1, round(timeout_s * 1000)))
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.MAXMSGSIZE, 2**20)
        socket.connect(endpoint)
        return _exchange(socket, endpoint, reason, timeout_s, deadline)
    except zmq.Again:
        raise _nobody(endpoint, timeout_s) from None
    finally:
        context.destroy(linger=0)


def _exchange(
    socket: zmq.Socket[bytes], endpoint: str, reason: str, timeout_s: float, deadline: float
) -> dict[str, Any]:
    if not socket.poll(_milliseconds(deadline), zmq.POLLOUT):
        raise _nobody(endpoint, timeout_s)
    request_id = f"stop-{os.getpid()}"
    sent_s = time.monotonic()
    body = {"t": "Stop", "reason": reason, "sent_monotonic_s": sent_s}
    socket.send(msgpack.packb([PROTOCOL_VERSION, request_id, body]))
    while socket.poll(_milliseconds(deadline)):
        answer = _read(socket.recv(), request_id, endpoint)
        if answer is not None:
            return {**answer, "round_trip_s": time.monotonic() - sent_s, "endpoint": endpoint}
    raise DeadlineError(
        f"the gateway at {endpoint} took the stop and gave no answer within {timeout_s:g} s.",
        _ADVICE,
        endpoint=endpoint,
        sent=True,
    )


def _nobody(endpoint: str, timeout_s: float) -> DeadlineError:
    return DeadlineError(
        f"no gateway at {endpoint} within {timeout_s:g} s: nobody listens, the stop was not sent.",
        _ADVICE,
        endpoint=endpoint,
        sent=False,
    )


def _read(data: bytes, request_id: str, endpoint: str) -> dict[str, Any] | None:
    """Fields of the answer; None if it answers something else."""
    try:
        version, answered, body = msgpack.unpackb(data)
        kind = body.pop("t")
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as broken:
        raise MalformedMessageError(
            f"{endpoint} answered something that is no message of ours.", _ADVICE
        ) from broken
    if answered != request_id:
        return None
    if kind == "Refusal":
        raise RefusedError(
            f"the gateway at {endpoint} refused to stop: {body.get('reason')}",
            str(body.get("advice", "")) or _ADVICE,
            refusal_code=body.get("code"),
            endpoint=endpoint,
        )
    if kind != "StopAnswer" or version != PROTOCOL_VERSION:
        raise PeerError(f"{endpoint} answered a stop with {kind} (version {version}): no guard.", _ADVICE)
    return dict(body)


def _milliseconds(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000) + 1)
