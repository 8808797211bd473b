"""Registration of frames, the drift velocity model and corrections."""
