"""Transformations of data that a norm layer may commute with, and how it may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.testing.cases import ManifoldCase, mismatch

Action = Callable[[Tensor], Tensor]
Sampler = Callable[[ManifoldCase], Action]
Relation = Callable[[Action, Tensor, Tensor], float]


def equivariant(act: Action, of_x: Tensor, of_moved: Tensor) -> float:
    """Compare ``layer(g x)`` with ``g layer(x)``."""
    return mismatch(of_moved, act(of_x))


def invariant(act: Action, of_x: Tensor, of_moved: Tensor) -> float:
    """Compare ``layer(g x)`` with ``layer(x)``."""
    return mismatch(of_moved, of_x)


def same_spectrum(act: Action, of_x: Tensor, of_moved: Tensor) -> float:
    """Compare the eigenvalues of ``layer(g x)`` with those of ``layer(x)``."""
    return mismatch(linalg.eigvalsh(of_moved), linalg.eigvalsh(of_x))


@dataclass(frozen=True)
class Symmetry:
    """How a layer with a neutral bias treats transformed data.

    Attributes
    ----------
    sampler : callable
        ``case -> action``: draws one transformation, such as `rotation`.
    relation : callable
        `equivariant`, `invariant` or `same_spectrum`.

    Examples
    --------
    >>> from manifoldnorm.testing import Symmetry, equivariant, rotation
    >>> str(Symmetry(rotation, equivariant))
    'equivariant[rotation]'
    """

    sampler: Sampler
    relation: Relation

    def __str__(self) -> str:
        return f"{self.relation.__name__}[{getattr(self.sampler, '__name__', self.sampler)}]"


def _congruence(case: ManifoldCase, g: Tensor) -> Action:
    g = case.cast(g)
    return lambda x: linalg.symmetrize(g @ x @ g.mH)


def _matrix(case: ManifoldCase) -> Tensor:
    n = case.manifold.point_shape[-1]
    return case.noise(n, n)


def _gains(like: Tensor) -> Tensor:
    return torch.linspace(0.5, 2.0, like.shape[-1], dtype=torch.float64)


def rotation(case: ManifoldCase) -> Action:
    """Congruence by an orthogonal (unitary) matrix."""
    return _congruence(case, torch.linalg.qr(_matrix(case))[0])


def general_congruence(case: ManifoldCase) -> Action:
    """Congruence by an invertible matrix: any linear mixing of the channels."""
    left, right = (torch.linalg.qr(_matrix(case))[0] for _ in range(2))
    return _congruence(case, (left * _gains(left)) @ right)


def triangular_congruence(case: ManifoldCase) -> Action:
    """Congruence by a lower-triangular matrix with positive diagonal."""
    g = _matrix(case)
    return _congruence(case, g.tril(-1) / 2 + torch.diag(_gains(g)).to(g.dtype))


def permutation(case: ManifoldCase) -> Action:
    """Another order of the channels."""
    n = case.manifold.point_shape[-1]
    order = torch.arange(n).roll(1)  # no fixed point
    return lambda x: x[..., order, :][..., :, order]


def units(case: ManifoldCase) -> Action:
    """Signals measured in a unit a million times larger: covariances times 1e-12."""
    return lambda x: 1e-12 * x


def group_translation(case: ManifoldCase) -> Action:
    """Left translation by a point of the manifold's own group."""
    m: Any = case.manifold
    z = case.points(1)[0]
    return lambda x: m.compose(z, x)


def gyro_translation(case: ManifoldCase) -> Action:
    """Left gyrotranslation by a point."""
    m: Any = case.manifold
    z = case.points(1)[0]
    return lambda x: m.gyroadd(z, x)
