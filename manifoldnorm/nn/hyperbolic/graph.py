"""Aggregation over the neighbours of a graph's nodes in hyperbolic space."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg import without_autocast
from manifoldnorm.nn.hyperbolic._layer import Hyperbolic


class HyperbolicAggregation(Hyperbolic):
    """Replace each node's point by the gyromidpoint of itself and its neighbours.

    The gyromidpoint (Lorentz centroid) is carried along by isometries, so the layer commutes with them.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of input and output.

    Raises
    ------
    ValueError
        If the edges are not (2, E) integers.

    References
    ----------
    Ungar 2010, "Barycentric calculus in Euclidean and hyperbolic geometry"; Zhang et al. 2021, "Lorentzian graph
    convolutional networks".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.HyperbolicAggregation(mn.PoincareBall(1))
    >>> layer(torch.tensor([[-0.5], [0.5]]), torch.tensor([[0], [1]])).flatten()
    tensor([-0.5000, 0.0000])
    """

    @without_autocast
    def forward(self, x: Tensor, edge_index: Tensor, weights: Tensor | None = None) -> Tensor:
        """Map points (nodes, *point_shape) to points.

        Parameters
        ----------
        x : Tensor
            One point per node.
        edge_index : Tensor
            (2, E): messages go from ``edge_index[0]`` to ``edge_index[1]``. Every node counts itself once.
        weights : Tensor, optional
            Non-negative weights (E,) of the edges; a node's own is one.
        """
        manifold = self.manifold
        self._check(manifold, x)
        if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
            raise ValueError(
                f"HyperbolicAggregation: edge_index must hold integers (2, E), got {edge_index.dtype} of shape "
                f"{tuple(edge_index.shape)}."
            )
        space, wide = manifold._open(x)
        disk = manifold._enter(space, wide)
        inverse = 1 / disk.gap
        summands = torch.cat([2 * inverse * disk.point, (2 - disk.gap) * inverse], -1)
        source, target = edge_index
        messages = summands.index_select(0, source)
        if weights is not None:
            messages = weights.to(messages).unsqueeze(-1) * messages
        sums = summands.index_add(0, target, messages)
        position, time = sums[..., :-1], sums[..., -1:]
        # a sum of points of the hyperboloid is timelike, but rounding may leave nothing of its Minkowski norm
        norm2 = time.square() + space.curvature * position.square().sum(-1, keepdim=True)
        floor = (torch.finfo(time.dtype).eps * time).square()
        root = torch.maximum(norm2, floor).sqrt()
        return manifold._leave(space, space.disk(position / (time + root)), x.dtype)

    def extra_repr(self) -> str:
        """Return the geometry."""
        return self._show()
