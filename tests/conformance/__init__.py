"""Checks of the Nanonis door and of the files by code that others wrote: ``make conformance``.

``python -m tests.conformance [PART ...]`` runs the parts and prints a table; ``--help`` lists them.  Others'
packages live in environments under ``.conformance``, made once from ``requirements/*.txt`` (pinned, all
listed) and made anew when a list changes; nothing of them is a dependency of the product.  Their code runs in
processes of its own (``clients/``), knows nothing of ours, and is not changed: where ports 6501 to 6504 are
taken, ``redirect`` leads its connections to those of the server under test.
"""
