"""The table of equivariances: what a layer does not commute with, it visibly does not commute with."""

from __future__ import annotations

import pytest

from manifoldnorm.testing import (
    Symmetry,
    equivariant,
    group_translation,
    invariant,
    laws_of_norm,
    permutation,
    rotation,
    triangular_congruence,
    units,
)
from manifoldnorm.testing.catalogue import NORMS

# the crosses of the table in the documentation
NOT = [
    ("Lie-AffineInvariant", Symmetry(permutation, equivariant)),
    ("Lie-AffineInvariant", Symmetry(rotation, equivariant)),
    ("Lie-AffineInvariant-learned-power", Symmetry(permutation, equivariant)),
    ("Lie-AffineInvariant-learned-power", Symmetry(triangular_congruence, invariant)),
    ("Riemannian-AffineInvariant", Symmetry(group_translation, invariant)),
    ("Riemannian-AffineInvariant-power", Symmetry(triangular_congruence, equivariant)),
    ("Lie-LogEuclidean", Symmetry(triangular_congruence, equivariant)),
    ("Lie-LogEuclidean", Symmetry(triangular_congruence, invariant)),
    ("Lie-LogCholesky", Symmetry(permutation, equivariant)),
    ("Lie-LogCholesky", Symmetry(rotation, equivariant)),
    ("Lie-LogCholesky", Symmetry(triangular_congruence, invariant)),
    ("Lie-LogCholesky", Symmetry(units, invariant)),
    ("Lie-CholeskyRightInvariant", Symmetry(permutation, equivariant)),
    ("Lie-CholeskyRightInvariant", Symmetry(triangular_congruence, equivariant)),
    ("BuresWasserstein", Symmetry(triangular_congruence, equivariant)),
    ("BuresWasserstein", Symmetry(units, invariant)),
    ("Lie-CorrelationEuclideanCholesky", Symmetry(permutation, equivariant)),
    ("Lie-CorrelationLogEuclideanCholesky", Symmetry(permutation, equivariant)),
    ("Gyro-CorrelationPolyHyperbolic", Symmetry(permutation, equivariant)),
    ("Riemannian-Rotations", Symmetry(group_translation, invariant)),
]


@pytest.mark.parametrize(("name", "symmetry"), NOT, ids=[f"{n}-{s}" for n, s in NOT])
def test_broken_symmetry(name: str, symmetry: Symmetry) -> None:
    *_, law = laws_of_norm(NORMS[name][0], symmetries=[symmetry], name=name)
    assert law.name == str(symmetry)
    outcome = law.run()
    assert outcome.verdict == "FAILED"
    assert outcome.residual > 1e-2
