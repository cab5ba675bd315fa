"""Grassmann networks with any norm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import nn as mnn
from manifoldnorm.manifolds import Grassmann
from manifoldnorm.manifolds._checks import check_count
from manifoldnorm.models._arguments import check_sizes
from manifoldnorm.models.spdnet import Norm
from manifoldnorm.nn.factory import build_norm, check_factory


class GrassmannNet(nn.Module):
    """Blocks of FRMap, ReOrth and norm on subspaces, then the projector and a linear classifier.

    Parameters
    ----------
    sizes : sequence of int
        Dimensions of the space, input first: ``[30, 20, 10]`` has two blocks.
    p : int
        Dimension of the subspaces, below every size.
    n_outputs : int
        Number of classes.
    norm : class, factory or callable, optional
        Called with each block's geometry, e.g. ``GyroBatchNorm``; factories ``Norm.of`` are called with n and p, e.g.
        ``RiemannianBatchNorm.of(Grassmann, route="direct")`` or ``published.GyroBNGr.of()``. None for no norm.
    parametrization : {"polar", "manifold"}
        Of the `FRMap` layers: for any optimizer, or for Riemannian ones.
    device, dtype : optional
        Of the parameters.

    Raises
    ------
    ValueError
        If there are less than two sizes, they do not hold proper subspaces, or the norm is on another geometry.

    References
    ----------
    Huang, Wu and Van Gool 2018, "Building deep networks on Grassmann manifolds"; norms: Chen et al. 2025,
    "Gyrogroup batch normalization".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.GrassmannNet([8, 6], 2, 3, norm=mn.nn.GyroBatchNorm)
    >>> net(mn.Grassmann(8, 2).random_point(5)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        p: int,
        n_outputs: int,
        *,
        norm: Norm | None = None,
        parametrization: str = "polar",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = check_sizes(sizes, "GrassmannNet")
        n_outputs = check_count(n_outputs, "GrassmannNet: n_outputs")
        check_factory(norm, "GrassmannNet")
        if not 0 < p < min(sizes):
            raise ValueError(f"GrassmannNet: p={p} must be positive and below every size, got {list(sizes)}.")
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [mnn.FRMap(n, m, parametrization=parametrization, **kind), mnn.ReOrth()]
            built = build_norm(norm, Grassmann(m, p), "GrassmannNet", exact=False, **kind)
            layers += [] if built is None else [built]
        self.features = mnn.Sequential(*layers, mnn.ProjMap())
        self.vectorize = mnn.SPDVectorize(sizes[-1])
        self.classifier = nn.Linear(self.vectorize.out_features, n_outputs, **kind)

    takes_domain = True

    def forward(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map orthonormal frames (N, n, p) to scores (N, n_outputs), the same for every frame of a subspace."""
        return self.classifier(self.vectorize(self.features(x, domain)))
