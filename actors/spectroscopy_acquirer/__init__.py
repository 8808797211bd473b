"""Bias sweeps and their quality checks."""
