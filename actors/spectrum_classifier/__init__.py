"""The 1-D CNN that labels spectra inside the loop."""
