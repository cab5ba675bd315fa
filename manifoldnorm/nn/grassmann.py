"""Layers of Grassmann networks: full-rank maps, re-orthonormalisation, projectors, their pooling and eigenspaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.linalg.subspaces import dominant_eigenspace, orthonormalize
from manifoldnorm.nn._orthonormal import OrthonormalMap


def _check(x: Tensor, name: str, n: int | None = None, *, square: bool = False) -> None:
    check_tensor(x, name)
    rows = "n" if n is None else str(n)
    shape = f"(..., {rows}, {rows})" if square else f"(..., {rows}, p) with {rows} >= p"
    fits = x.ndim >= 2 and (n is None or x.shape[-2] == n)
    if not fits or (x.shape[-2] != x.shape[-1] if square else x.shape[-2] < x.shape[-1]):
        raise ValueError(f"{name}: expected real matrices {shape}, got {tuple(x.shape)}.")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {x.dtype}.")


class FRMap(OrthonormalMap):
    """Full-rank map ``W^T X`` of frames, W with orthonormal columns.

    The columns of the result span the image of the subspace under a projection of the space; they are no longer
    orthonormal, which `ReOrth` mends. ``weight`` is the polar factor of ``raw_weight``, so W stays orthonormal with any
    optimizer.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions n of the space before and after; ``out_features <= in_features``.
    parametrization : {"polar", "manifold"}
        ``"manifold"`` keeps W itself as a `geoopt.ManifoldParameter` on the Stiefel manifold.
    device, dtype : optional
        Of the parameter.

    Raises
    ------
    ValueError
        If ``out_features > in_features``, or the subspaces have more dimensions than ``out_features``.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds" (GrNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.FRMap(6, 4)(mn.Grassmann(6, 2).random_point(8)).shape
    torch.Size([8, 4, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        parametrization: str = "polar",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, parametrization=parametrization, device=device, dtype=dtype)

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features, p) to (..., out_features, p)."""
        _check(x, "FRMap", self.in_features)
        if x.shape[-1] > self.out_features:
            raise ValueError(
                f"FRMap: out_features={self.out_features} cannot hold subspaces of dimension {x.shape[-1]}."
            )
        return self._weight_for(x).mT @ x


class ReOrth(nn.Module):
    """Orthonormal frames of the same spans: the factor Q of the QR decomposition with a positive diagonal of R.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds" (GrNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.ReOrth()(torch.tensor([[3.0], [4.0]]))
    tensor([[0.6000],
            [0.8000]])
    """

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map linearly independent columns (..., n, p) to orthonormal ones."""
        _check(x, "ReOrth")
        return orthonormalize(x)


class ProjMap(nn.Module):
    """The orthogonal projector ``X X^T`` onto the span of a frame, the same for every frame of it.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds" (GrNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.ProjMap()(torch.tensor([[0.6], [-0.8]]))
    tensor([[ 0.3600, -0.4800],
            [-0.4800,  0.6400]])
    """

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map orthonormal frames (..., n, p) to projectors (..., n, n)."""
        _check(x, "ProjMap")
        return x @ x.mT


class ProjPool(nn.Module):
    """Mean of projectors: over blocks of entries, over groups of channels, or both.

    The result is positive semi-definite, no longer a projector; `OrthMap` takes it back to a subspace. The mean over
    channels followed by `OrthMap` is the chordal mean of subspaces.

    Parameters
    ----------
    within : int
        Blocks of ``within`` x ``within`` entries become one; divides the matrix size.
    across : int
        Groups of so many consecutive channels become one; divides their number.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds" (GrNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.ProjPool(2, across=4)(torch.eye(6).expand(8, 4, 6, 6)).shape
    torch.Size([8, 1, 3, 3])
    """

    def __init__(self, within: int = 1, *, across: int = 1) -> None:
        super().__init__()
        if within < 1 or across < 1:
            raise ValueError(f"ProjPool: within and across must be positive integers, got {within} and {across}.")
        self.within, self.across = within, across

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C, n, n) to (..., C / across, n / within, n / within); without channels where ``across`` is 1."""
        _check(x, "ProjPool", square=True)
        if x.shape[-1] % self.within:
            raise ValueError(f"ProjPool: within={self.within} does not divide the matrix size {x.shape[-1]}.")
        if self.across > 1 and (x.ndim < 3 or x.shape[-3] % self.across):
            raise ValueError(f"ProjPool: across={self.across} does not divide the channels of {tuple(x.shape)}.")
        if self.across > 1:
            x = x.unflatten(-3, (-1, self.across)).mean(-3)
        if self.within > 1:
            x = x.unflatten(-1, (-1, self.within)).unflatten(-3, (-1, self.within)).mean((-3, -1))
        return x

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.within}, across={self.across}"


class OrthMap(nn.Module):
    """A frame of the dominant eigenspace of symmetric matrices.

    The gradient is that of the spectral projector: exact for functions of the subspace, also where eigenvalues
    repeat on one side of the gap, and growing as one over the gap between eigenvalues p and p + 1. Differentiable once.

    Parameters
    ----------
    p : int
        Dimension of the eigenspace.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds", whose gradient divides by
    differences of all eigenvalues.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lines = mn.nn.OrthMap(1)(torch.diag(torch.tensor([1.0, 2.0])))
    >>> lines.abs()
    tensor([[0.],
            [1.]])
    """

    def __init__(self, p: int) -> None:
        super().__init__()
        if p < 1:
            raise ValueError(f"OrthMap: p must be a positive integer, got {p!r}.")
        self.p = p

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map symmetric matrices (..., n, n) to frames (..., n, p)."""
        _check(x, "OrthMap", square=True)
        if x.shape[-1] <= self.p:
            raise ValueError(f"OrthMap: matrices {tuple(x.shape)} have no proper eigenspace of dimension {self.p}.")
        return dominant_eigenspace(x, self.p)

    def extra_repr(self) -> str:
        """Return the dimension."""
        return f"{self.p}"
