"""One driver per electronics."""
