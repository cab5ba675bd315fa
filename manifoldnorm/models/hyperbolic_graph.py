"""Hyperbolic networks on graphs: link prediction and node classification, with any norm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import nn as mnn
from manifoldnorm.manifolds import PoincareBall
from manifoldnorm.models.spdnet import Norm
from manifoldnorm.nn._domains import apply
from manifoldnorm.nn.factory import build_norm
from manifoldnorm.nn.hyperbolic._layer import resize


class HyperbolicGraphNet(nn.Module):
    """A graph network on hyperbolic space: nodes become points, from which links or classes are read.

    Features pass a linear layer and are lifted; then each layer is `HyperbolicLinear`, the gyromidpoint over the
    neighbours, a norm, and (but for the last) an activation. Links are scored by squared distance (Fermi-Dirac
    decoder), classes by hyperbolic logistic regression.

    Parameters
    ----------
    in_features : int
        Features per node.
    widths : sequence of int
        Dimensions of the points, the lifted ones first: ``[16, 16]`` has one layer.
    n_outputs : int, optional
        Number of classes; None for no classifier.
    norm : class, factory or callable, optional
        As in `PoincareResNet`.
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold, optional
        Model and curvature, of dimension ``widths[0]``; default `PoincareBall`.
    clip : float
        Largest distance from the origin of a lifted node.
    dropout : float
        Of the features before the linear layer.
    device, dtype : optional
        Of the parameters.

    Raises
    ------
    ValueError
        If there are less than two widths, or the manifold is not of dimension ``widths[0]``.

    References
    ----------
    Chami et al. 2019, "Hyperbolic graph convolutional neural networks"; Zhang et al. 2021 (Lorentz centroid).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.HyperbolicGraphNet(6, [4, 4], 3, norm=mn.nn.GyroBatchNorm)
    >>> points = net(torch.eye(6), torch.tensor([[0, 1, 2], [1, 2, 0]]))
    >>> net.classify(points).shape, net.links(points, torch.tensor([[0, 1], [3, 5]])).shape
    (torch.Size([6, 3]), torch.Size([2]))
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        n_outputs: int | None = None,
        *,
        norm: Norm | None = None,
        manifold: Any = None,
        clip: float = 2.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"HyperbolicGraphNet: widths needs at least two dimensions, got {list(widths)}.")
        kind = {"device": device, "dtype": dtype}
        geometry = PoincareBall(widths[0]) if manifold is None else manifold
        self.dropout = nn.Dropout(dropout)
        self.features = nn.Linear(in_features, widths[0], **kind)
        self.lift = mnn.Lift(geometry, clip)
        if self.lift.manifold.dim != widths[0]:
            raise ValueError(
                f"HyperbolicGraphNet: widths[0] is {widths[0]}, the manifold has {self.lift.manifold.dim} dimensions."
            )
        spaces = [resize(geometry, width) for width in widths]
        pairs = list(itertools.pairwise(spaces))
        self.linears = nn.ModuleList(
            mnn.HyperbolicLinear(before, width, **kind) for (before, _), width in zip(pairs, widths[1:], strict=True)
        )
        self.aggregations = nn.ModuleList(mnn.HyperbolicAggregation(after) for _, after in pairs)
        norms = [build_norm(norm, after, "HyperbolicGraphNet", **kind) for _, after in pairs]
        self.norms = nn.ModuleList(nn.Identity() if each is None else each for each in norms)
        inner = [mnn.HyperbolicActivation(after) for _, after in pairs[:-1]]
        self.activations = nn.ModuleList([*inner, nn.Identity()])
        self.classifier = mnn.HyperbolicMLR(spaces[-1], n_outputs, **kind) if n_outputs else None
        self.radius = nn.Parameter(torch.tensor(2.0, **kind))
        self.log_temperature = nn.Parameter(torch.tensor(0.0, **kind))

    @property
    def manifold(self) -> Any:
        """The geometry of the output points."""
        return self.aggregations[-1].manifold

    takes_domain = True

    def forward(self, x: Tensor, edge_index: Tensor, domain: Any = None) -> Tensor:
        """Map features (nodes, in_features) and edges (2, E), in both directions, to points (nodes, *point_shape).

        ``domain`` (nodes,) is that of each node.
        """
        y = self.lift(self.features(self.dropout(x)))
        layers = zip(self.linears, self.aggregations, self.norms, self.activations, strict=True)
        for linear, aggregate, norm, activation in layers:
            y = activation(apply(norm, aggregate(linear(y), edge_index), domain))
        return y

    def links(self, points: Tensor, pairs: Tensor) -> Tensor:
        """Return the log odds (M,) of links between pairs (2, M) of nodes: ``(radius - d^2) / temperature``."""
        first, second = points.index_select(0, pairs[0]), points.index_select(0, pairs[1])
        squared = self.manifold.squared_dist(first, second)
        return (self.radius - squared) * (-self.log_temperature).exp()

    def classify(self, points: Tensor) -> Tensor:
        """Return scores (nodes, n_outputs)."""
        if self.classifier is None:
            raise ValueError("HyperbolicGraphNet.classify: built without n_outputs.")
        return self.classifier(points)
