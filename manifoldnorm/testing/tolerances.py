"""The one table of tolerances: law by law, for double and for single precision. Residuals are relative."""

from __future__ import annotations

import torch

# (double, single). On CPU single precision is decomposed in double, so storage rounding is what single sees.
EXACT = (0.0, 0.0)  # counts of violated statements
ROUNDING = (1e-11, 1e-4)  # one closed form against another
DIFFERENCE = (1e-8, 1e-3)  # against a first finite difference
SECOND_DIFFERENCE = (1e-6, 1e-2)  # against a second finite difference
ITERATED = (1e-10, 1e-4)  # a converged mean enters
GRADIENT = (1e-8, 1e-3)  # autograd against a finite difference in double precision

TOLERANCES: dict[str, tuple[float, float]] = {}


def tolerance_of(law: str, dtype: torch.dtype) -> float:
    """Return the tolerance of a law; variants such as ``equivariance[rotation]`` share the entry of their stem."""
    return TOLERANCES[law.split("[")[0]][0 if dtype == torch.float64 else 1]
