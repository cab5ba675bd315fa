"""Averaged weights (SWA, EMA) that stay on their manifolds, and running statistics from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.nn import _running
from manifoldnorm.nn.domain import DomainBatchNorm
from manifoldnorm.nn.momentum import Momentum, Renorm
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.statistics import Batch

_TORCH = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def update_bn(loader: Iterable[Any], model: nn.Module, device: Any = None, *, inputs: int = 1) -> None:
    """Set the running statistics of every batch norm in a model, ours and torch's, to averages over a loader's batches.

    As `torch.optim.swa_utils.update_bn`, which does not know the norms of this package: statistics are reset, the model
    runs once over the data in training mode, and each batch gets the same weight, with any statistics policy. Momenta
    and modes are put back. Frozen norms keep their statistics.

    Parameters
    ----------
    loader : iterable
        Batches: the model's input, or a tuple or list that begins with it.
    model : Module
        Called with each batch's input.
    device : optional
        Where the input goes first.
    inputs : int
        How many elements of a tuple the model takes: 2 for ``model(x, domain)``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(2)))
    >>> mn.nn.update_bn([(torch.eye(2)[None], "label"), (torch.eye(2)[None] * 4, "label")], net)
    >>> net[0].running_mean.diagonal()  # the geometric mean
    tensor([2., 2.])
    """
    norms: list[Any] = [module for module in model.modules() if _follows(module)]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    options = [
        (norm, name, getattr(norm, name)) for norm in norms for name in ("momentum", "statistics") if name in vars(norm)
    ]
    try:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            if _remembers(norm):
                norm.statistics = Batch()
        for batch in loader:
            some = batch[:inputs] if isinstance(batch, (tuple, list)) else (batch,)
            model(*(x if device is None else x.to(device) for x in some))
    finally:
        for norm, name, value in options:
            setattr(norm, name, value)
        for module, training in modes:
            module.training = training
    for norm in filter(_remembers, norms):
        for kind in norm.statistics.kinds:
            _running.write(norm, kind, norm.running_mean, norm.running_var, None)


class AveragedModel(torch.optim.swa_utils.AveragedModel):
    """Averages of a model's weights, as torch's class of this name, with points of a manifold averaged along geodesics.

    torch's class averages every tensor entry by entry: a `geoopt.ManifoldParameter` and, with ``use_buffers=True``, the
    running mean of a norm leave their manifold, unless it is convex as that of positive-definite matrices. Here each
    moves along the geodesic to the new point by the weight that ``avg_fn`` or ``multi_avg_fn`` gives to numbers; where
    there is no single geodesic, and on manifolds of geoopt's own, it is the projected average. Everything else
    (tangent biases, weights made orthonormal at use, scales, variances) is averaged as in torch. Domains that the model
    gains (`DomainBatchNorm.add_domain`) begin in the average with the statistics that they have by then.

    Parameters
    ----------
    model : Module
        The model, copied.
    device, avg_fn, multi_avg_fn, use_buffers
        As in `torch.optim.swa_utils.AveragedModel`; the functions must be linear, as torch's own are.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> from torch.optim.swa_utils import get_ema_multi_avg_fn
    >>> norm = mn.nn.GyroBatchNorm(mn.Grassmann(4, 2))
    >>> average = mn.nn.AveragedModel(norm, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    >>> for _ in range(3):
    ...     y = norm(norm.manifold.random_point(8))
    ...     average.update_parameters(norm)
    >>> bool(norm.manifold.violation(average.module.running_mean) < 1e-5)
    True
    """

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the averages towards a model's weights."""
        for norm, source in zip(_domain_norms(self.module), _domain_norms(model), strict=True):
            norm._take_domains(source)
        old = [_double(point).clone() for point, _ in _points(self.module, self.use_buffers)]
        weight = self._weight() if int(self.n_averaged) else None
        super().update_parameters(model)
        if weight is None:
            return
        pairs = zip(_points(self.module, self.use_buffers), _points(model, self.use_buffers), strict=True)
        for held, ((average, manifold), (new, _)) in zip(old, pairs, strict=True):
            average.copy_(_between(manifold, held, _double(new).to(average.device), weight))

    def _weight(self) -> float:
        """Return the weight of the new model: what the average of 0 and 1 is."""
        old, new = (torch.full((1,), value, dtype=torch.float64, device="cpu") for value in (0.0, 1.0))
        count = self.n_averaged.cpu()
        if self.multi_avg_fn is not None:
            self.multi_avg_fn([old], [new], count)
            return float(old)
        return 1 / (float(count) + 1) if self.avg_fn is None else float(self.avg_fn(old, new, count))


def _domain_norms(model: nn.Module) -> list[DomainBatchNorm]:
    return [module for module in model.modules() if isinstance(module, DomainBatchNorm)]


def _points(model: nn.Module, buffers: bool) -> Iterator[tuple[Tensor, Any]]:
    """Yield each parameter, and buffer, that holds points, with their manifold (ours or geoopt's)."""
    for parameter in model.parameters():
        if hasattr(parameter, "manifold"):
            yield parameter.detach(), getattr(parameter.manifold, "geometry", parameter.manifold)
    for norm in model.modules() if buffers else ():
        if isinstance(norm, ManifoldNorm):
            for name in (*(f"{kind}_mean" for kind in norm.statistics.kinds), "running_shift"):
                if isinstance(getattr(norm, name, None), Tensor):
                    yield getattr(norm, name), norm.manifold


def _between(manifold: Any, old: Tensor, new: Tensor, weight: float) -> Tensor:
    """Return the point at ``weight`` of the geodesics, the projected average where there is no single one."""
    flat = old.lerp(new, weight)
    if not isinstance(manifold, Manifold):
        return cast(Tensor, manifold.projx(flat))
    # projected first: a curvature that is averaged too moves the manifold, and rounding would add up
    point = manifold.geodesic(manifold.project(old), manifold.project(new), weight)
    axes = tuple(range(point.ndim - len(manifold.point_shape), point.ndim))
    return torch.where(point.isfinite().all(axes, keepdim=True), point, manifold.project(flat))


def _double(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def _follows(module: nn.Module) -> bool:
    if isinstance(module, ManifoldNorm):
        return module.track_running_stats and not module.frozen
    return isinstance(module, _TORCH)


def _remembers(norm: Any) -> bool:
    return isinstance(getattr(norm, "statistics", None), (Momentum, Renorm))
