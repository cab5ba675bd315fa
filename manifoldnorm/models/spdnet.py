"""SPD networks with any norm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import nn as mnn
from manifoldnorm.manifolds._checks import check_count
from manifoldnorm.models._arguments import check_matrices, check_sizes
from manifoldnorm.nn.factory import check_factory

Norm = Callable[..., nn.Module]


class SPDNet(nn.Module):
    """Blocks of BiMap, norm and ReEig on positive-definite matrices, then LogEig and a linear classifier.

    Parameters
    ----------
    sizes : sequence of int
        Matrix sizes, input first: ``[20, 16, 8]`` has two BiMap layers. After the last there is no ReEig unless
        ``rectify_last``.
    n_outputs : int
        Number of classes.
    norm : factory, optional
        Called with each block's matrix size, e.g. ``LieBatchNorm.of(LogEuclidean)``; None for no norm.
    field : {"real", "complex"}
        Symmetric or Hermitian input.
    threshold : float
        Of `ReEig`, relative to each matrix's mean eigenvalue.
    rectify_last : bool
        Whether the last block rectifies too.
    parametrization : {"polar", "manifold"}
        Of the `BiMap` layers: for any optimizer, or for Riemannian ones.
    device, dtype : optional
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        If sizes grow or are no positive integers, or the norm is a layer or a geometry instead of a factory.

    References
    ----------
    Huang and Van Gool 2017, "A Riemannian network for SPD matrix learning".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.SPDNet([8, 4], 3, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean))
    >>> net(torch.eye(8).expand(5, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_outputs: int,
        *,
        norm: Norm | None = None,
        field: str = "real",
        threshold: float = 1e-4,
        rectify_last: bool = False,
        parametrization: str = "polar",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = check_sizes(sizes, "SPDNet")
        n_outputs = check_count(n_outputs, "SPDNet: n_outputs")
        check_factory(norm, "SPDNet")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        for position, (n, m) in enumerate(itertools.pairwise(sizes)):
            layers.append(mnn.BiMap(n, m, field=field, parametrization=parametrization, **factory))
            if norm is not None:
                layers.append(norm(m, **factory, **({"field": field} if field != "real" else {})))
            if rectify_last or position + 2 < len(sizes):
                layers.append(mnn.ReEig(threshold))
        self.in_features = sizes[0]
        self.features = mnn.Sequential(*layers, mnn.LogEig())
        self.vectorize = mnn.SPDVectorize(sizes[-1], field=field)
        real = (dtype or torch.get_default_dtype()).to_real()
        self.classifier = nn.Linear(self.vectorize.out_features, n_outputs, device=device, dtype=real)

    takes_domain = True

    def forward(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map matrices (N, n, n) to scores (N, n_outputs)."""
        check_matrices(x, self.in_features, "SPDNet")
        return self.classifier(self.vectorize(self.features(x, domain)))
