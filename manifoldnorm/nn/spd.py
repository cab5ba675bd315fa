"""Layers of SPD networks: bilinear maps, eigenvalue rectification, logarithms and vectorisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds.charts import real_diagonal
from manifoldnorm.nn._orthonormal import OrthonormalMap


def _square(x: Tensor, n: int | None, name: str) -> None:
    check_tensor(x, name)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or (n is not None and x.shape[-1] != n):
        size = "n" if n is None else str(n)
        raise ValueError(f"{name}: expected matrices (..., {size}, {size}), got {tuple(x.shape)}.")


class BiMap(OrthonormalMap):
    """Bilinear map ``W^H X W`` of the Hermitian part of matrices, W with orthonormal columns.

    ``weight`` is the polar factor of ``raw_weight``, so W stays orthonormal with any optimizer and under weight decay
    (which only changes the irrelevant scale of ``raw_weight``).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the input and output matrices; ``out_features <= in_features``.
    field : {"real", "complex"}
        Symmetric or Hermitian input.
    parametrization : {"polar", "manifold"}
        ``"manifold"`` keeps W itself as a `geoopt.ManifoldParameter` on the Stiefel manifold.
    device, dtype : optional
        Of the parameter.

    Raises
    ------
    ValueError
        If ``out_features > in_features``: the output would be singular.

    References
    ----------
    Huang and Van Gool 2017, "A Riemannian network for SPD matrix learning", eq. (1).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.BiMap(4, 2)(torch.eye(4).expand(8, 4, 4)).shape
    torch.Size([8, 2, 2])
    """

    @linalg.without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features, in_features) to (..., out_features, out_features)."""
        _square(x, self.in_features, "BiMap")
        return linalg.congruence(self._weight_for(x).mH, linalg.symmetrize(x))


class ReEig(nn.Module):
    """Raise eigenvalues to a threshold.

    Parameters
    ----------
    threshold : float
        Smallest eigenvalue.
    relative : bool
        Whether the threshold is a multiple of each matrix's mean eigenvalue, so that the units of the data do not
        matter; ``False`` is the published layer. Of an indefinite matrix the mean eigenvalue counts as at least its
        largest entry over ``2 n``, which no positive semi-definite matrix falls below; the zero matrix has no unit
        and gets the threshold itself.

    References
    ----------
    Huang and Van Gool 2017, "A Riemannian network for SPD matrix learning", eq. (2).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.ReEig(0.5)(torch.diag(torch.tensor([0.0, 2.0]))).diagonal()
    tensor([0.5000, 2.0000])
    """

    def __init__(self, threshold: float = 1e-4, relative: bool = True) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"ReEig: threshold must be positive, got {threshold}.")
        self.threshold, self.relative = threshold, relative

    def limit(self, x: Tensor) -> Tensor | float:
        """Return the threshold in the units of ``x``, always positive."""
        if not self.relative:
            return self.threshold
        floor = x.abs().amax((-2, -1)) / (2 * x.shape[-1])
        level = torch.maximum(real_diagonal(x).mean(-1), floor)
        smallest = torch.finfo(x.dtype).tiny / self.threshold
        return self.threshold * torch.where(level == 0, 1.0, level.clamp_min(smallest))

    @linalg.without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Return matrices (..., n, n) with eigenvalues of at least the threshold."""
        _square(x, None, "ReEig")
        return linalg.apply(linalg.decompose(x, name="ReEig"), fn.CLAMP_MIN, self.limit(x))

    def extra_repr(self) -> str:
        """Return the options."""
        return f"threshold={self.threshold}, relative={self.relative}"


class LogEig(nn.Module):
    """The matrix logarithm, from positive-definite to symmetric matrices.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.LogEig()(torch.eye(2))
    tensor([[0., 0.],
            [0., 0.]])
    """

    @linalg.without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of (..., n, n)."""
        _square(x, None, "LogEig")
        return linalg.apply(linalg.decompose(x, positive=True, name="LogEig"), fn.LOG)

    @linalg.without_autocast
    def after_rectification(self, x: Tensor, rectify: ReEig) -> Tensor:
        """Return the logarithm of ``rectify(x)`` from one decomposition."""
        return linalg.apply(linalg.decompose(x, name="ReEig"), fn.LOG_CLAMP_MIN, rectify.limit(x))


class ExpEig(nn.Module):
    """The matrix exponential, from symmetric to positive-definite matrices.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.ExpEig()(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    @linalg.without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Return the exponential of (..., n, n)."""
        _square(x, None, "ExpEig")
        return linalg.apply(linalg.decompose(x, name="ExpEig"), fn.EXP)


class SPDVectorize(nn.Module):
    """Stack the upper triangle of symmetric matrices into vectors, off-diagonals times sqrt(2).

    The Euclidean norm of the vector is the Frobenius norm of the matrix. Hermitian matrices give real vectors: the
    diagonal, then real parts, then imaginary parts of the strict upper triangle.

    Parameters
    ----------
    n : int
        Matrix size.
    field : {"real", "complex"}
        Symmetric input gives n (n + 1) / 2 numbers, Hermitian input n^2.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.SPDVectorize(2)(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    tensor([1.0000, 2.8284, 3.0000])
    """

    def __init__(self, n: int, *, field: str = "real") -> None:
        super().__init__()
        self.n, self.field = n, field
        self.out_features = n * n if field == "complex" else n * (n + 1) // 2

    def _upper(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the upper triangle is in the flat matrix, and which of it is on the diagonal."""
        # not buffers: a model that is built on the meta device and loaded afterwards would lack them
        rows, columns = torch.triu_indices(self.n, self.n, 1 if self.field == "complex" else 0, device=x.device)
        return rows * self.n + columns, rows == columns

    @linalg.without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n, n) to (..., out_features)."""
        _square(x, self.n, "SPDVectorize")
        index, on_diagonal = self._upper(x)
        upper = x.flatten(-2).index_select(-1, index)
        if self.field == "real":
            return torch.where(on_diagonal, upper, math.sqrt(2.0) * upper)
        root = math.sqrt(2.0)
        return torch.cat([real_diagonal(x), root * upper.real, root * upper.imag], -1)

    @linalg.without_autocast
    def inverse(self, v: Tensor) -> Tensor:
        """Map (..., out_features) back to symmetric or Hermitian matrices (..., n, n)."""
        n = self.n
        index, on_diagonal = self._upper(v)
        if self.field == "real":
            entries = torch.where(on_diagonal, v, v / math.sqrt(2.0))
            flat = v.new_zeros((*v.shape[:-1], n * n)).index_copy(-1, index, entries)
            upper = flat.unflatten(-1, (n, n))
            return upper + upper.triu(1).mT
        diagonal, real, imag = v.split([n, (n * n - n) // 2, (n * n - n) // 2], -1)
        flat = torch.zeros((*v.shape[:-1], n * n), dtype=v.dtype.to_complex(), device=v.device)
        upper = flat.index_copy(-1, index, torch.complex(real, imag) / math.sqrt(2.0)).unflatten(-1, (n, n))
        return upper + upper.mH + torch.diag_embed(diagonal).to(upper.dtype)

    def extra_repr(self) -> str:
        """Return the size and field."""
        return f"{self.n}, field={self.field}"
