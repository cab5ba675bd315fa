"""Batched functions and decompositions of symmetric and Hermitian matrices: the numerics under every geometry.

Every function takes stacks (..., n, n), returns the dtype and device of its input, has a gradient that is exact at
repeated eigenvalues, and traces under ``torch.compile``, ``torch.func`` and ``torch.export``.
"""

from manifoldnorm.linalg import _ops as _ops  # registers the operators
from manifoldnorm.linalg import functions
from manifoldnorm.linalg._ops import INDEFINITE_TOL, sample_index
from manifoldnorm.linalg._precision import check_matrix, precision, symmetrize, without_autocast
from manifoldnorm.linalg._tally import tally
from manifoldnorm.linalg.cholesky import (
    cholesky,
    exp_cholesky,
    half_lower,
    inverse_cholesky,
    inverse_lower,
    log_cholesky,
    sum_of_inverses,
)
from manifoldnorm.linalg.congruence import congruence
from manifoldnorm.linalg.dilation import whiten
from manifoldnorm.linalg.eigen import eigh, eigvalsh, smallest_below
from manifoldnorm.linalg.kernels import apply_kernel, lyapunov
from manifoldnorm.linalg.native import backend, backends
from manifoldnorm.linalg.spectral import (
    apply,
    clamp_eig,
    expm,
    frechet_derivative,
    inv_sqrtm,
    logm,
    powm,
    sqrtm,
    sqrtm_inv_sqrtm,
    sum_log,
    sum_log_squared,
    weighted_apply,
)
from manifoldnorm.linalg.spectrum import Spectrum, decompose

__all__ = [
    "INDEFINITE_TOL",
    "Spectrum",
    "apply",
    "apply_kernel",
    "backend",
    "backends",
    "check_matrix",
    "cholesky",
    "clamp_eig",
    "congruence",
    "decompose",
    "eigh",
    "eigvalsh",
    "exp_cholesky",
    "expm",
    "frechet_derivative",
    "functions",
    "half_lower",
    "inv_sqrtm",
    "inverse_cholesky",
    "inverse_lower",
    "log_cholesky",
    "logm",
    "lyapunov",
    "powm",
    "precision",
    "sample_index",
    "smallest_below",
    "sqrtm",
    "sqrtm_inv_sqrtm",
    "sum_log",
    "sum_log_squared",
    "sum_of_inverses",
    "symmetrize",
    "tally",
    "weighted_apply",
    "whiten",
    "without_autocast",
]
