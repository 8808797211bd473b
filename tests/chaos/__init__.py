"""Kills every process of a running laboratory, again and again, and checks that nothing is lost."""
