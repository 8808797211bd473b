"""Pure physics of the microscope: arrays in, arrays out."""
