"""Guard and worker: the only processes that touch the electronics."""
