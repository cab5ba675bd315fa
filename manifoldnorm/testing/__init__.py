"""The laws that every geometry and every norm layer must obey, for anyone's own manifolds and layers.

``python -m manifoldnorm.testing`` prints every geometry and layer of the package with every law: residual, tolerance,
verdict, seed. A law is a plain function of a case (a subject with reproducible data) and returns a residual. A subject
that lacks an operation says so by NotImplementedError; the law is then *absent*, which is not passed. Seeds are fixed,
nothing is retried, and points are never at the origin or equal unless that is the law.

A consistently rescaled metric obeys every law: pin the scale of your own metric with one number worked out by hand.
"""

from manifoldnorm.testing import mutants
from manifoldnorm.testing.actions import (
    Symmetry,
    equivariant,
    general_congruence,
    group_translation,
    gyro_translation,
    invariant,
    permutation,
    rotation,
    same_spectrum,
    triangular_congruence,
    units,
)
from manifoldnorm.testing.cases import ManifoldCase
from manifoldnorm.testing.checks import (
    check_gyrogroup,
    check_lie_group,
    check_manifold,
    check_norm,
    laws_of,
    laws_of_norm,
)
from manifoldnorm.testing.laws import Law, LawAbsent, Outcome, Report, run_laws
from manifoldnorm.testing.norm_cases import NormCase
from manifoldnorm.testing.tolerances import TOLERANCES

__all__ = [
    "TOLERANCES",
    "Law",
    "LawAbsent",
    "ManifoldCase",
    "NormCase",
    "Outcome",
    "Report",
    "Symmetry",
    "check_gyrogroup",
    "check_lie_group",
    "check_manifold",
    "check_norm",
    "equivariant",
    "general_congruence",
    "group_translation",
    "gyro_translation",
    "invariant",
    "laws_of",
    "laws_of_norm",
    "mutants",
    "permutation",
    "rotation",
    "run_laws",
    "same_spectrum",
    "triangular_congruence",
    "units",
]
