"""What every message shares: the protocol version, the tagged base class and the array type.

A message on the wire is one frame: the msgpack array ``[version, request_id, message]`` where
``message`` is a map whose key ``"t"`` names its kind.  All quantities are SI, the unit is in the
field's name or docstring.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.messages.version import PROTOCOL_VERSION as PROTOCOL_VERSION

Array: TypeAlias = npt.NDArray[np.generic]
"""An ndarray travelling as a msgpack extension (dtype, shape and byte order are checked)."""

FloatArray: TypeAlias = npt.NDArray[np.float64]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True):
    """Base of everything that travels or is journaled; its kind is the class name."""
