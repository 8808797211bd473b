"""Ready campaigns, found by name: ``stmctl run multiscale_vacancy``."""
