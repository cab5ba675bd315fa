"""Every geometry of matrices obeys every law it can have, in both precisions; what it lacks is written down here."""

from __future__ import annotations

import pytest
import torch

from manifoldnorm.testing import laws_of, run_laws
from manifoldnorm.testing.catalogue_spd import MANIFOLDS
from manifoldnorm.testing.checks import GYRO_LAWS, LIE_LAWS, MANIFOLD_LAWS

ALL = {f.__name__ for f in MANIFOLD_LAWS + LIE_LAWS + GYRO_LAWS}
GROUPS = {f.__name__ for f in LIE_LAWS + GYRO_LAWS}
FLAT = {"newton_hessian", "injectivity"}  # the mean has a closed form, the exponential is defined everywhere
CHART = {"group_dilation", "gyro_dilation"}  # layers move points in the chart
TRANSPORT = {"transport_isometry", "transport_round_trip", "transport_velocity", "transport_is_parallel"}
BURES = GROUPS | TRANSPORT
ABSENT = {
    "Euclidean": FLAT | {"violation_notices"},
    "Symmetric": FLAT,
    "Triangular": FLAT,
    "AffineInvariant": {"injectivity"},
    "LogEuclidean": FLAT | CHART,
    "LogCholesky": FLAT | CHART,
    "BuresWasserstein": BURES,
    "GeneralizedBuresWasserstein": BURES,
    "CholeskyRightInvariant": {"injectivity"} | CHART,
    "AdaptiveLogEuclidean": FLAT | CHART,
    "PowerDeformed-AffineInvariant": {"injectivity"} | CHART,
    "PowerDeformed-LogEuclidean": FLAT | CHART,
    "PowerDeformed-LogCholesky": FLAT | CHART,
    "PowerDeformed-CholeskyRightInvariant": {"injectivity"} | CHART,
    "PowerDeformed-BuresWasserstein": BURES,
    "PowerDeformed-GeneralizedBuresWasserstein": BURES,
    "Pullback-precision-LogCholesky": FLAT | CHART,
}


def _absent(name: str) -> set[str]:
    return ABSENT[max((k for k in ABSENT if name.startswith(k)), key=len)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", MANIFOLDS)
def test_laws(name: str, dtype: torch.dtype) -> None:
    report = run_laws(laws_of(MANIFOLDS[name](), dtype=dtype, name=name))
    report.assert_ok()
    assert {o.law for o in report.absent} == _absent(name)
    assert {o.law for o in report} == ALL


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["AffineInvariant-complex", "PowerDeformed-GeneralizedBuresWasserstein"])
def test_laws_at_other_seeds(name: str, seed: int) -> None:
    run_laws(laws_of(MANIFOLDS[name](), name=name), seed).assert_ok()
