"""Pauses the garbage collector while the package is imported.

A full collection in between would walk through all of torch's objects and take longer than the import itself.
"""

from __future__ import annotations

import gc

_was_enabled = gc.isenabled()
gc.disable()


def resume() -> None:
    """Let the collector run again, if it did before."""
    if _was_enabled:
        gc.enable()
