"""A table of points of a manifold, looked up by index, optionally normalised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Manifold
from manifoldnorm.nn import _inputs
from manifoldnorm.nn._domains import apply, index_of
from manifoldnorm.nn._points import HoldsPoints
from manifoldnorm.nn.factory import build_norm
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.norm import ManifoldNorm


class HyperbolicEmbedding(HoldsPoints):
    """A table of points, one per item, that Riemannian optimizers keep on the manifold.

    Parameters
    ----------
    num_embeddings : int
        Number of items.
    manifold : Manifold or LearnableManifold
        Of the points; any geometry.
    normalize : layer, factory or callable, optional
        A norm that looked-up points pass: a layer, a factory of sizes such as ``GyroBatchNorm.of(PoincareBall)``, or a
        class such as ``GyroBatchNorm``, which is called with the geometry (and so shares a learnable curvature).
    statistics : {"table", "batch"}
        Which points the norm sees in training: all items, each once, or those looked up, each as often as it is. The
        first normalises the whole table in every call, which is cheap where a call looks up more points than there are
        items; the second suits large tables and sparse gradients.
    sparse : bool
        Whether the gradient of the table is sparse (then `manifoldnorm.optim.SparseRiemannianAdam`): pays for tables of
        many thousand items.
    radius : float
        Points start at this distance from the origin on average (root mean square), in random directions.
    device, dtype : optional
        Of the table ``weight`` (num_embeddings, *point_shape).

    Raises
    ------
    ValueError
        If the norm is on another geometry, or needs the table where the gradient is to be sparse.

    Notes
    -----
    Evaluation uses the running statistics, so a point's value does not depend on what it is looked up with. Centring
    and bias are isometries: only the scale of a norm changes distances.

    With statistics per domain (``normalize=DomainBatchNorm.of(GyroBatchNorm, 3)``) ``domain`` holds that of each item
    (num_embeddings,) for statistics of the table, and that of each row of the index (``len(index)``,) for those of the
    batch.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> table = mn.nn.HyperbolicEmbedding(100, mn.PoincareBall(5), normalize=mn.nn.GyroBatchNorm)
    >>> table(torch.tensor([[3, 1, 4], [1, 5, 9]])).shape
    torch.Size([2, 3, 5])
    """

    def __init__(
        self,
        num_embeddings: int,
        manifold: Any,
        *,
        normalize: Any = None,
        statistics: str = "table",
        sparse: bool = False,
        radius: float = 1e-2,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(num_embeddings, int) or num_embeddings < 1:
            raise ValueError(f"HyperbolicEmbedding: num_embeddings must be a positive integer, got {num_embeddings!r}.")
        if not radius > 0:
            raise ValueError(f"HyperbolicEmbedding: radius must be positive, got {radius}: the origin is no start.")
        if statistics not in ("table", "batch"):
            raise ValueError(f"HyperbolicEmbedding: statistics must be 'table' or 'batch', got {statistics!r}.")
        if sparse and normalize is not None and statistics == "table":
            raise ValueError(
                "HyperbolicEmbedding: statistics of the whole table make its gradient dense. Use statistics='batch', "
                "or sparse=False."
            )
        self._geometry = _inputs.as_geometry(manifold)
        self.statistics = statistics
        self.num_embeddings, self.sparse, self.radius = num_embeddings, sparse, radius
        from manifoldnorm._geoopt import manifold_parameter

        start = self._start(self.manifold, device, dtype or torch.get_default_dtype())
        self.weight = manifold_parameter(start, self._geometry)
        self.norm = build_norm(normalize, self._geometry, "HyperbolicEmbedding", device=device, dtype=dtype)

    def _start(self, manifold: Manifold, device: Any, dtype: torch.dtype) -> Tensor:
        origin = manifold.origin(self.num_embeddings, dtype=dtype, device=device).detach()
        tangent = manifold.random_tangent(origin).detach()
        return manifold.exp(origin, self.radius / manifold.dim**0.5 * tangent).detach()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new points about the origin, and reset the norm."""
        self.weight.copy_(self._start(self.manifold, self.weight.device, self.weight.dtype))
        for norm in self.modules():
            if isinstance(norm, ManifoldNorm):
                norm.reset_parameters()

    @property
    def manifold(self) -> Manifold:
        """The geometry in use (of a `LearnableManifold`, at its current options)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    takes_domain = True

    @without_autocast
    def forward(self, index: Tensor, domain: Any = None) -> Tensor:
        """Return the points ``(*index.shape, *point_shape)`` of items, normalised."""
        if index.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"HyperbolicEmbedding: the index must hold integers, got {index.dtype}.")
        if self.norm is not None and self.statistics == "table" and self.training:
            return self._rows(self.table(domain), index)
        x = self._kept(self._rows(self._plain(), index))
        if self.norm is None or domain is None or self.statistics == "batch":
            return self._normalized(x, domain)
        # the norm takes one domain for each point of its first axis: here for each item that is looked up
        own = index_of(domain, self.weight, "HyperbolicEmbedding").index_select(0, index.flatten())
        return self._normalized(x.flatten(0, index.ndim - 1), own).reshape(x.shape)

    def table(self, domain: Any = None) -> Tensor:
        """Return all points (num_embeddings, *point_shape), normalised."""
        return self._normalized(self._kept(self._plain()), domain)

    def _normalized(self, x: Tensor, domain: Any) -> Tensor:
        return x if self.norm is None else apply(self.norm, x, domain)

    def _plain(self) -> Tensor:
        """Return the points as a plain tensor; a compiler, which cannot trace that, sees them as one anyway."""
        return self.weight if torch.compiler.is_compiling() else self.weight.as_subclass(Tensor)

    def _rows(self, points: Tensor, index: Tensor) -> Tensor:
        if self.sparse:
            rows = functional.embedding(index.flatten(), points.flatten(1), sparse=True)
        else:  # its backward adds up rows several times faster than that of an embedding
            rows = points.index_select(0, index.flatten())
        return rows.reshape(*index.shape, *points.shape[1:])

    def _kept(self, x: Tensor) -> Tensor:
        """Return points on the manifold: a learned curvature moves the boundary under them."""
        return self.manifold.project(x) if isinstance(self._geometry, LearnableManifold) else x

    @torch.no_grad()
    def radii(self) -> Tensor:
        """Return the distances (num_embeddings) of the items from the origin, before any norm."""
        x = self._plain()
        return self.manifold.dist(self.manifold.origin(dtype=x.dtype, device=x.device), x)

    def extra_repr(self) -> str:
        """Return the size and options."""
        geometry = f"learnable {self._geometry.template}" if isinstance(self._geometry, nn.Module) else self._geometry
        return f"{self.num_embeddings}, {geometry}, statistics={self.statistics}, sparse={self.sparse}"
