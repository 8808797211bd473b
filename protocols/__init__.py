"""What the actors, the gateway and the simulated microscope say to each other; imports neither of them."""
