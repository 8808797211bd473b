"""Driver of electronics that speak the Nanonis TCP protocol: real ones, or our simulated door.

``link``: one connection (which port is for what: ``protocols.nanonis.address``).  ``channel``: commands by
name on it.  ``panel``: settings that are read back.  ``original``: what they were before.  ``hold``: what
both halves of the gateway do; ``driver``: all.  ``readings``, ``sweeps``, ``frames``, ``lockin``, ``trip``:
its parts.
"""
