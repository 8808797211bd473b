"""Credited streams, both sides under one name."""

from __future__ import annotations

from protocols.links.stream_client import AsyncStreamClient
from protocols.links.stream_server import StreamServer, StreamSource

__all__ = ["AsyncStreamClient", "StreamServer", "StreamSource"]
