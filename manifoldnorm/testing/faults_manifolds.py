"""Faults of metrics: exponential, transport, distance, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.manifolds import (
    AffineInvariant,
    BuresWasserstein,
    Euclidean,
    Manifold,
    Pullback,
)
from manifoldnorm.testing.mutants import Mutant, swap

_AIM, _BW = AffineInvariant, BuresWasserstein


def _transport_by_projection(self: Any, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    return self.project_tangent(q, v)


def _cholesky_to_origin(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return linalg.congruence(linalg.inverse_cholesky(p)[1], v)


def _cholesky_from_origin(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return linalg.congruence(linalg.cholesky(p), v)


def _transposed_exp(self: Any, p: Tensor, v: Tensor) -> Tensor:
    factor, inverse = linalg.inverse_cholesky(p)
    return linalg.congruence(factor.mH, linalg.expm(linalg.congruence(inverse, v)))


def _symmetric_root_exp(self: Any, p: Tensor, v: Tensor) -> Tensor:
    root, inverse = linalg.sqrtm_inv_sqrtm(p)
    return linalg.congruence(root, linalg.expm(linalg.congruence(inverse, v)))


def _halved_log(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return _TRUE_BW_LOG(self, p, q) / 2


_TRUE_BW_LOG = _BW.log


def _reversed_geodesic(self: Any, p: Tensor, q: Tensor, t: Any) -> Tensor:
    return _TRUE_AIM_GEODESIC(self, q, p, t)


_TRUE_AIM_GEODESIC, _TRUE_AIM_LOG = _AIM.geodesic, _AIM.log


def _straight_geodesic(self: Any, p: Tensor, q: Tensor, t: Any) -> Tensor:
    return p + (q - p) * (t.reshape((*t.shape, 1, 1)) if isinstance(t, Tensor) else t)


def _reversed_dist(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return _TRUE_AIM_SQUARED(self, q, p)


_TRUE_AIM_SQUARED = _AIM.squared_dist


def _half_bures_gradient(self: Any, p: Tensor, g: Tensor) -> Tensor:
    product = linalg.symmetrize(g) @ p
    return product + product.mH


def _raw_gradient(self: Any, p: Tensor, g: Tensor) -> Tensor:
    return p @ g @ p / self.alpha


def _gradient_without_beta(self: Any, p: Tensor, g: Tensor) -> Tensor:
    return p @ linalg.symmetrize(g) @ p / self.alpha


def _gradient_without_scale(self: Any, p: Tensor, g: Tensor) -> Tensor:
    return _TRUE_PULLBACK_GRADIENT(self, p, g) * self.scale


_TRUE_PULLBACK_GRADIENT = Pullback.egrad2rgrad


def _unrooted_polar(self: Any, x: Tensor) -> Any:
    squared, dilate = _TRUE_AIM_POLAR(self, x)
    return squared.sqrt(), dilate


_TRUE_AIM_POLAR = _AIM.polar


def _pooled_inner(self: Any, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum().expand(torch.broadcast_shapes(u.shape, v.shape)[:-1])


def _unconjugated_transport(self: Any, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    factor, inverse = linalg.inverse_cholesky(p)
    e = factor @ linalg.sqrtm(linalg.congruence(inverse, q)) @ inverse
    return e @ v @ e.mT


def _unmasked_dist(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return self.squared_dist(p, q).sqrt()


def _plain_norm(self: Any, log2: Tensor, log: Tensor | None) -> Tensor:
    return log2


def _doubled(name: str) -> tuple[Any, str, Any]:
    true = getattr(_AIM, name)
    factor = 0.5 if name == "egrad2rgrad" else 2.0
    return _AIM, name, lambda self, *args: factor * true(self, *args)


_GOLDEN = "a consistently rescaled metric obeys every law; a golden number fixes the scale"

MANIFOLD_FAULTS = (
    Mutant(
        "transport by projection",
        "transport keeps the components of v",
        "AffineInvariant",
        swap((_AIM, "transport", _transport_by_projection)),
    ),
    Mutant(
        "transport of another connection",
        "to and from the origin by the Cholesky factor: isometric, inverse to each other, not parallel",
        "AffineInvariant",
        swap((_AIM, "to_origin", _cholesky_to_origin), (_AIM, "from_origin", _cholesky_from_origin)),
    ),
    Mutant(
        "transport without conjugate",
        "E v E^T for complex E",
        "AffineInvariant-complex",
        swap((_AIM, "transport", _unconjugated_transport)),
    ),
    Mutant(
        "transposed congruence",
        "L^H exp(.) L instead of L exp(.) L^H",
        "AffineInvariant",
        swap((_AIM, "exp", _transposed_exp)),
    ),
    Mutant("missing factor in log", "half the logarithm", "BuresWasserstein", swap((_BW, "log", _halved_log))),
    Mutant(
        "swapped arguments of geodesic",
        "runs from q to p",
        "AffineInvariant",
        swap((_AIM, "geodesic", _reversed_geodesic)),
    ),
    Mutant(
        "straight geodesic", "linear interpolation", "AffineInvariant", swap((_AIM, "geodesic", _straight_geodesic))
    ),
    Mutant(
        "missing factor in gradient",
        "g p + p g without the 2",
        "BuresWasserstein",
        swap((_BW, "egrad2rgrad", _half_bures_gradient)),
    ),
    Mutant(
        "unsymmetrised gradient", "p g p for a general g", "AffineInvariant", swap((_AIM, "egrad2rgrad", _raw_gradient))
    ),
    Mutant(
        "gradient without beta",
        "the trace part of the metric is forgotten",
        "AffineInvariant-alpha-beta",
        swap((_AIM, "egrad2rgrad", _gradient_without_beta)),
    ),
    Mutant(
        "gradient of a pullback unscaled",
        "multiplied by the scale instead of divided",
        "PowerDeformed-LogEuclidean",
        swap((Pullback, "egrad2rgrad", _gradient_without_scale)),
    ),
    Mutant(
        "distance without alpha and beta",
        "the norm of the logarithm ignores them",
        "AffineInvariant-alpha-beta",
        swap((_AIM, "_square", _plain_norm)),
    ),
    Mutant("polar with the distance", "not its square", "AffineInvariant", swap((_AIM, "polar", _unrooted_polar))),
    Mutant("inner product over the batch", "sums over samples", "Euclidean", swap((Euclidean, "inner", _pooled_inner))),
    Mutant(
        "NaN gradient at distance 0",
        "a plain square root",
        "BuresWasserstein",
        swap((Manifold, "dist", _unmasked_dist)),
    ),
    Mutant(
        "precision lost",
        "the result is in double whatever the input",
        "AffineInvariant",
        swap((_AIM, "log", lambda self, p, q: _TRUE_AIM_LOG(self, p, q).double())),
    ),
    Mutant(
        "metric at another scale",
        "twice the inner product throughout",
        "AffineInvariant",
        swap(_doubled("origin_inner"), _doubled("_square"), _doubled("egrad2rgrad")),
        _GOLDEN,
    ),
    Mutant(
        "symmetric root in exp",
        "instead of the Cholesky factor",
        "AffineInvariant",
        swap((_AIM, "exp", _symmetric_root_exp)),
        "equivalent: any factor of p gives the same exponential",
    ),
    Mutant(
        "swapped arguments of the distance",
        "d(q, p)",
        "AffineInvariant",
        swap((_AIM, "squared_dist", _reversed_dist)),
        "equivalent: a distance is symmetric",
    ),
    Mutant(
        "spectrum by another function",
        "log w as -log(1 / w)",
        "AffineInvariant",
        swap((fn.Log, "value", lambda self, w, p: -(1 / w).log())),
        "equivalent up to rounding",
    ),
)
