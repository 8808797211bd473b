"""The simulated microscope: a world of its own behind the same protocols."""
