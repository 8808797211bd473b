"""Pictures of the simulated samples: topographs, dI/dV maps, spectra, and what distorts a frame."""
