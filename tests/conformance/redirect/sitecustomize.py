"""Leads clients that have ports 6501 to 6504 built in to the ports of the server under test.

Python imports this module by itself when its folder is on PYTHONPATH; the clients stay as they are.
"""

import os
import socket

FIRST = int(os.environ.get("NANONIS_FIRST_PORT", "6501"))
_connect = socket.socket.connect


def _redirected(self, address):
    if isinstance(address, tuple) and address[1] in range(6501, 6505):
        address = (address[0], FIRST + address[1] - 6501, *address[2:])
    return _connect(self, address)


socket.socket.connect = _redirected
