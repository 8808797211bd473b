"""State tables as data: session, lease, park, engage, latch, job, run."""
