"""Data sets: labelled images of simulated samples, made by the hundred thousand."""
