"""The Nanonis door of the simulated microscope: its TCP programming interface, over the same world."""
