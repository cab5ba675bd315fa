"""Every geometry obeys every law it can have, in both precisions; what it lacks is written down here."""

from __future__ import annotations

import pytest
import torch

from manifoldnorm.testing import laws_of, run_laws
from manifoldnorm.testing.catalogue import MANIFOLDS
from manifoldnorm.testing.checks import GYRO_LAWS, LIE_LAWS, MANIFOLD_LAWS
from manifoldnorm.testing.laws_means import MEAN_LAWS

ALL = {f.__name__ for f in MANIFOLD_LAWS + LIE_LAWS + GYRO_LAWS}
LIE, GYRO = ({f.__name__ for f in laws} for laws in (LIE_LAWS, GYRO_LAWS))
MEANS = {f.__name__ for f in MEAN_LAWS}
EVERYWHERE = {"injectivity"}  # the exponential is a diffeomorphism
FLAT = {"newton_hessian"} | EVERYWHERE  # the mean has a closed form
CHART = {"group_dilation", "gyro_dilation"}  # layers move points in the chart
TRANSPORT = {"transport_isometry", "transport_round_trip", "transport_velocity", "transport_is_parallel"}
FROM_ORIGIN = {f"origin_{law}" for law in TRANSPORT}
BURES = LIE | GYRO | TRANSPORT
NO_OUTSIDE = {"violation_notices"}  # every array of numbers is a point
CORRELATION = FLAT | CHART
ABSENT = {
    "Euclidean": FLAT | NO_OUTSIDE,
    "Symmetric": FLAT,
    "Triangular": FLAT,
    "AffineInvariant": EVERYWHERE,
    "LogEuclidean": FLAT | CHART,
    "LogCholesky": FLAT | CHART,
    "BuresWasserstein": BURES,
    "GeneralizedBuresWasserstein": BURES,
    "CholeskyRightInvariant": EVERYWHERE | CHART,
    "AdaptiveLogEuclidean": FLAT | CHART,
    "PowerDeformed-AffineInvariant": EVERYWHERE | CHART,
    "PowerDeformed-LogEuclidean": FLAT | CHART,
    "PowerDeformed-LogCholesky": FLAT | CHART,
    "PowerDeformed-CholeskyRightInvariant": EVERYWHERE | CHART,
    "PowerDeformed-BuresWasserstein": BURES,
    "PowerDeformed-GeneralizedBuresWasserstein": BURES,
    "Pullback-precision-LogCholesky": FLAT | CHART,
    "PoincareBall": LIE | EVERYWHERE,
    "Lorentz": LIE | EVERYWHERE,
    "Klein": LIE | EVERYWHERE,
    "Stereographic-negative": LIE | EVERYWHERE,
    "Stereographic-tensor": LIE | EVERYWHERE,
    "Stereographic-flat": LIE | EVERYWHERE | NO_OUTSIDE,
    "Stereographic-positive": LIE | NO_OUTSIDE,
    "ProjectedSphere": LIE | NO_OUTSIDE,
    "Sphere": LIE,
    "Grassmann": LIE,
    "Rotations": GYRO,
    "Stiefel": LIE | GYRO | TRANSPORT | FROM_ORIGIN | MEANS,
    "CorrelationEuclideanCholesky": CORRELATION,
    "CorrelationLogEuclideanCholesky": CORRELATION,
    "CorrelationOffLog": CORRELATION,
    "CorrelationLogScaling": CORRELATION,
    "CorrelationPolyHyperbolic": LIE | EVERYWHERE | {"gyro_dilation"},
    "Product-flat": FLAT,
    "Product-curved": LIE | EVERYWHERE,
    "Product-compact": LIE | GYRO,
    "Product-Bures": BURES,
    "Product-complex": EVERYWHERE,
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
@pytest.mark.parametrize(
    "name",
    ["AffineInvariant-complex", "PowerDeformed-GeneralizedBuresWasserstein", "Klein", "Grassmann-wide", "Rotations-5"],
)
def test_laws_at_other_seeds(name: str, seed: int) -> None:
    run_laws(laws_of(MANIFOLDS[name](), name=name), seed).assert_ok()
