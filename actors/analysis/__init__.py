"""Pure and shared: scalarizers, patches, levelling, registration."""
