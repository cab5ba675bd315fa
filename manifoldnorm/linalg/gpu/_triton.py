"""Triton, or the reason why it is not there: kernels are defined either way and launched only where it is."""

from __future__ import annotations

import os
from typing import Any

interpreted = os.environ.get("TRITON_INTERPRET") == "1"
missing: str | None = None
tl: Any = None


def jit(function: Any = None, **options: Any) -> Any:
    """Leave a kernel as it is: without Triton it is never launched."""
    return (lambda kernel: kernel) if function is None else function


try:
    import triton
    import triton.language

    jit, tl = triton.jit, triton.language
except ImportError as error:
    missing = f"triton is not installed ({error})"
except Exception as error:  # noqa: BLE001 - whatever a broken compiler raises, torch's solver takes its place
    missing = f"triton does not load ({type(error).__name__}: {error})"
