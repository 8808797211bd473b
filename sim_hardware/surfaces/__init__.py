"""Surfaces: what the tip stands above.  Each knows the truth about everything in it."""
