"""The norms to compare, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

import manifoldnorm as mn

Factory = Callable[..., nn.Module]


class Choice(NamedTuple):
    """A row of the comparison: how it is called, how a layer is built from its size, and for which fields."""

    label: str
    factory: Factory | None
    complex_input: bool = True
    in_all: bool = True  # part of --norm all, or trained only where it is named


def learned(norm: type[nn.Module], manifold: Callable[[int], mn.manifolds.Manifold], *names: str) -> Factory:
    """Return ``n -> norm(manifold(n))`` with learnable options of the manifold."""

    def build(n: int, **options: Any) -> nn.Module:
        return norm(mn.nn.LearnableManifold(manifold(n), names, dtype=options.get("dtype")), **options)

    return build


def bures_wasserstein(n: int, *, field: str = "real", **options: Any) -> nn.Module:
    """Return the Bures-Wasserstein norm, its metric learned for real matrices."""
    if field == "real":
        return mn.nn.BuresWassersteinBatchNorm(n, power=0.5, **options)
    return mn.nn.BuresWassersteinBatchNorm(mn.PowerDeformed(mn.BuresWasserstein(n, field=field), 0.5), **options)


_Lie, _Riemannian = mn.nn.LieBatchNorm, mn.nn.RiemannianBatchNorm
NORMS = {
    "none": Choice("no norm", None),
    "rbn-aim": Choice("affine-invariant, Riemannian = gyro", _Riemannian.of(mn.AffineInvariant)),
    "lie-aim": Choice("affine-invariant, Lie", _Lie.of(mn.AffineInvariant)),
    "lie-lem": Choice("log-Euclidean", _Lie.of(mn.LogEuclidean)),
    "alem": Choice("adaptive log-Euclidean", learned(_Lie, mn.AdaptiveLogEuclidean, "low", "high"), False),
    "lie-lcm": Choice("log-Cholesky", _Lie.of(mn.LogCholesky)),
    "lie-lcm-half": Choice("log-Cholesky, power 1/2", _Lie.of(mn.PowerDeformed.of(mn.LogCholesky, 0.5))),
    "lie-crim": Choice("Cholesky right-invariant, Lie", _Lie.of(mn.CholeskyRightInvariant), False, False),
    "lie-crim-half": Choice(
        "Cholesky right-invariant, power 1/2, Lie", _Lie.of(mn.PowerDeformed.of(mn.CholeskyRightInvariant, 0.5)), False
    ),
    "bw": Choice("Bures-Wasserstein, power 1/2, Riemannian", bures_wasserstein),
}

# Transport through the origin and gyroaddition are the same move; on flat geometries so is the group's product.
SAME = {
    "gyro-aim": "rbn-aim",
    **{f"{move}-{flat}": f"lie-{flat}" for move in ("rbn", "gyro") for flat in ("lem", "lcm", "lcm-half")},
}
MERGED = (
    "Riemannian batch norm through the origin and gyro batch norm are the same map wherever both exist, and on flat "
    "geometries (log-Euclidean, log-Cholesky) so is Lie batch norm: such norms share a row."
)


def resolve(names: str) -> list[str]:
    """Return the norms that ``all`` or a comma-separated list means, each once, merged ones under one name."""
    every = ",".join(name for name, choice in NORMS.items() if choice.in_all)
    words = [word.strip() for word in names.split(",") if word.strip()]
    asked = ",".join(every if word == "all" else word for word in words).split(",") if words else []
    unknown = [name for name in asked if name not in NORMS and name not in SAME]
    if unknown or not asked:
        known = ", ".join([*NORMS, *SAME])
        raise ValueError(f"unknown norm {', '.join(map(repr, unknown)) or repr(names)}; choose all or from {known}")
    return list(dict.fromkeys(SAME.get(name, name) for name in asked))


def for_field(names: Sequence[str], is_complex: bool) -> tuple[list[str], list[str]]:
    """Split norms into those that take matrices of this field and those that do not."""
    fits = [name for name in names if NORMS[name].complex_input or not is_complex]
    return fits, [name for name in names if name not in fits]
