"""Driver of electronics that speak the Nanonis TCP protocol: real ones, or our simulated door.

``link``: one connection (which port is for what: ``protocols.nanonis.address``).  ``channel``: commands by
name on it.  ``panel``: settings that are read back.  ``original``: what they were before.  ``readings``,
``sweeps``, ``frames``, ``lockin``, ``trip``: what the driver does with them.
"""
