"""Leads clients that have ports 6501 to 6504 built in to the ports of the server under test.

Python imports this module by itself when its folder is on PYTHONPATH; the clients stay as they are.
"""

import os
import socket

PORTS = [int(port) for port in os.environ.get("NANONIS_PORTS", "6501,6502,6503,6504").split(",")]
_connect = socket.socket.connect


def _redirected(self, address):
    if isinstance(address, tuple) and address[1] in range(6501, 6505):
        address = (address[0], PORTS[address[1] - 6501], *address[2:])
    return _connect(self, address)


socket.socket.connect = _redirected
