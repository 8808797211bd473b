"""All commands of the door, gathered from the modules of the electronics."""

from __future__ import annotations

from sim_hardware.nanonis import (
    bias,
    bias_spectroscopy,
    follow_me,
    lock_in,
    marks,
    motor,
    oscilloscopes,
    piezo,
    scan,
    signals,
    tip_shaper,
    user_io,
    util,
    z_controller,
    z_spectroscopy,
)
from sim_hardware.nanonis.registry import Registry

MODULES = (
    bias,
    bias_spectroscopy,
    follow_me,
    lock_in,
    marks,
    motor,
    oscilloscopes,
    piezo,
    scan,
    signals,
    user_io,
    util,
    tip_shaper,
    z_spectroscopy,
    z_controller,
)


def all_commands() -> Registry:
    """One registry with everything."""
    registry = Registry()
    for module in MODULES:
        registry.include(module.REGISTRY)
    return registry
