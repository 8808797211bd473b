"""Frames, raster lines and survey images."""
