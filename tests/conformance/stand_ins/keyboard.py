"""Stands in for the package that the official client's examples ask whether a key is pressed: never."""


def is_pressed(_key):
    """No key is pressed."""
    return False
