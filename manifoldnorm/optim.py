"""Bridge to geoopt's Riemannian optimizers.

`ManifoldParameter(data, manifold)` takes a geometry of this package; `RiemannianAdam`, `RiemannianSGD` and their sparse
siblings are geoopt's, except that momentum starts at rest. Where the exponential is not defined everywhere, as in
Bures-Wasserstein geometries, a step that would leave its domain is shrunk into it (`Manifold.injective_fraction`), and
the momentum with it. The sparse ones train embeddings on manifolds of vectors:

>>> import torch, manifoldnorm as mn
>>> table = torch.nn.Embedding(1000, 5, sparse=True)
>>> ball = mn.PoincareBall(5)
>>> table.weight = mn.optim.ManifoldParameter(1e-3 * torch.randn(1000, 5), ball)
>>> search = mn.optim.SparseRiemannianAdam(table.parameters(), lr=1e-2)
>>> ball.squared_dist(*table(torch.tensor([3, 7]))).backward()
>>> search.step()  # only the two rows are read and written

(Geoopt's ``amsgrad=True`` takes the root of its running maximum in place and stalls: leave it off.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from manifoldnorm import _geoopt
from manifoldnorm._geoopt import from_geoopt, to_geoopt
from manifoldnorm.manifolds import Manifold

_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_FROM_GEOOPT = {"RiemannianAdam", "RiemannianSGD", "SparseRiemannianAdam", "SparseRiemannianSGD"}


def __getattr__(name: str) -> Any:
    if name in _FROM_GEOOPT:
        return _geoopt.optimizer(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def ManifoldParameter(data: Tensor, manifold: Any, requires_grad: bool = True) -> Any:
    """Return a `geoopt.ManifoldParameter` holding ``data`` on ``manifold`` (ours, a learnable one, or geoopt's own).

    Parameters
    ----------
    data : Tensor
        Points (*batch, *point_shape).
    manifold : Manifold, LearnableManifold or geoopt.Manifold
        What Riemannian optimizers keep them on.
    requires_grad : bool
        As of `torch.nn.Parameter`.

    Raises
    ------
    ValueError
        If the data are not points of a geometry of this package.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.optim.ManifoldParameter(torch.eye(3), mn.AffineInvariant(3)).shape
    torch.Size([3, 3])
    """
    parameter = _geoopt.manifold_parameter(data, manifold, requires_grad)
    geometry = getattr(parameter.manifold, "geometry", None)
    if isinstance(geometry, Manifold) and not data.is_meta:
        geometry.check_point(data.detach(), "ManifoldParameter")
    return parameter


def no_decay_groups(model: nn.Module, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Split the parameters of a model into a group with weight decay and one without.

    Scales (of torch's norm layers too), biases, learnable geometries and every manifold parameter get none: decay would
    pull them to a point that means nothing.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    weight_decay : float
        For the first group.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> model = torch.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(3)), torch.nn.Flatten(), torch.nn.Linear(9, 2))
    >>> [len(group["params"]) for group in mn.optim.no_decay_groups(model)]
    [1, 3]
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    gains = {id(m.weight) for m in model.modules() if isinstance(m, _TORCH_NORMS)}
    for name, parameter in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        exempt = last in ("log_scale", "bias") or last.startswith("raw_") or hasattr(parameter, "manifold")
        (plain if exempt or id(parameter) in gains else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


__all__ = [
    "ManifoldParameter",
    "RiemannianAdam",
    "RiemannianSGD",
    "SparseRiemannianAdam",
    "SparseRiemannianSGD",
    "from_geoopt",
    "no_decay_groups",
    "to_geoopt",
]
