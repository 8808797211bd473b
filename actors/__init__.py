"""The actors of the microscope, one folder each, and what they share."""
