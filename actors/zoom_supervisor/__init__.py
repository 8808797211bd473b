"""Windows and the search over length scales."""
