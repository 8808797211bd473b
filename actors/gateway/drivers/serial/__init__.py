"""Auxiliary instruments on serial ports, through PyMeasure's drivers: a wrong reading is always an error."""
