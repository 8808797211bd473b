"""All commands of the door, gathered from the modules of the electronics."""

from __future__ import annotations

from sim_hardware.nanonis import (
    atom_tracking,
    bias,
    bias_spectroscopy,
    bias_spectroscopy_settings,
    follow_me,
    generators,
    lock_in,
    loggers,
    marks,
    motor,
    oscilloscopes,
    pattern,
    piezo,
    regulators,
    scan,
    scan_settings,
    signals,
    sweepers,
    tip_shaper,
    user_io,
    util,
    z_controller,
    z_spectroscopy,
)
from sim_hardware.nanonis.registry import Registry

MODULES = (
    atom_tracking,
    bias,
    bias_spectroscopy,
    bias_spectroscopy_settings,
    follow_me,
    generators,
    lock_in,
    loggers,
    marks,
    motor,
    oscilloscopes,
    pattern,
    piezo,
    regulators,
    scan,
    scan_settings,
    signals,
    sweepers,
    tip_shaper,
    user_io,
    util,
    z_controller,
    z_spectroscopy,
)


def all_commands() -> Registry:
    """One registry with everything."""
    registry = Registry()
    for module in MODULES:
        registry.include(module.REGISTRY)
    return registry
