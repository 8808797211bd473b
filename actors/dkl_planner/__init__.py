"""Deep kernel learning: Gaussian process, acquisition functions, pending points."""
