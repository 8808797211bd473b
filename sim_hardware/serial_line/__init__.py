"""Simulated instruments on serial lines (pseudo-terminals): an SR830 and Lake Shore 335 and 336."""
