"""File formats and units at the edge: Nanonis grids, campaigns, limits, durable SQLite."""
