"""Supervision, restart budget, Ray options and links to the gateway."""
