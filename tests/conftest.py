"""For all tests.

Some CPython 3.11 raise "SystemError: AST constructor recursion depth mismatch" when Python code runs in a
garbage collection while a syntax tree is built: hypothesis has a callback that does, and pytest builds the
trees of all modules it rewrites.  So nothing is collected until all tests are found.
"""

from __future__ import annotations

import gc

gc.disable()

from hypothesis import settings  # noqa: E402  (not before the line above)

# How long an example takes says nothing of our code.  The same examples every time, so that a test that fails
# fails for everybody; "make fuzz" looks for new ones.
settings.register_profile("tunnelpilot", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("tunnelpilot")


def pytest_collection_finish() -> None:
    """All modules are imported: collect again."""
    gc.enable()
