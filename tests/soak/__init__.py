"""Garbage on every port at the same time, for as long as one likes: ``python -m tests.soak``."""
