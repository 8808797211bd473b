"""Typed, versioned messages and their codec: pure data, SI units."""
