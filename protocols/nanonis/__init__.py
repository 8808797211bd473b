"""The Nanonis TCP protocol, both ends, on bytes alone: framing, wire types, command table, conventions."""
