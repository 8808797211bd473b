"""Checks of the Nanonis door and of the files by code that others wrote.

``python -m tests.conformance [PART ...]`` runs the parts, each in an environment of its own under
``.conformance``; nothing of it is a dependency of the product.
"""
