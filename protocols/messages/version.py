"""The number of the wire protocol, in a module of its own: ``stmctl withdraw`` must not import more."""

from __future__ import annotations

PROTOCOL_VERSION = 1
"""Raised when a message changes its meaning; peers with another number are refused at HELLO."""
