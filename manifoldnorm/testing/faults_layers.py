"""Faults of norm layers: moves, scale, bias, the module around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.nn import moves
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.stats import processes
from manifoldnorm.testing.mutants import Change, Mutant, swap

_NORMALIZE = ManifoldNorm._normalize
_BIAS, _MEAN = ManifoldNorm._base_bias, ManifoldNorm._batch_mean
_FORWARD, _FLATTEN = ManifoldNorm.forward, ManifoldNorm._flatten
_BY_GROUP, _BY_TRANSPORT = moves.by_group, moves.by_transport


@contextlib.contextmanager
def _temporarily(layer: Any, **values: Any) -> Iterator[None]:
    """Run with attributes (or parameters) of a layer replaced."""
    store = {name: layer._parameters if name in layer._parameters else layer.__dict__ for name in values}
    before = {name: store[name][name] for name in values}
    for name, value in values.items():
        store[name][name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            store[name][name] = value


def _with_parameter(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    """Return a change under which the layer computes with a changed parameter."""

    def normalize(self: Any, *args: Any) -> Any:
        with _temporarily(self, **{name: change(getattr(self, name))}):
            return _NORMALIZE(self, *args)

    return swap((ManifoldNorm, "_normalize", normalize))


def _bias_in_training_only(self: Any, manifold: Any, chart: Any, base: Any) -> Tensor | None:
    return _BIAS(self, manifold, chart, base) if self.training else None


def _about_the_origin(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    return _BY_GROUP(manifold, mean, x)._replace(squared=manifold.polar(x)[0])


def _centred_the_other_way(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    return _BY_GROUP(manifold, manifold.inverse(mean), x)


def _bias_on_the_right(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    moved = _BY_GROUP(manifold, mean, x)

    def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
        y = moved.finish(factor, None)
        return y if bias is None else manifold.compose(y, bias)

    return moved._replace(finish=finish)


def _scaled_before_centring(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    moved = _BY_GROUP(manifold, mean, x)

    def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
        y = manifold.quotient(mean, manifold.polar(x)[1](factor))
        return y if bias is None else manifold.compose(bias, y)

    return moved._replace(finish=finish)


def _group_for_gyro(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    return _BY_GROUP(manifold, mean, x)


def _untransported(manifold: Any, mean: Tensor, x: Tensor) -> Any:
    moved = _BY_TRANSPORT(manifold, mean, x)
    v = manifold.log(mean, x)
    return moved._replace(finish=lambda factor, bias: manifold.shoot(bias, factor.reshape((*factor.shape, 1, 1)) * v))


def _counts_first(self: Any, x: Tensor, weights: Tensor | None = None) -> Tensor:
    if self.training and self.track_running_stats:
        self.num_batches_tracked += 1
    return _FORWARD(self, x, weights)


def _under_autocast(self: Any, x: Tensor, weights: Tensor | None = None) -> Tensor:
    return self._forward(x, weights)[0]


def _reversed_batch(self: Any, x: Tensor, weights: Tensor | None) -> Any:
    flat, flat_weights = _FLATTEN(self, x, weights)
    return flat.flip(0), flat_weights


def _scale_outside(self: Any, *args: Any) -> Any:
    out, missing = _NORMALIZE(self, *args)
    return out * 1.01, missing


LAYER_FAULTS = (
    Mutant(
        "variance about the origin",
        "instead of the mean",
        "Lie-AffineInvariant",
        swap((moves, "by_group", _about_the_origin)),
    ),
    Mutant(
        "gradient of one process",
        "that of a sum over processes is not summed",
        "Lie-LogEuclidean",
        swap((processes._Sum, "backward", staticmethod(lambda ctx, g: (g, None)))),
    ),
    Mutant("detached scale", "no gradient reaches it", "Lie-LogEuclidean", _with_parameter("log_scale", Tensor.detach)),
    Mutant("detached bias", "no gradient reaches it", "Lie-LogEuclidean", _with_parameter("bias", Tensor.detach)),
    Mutant(
        "scale inverted",
        "divided by instead of multiplied",
        "Lie-LogEuclidean",
        _with_parameter("log_scale", Tensor.neg),
    ),
    Mutant(
        "scale squared", "as if it were a variance", "Lie-LogEuclidean", _with_parameter("log_scale", lambda s: 2 * s)
    ),
    Mutant(
        "scaled in the ambient space",
        "the output times 1.01",
        "Riemannian-AffineInvariant",
        swap((ManifoldNorm, "_normalize", _scale_outside)),
    ),
    Mutant(
        "bias tangent not projected",
        "its unsymmetric part enters",
        "Lie-LogCholesky",
        swap((ManifoldNorm, "_tangent_bias", lambda self, manifold: self.bias + 0.1 * self.bias.triu(1).mT)),
    ),
    Mutant(
        "bias missing in evaluation",
        "training only",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_base_bias", _bias_in_training_only)),
    ),
    Mutant(
        "bias on the right", "y b instead of b y", "Lie-AffineInvariant", swap((moves, "by_group", _bias_on_the_right))
    ),
    Mutant(
        "centred by the mean itself",
        "not its inverse",
        "Lie-AffineInvariant",
        swap((moves, "by_group", _centred_the_other_way)),
    ),
    Mutant(
        "scaled before centring",
        "about the wrong point",
        "Lie-AffineInvariant",
        swap((moves, "by_group", _scaled_before_centring)),
    ),
    Mutant(
        "Cholesky move in the gyro layer",
        "depends on the order of channels",
        "Gyro-AffineInvariant",
        swap((moves, "by_gyrogroup", _group_for_gyro)),
    ),
    Mutant(
        "centring without transport",
        "tangent vectors at the mean taken as tangent at the origin",
        "Riemannian-BuresWasserstein-complex",
        swap((moves, "by_transport", _untransported)),
    ),
    Mutant(
        "output in another order",
        "the batch is reversed",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_flatten", _reversed_batch)),
    ),
    Mutant(
        "autocast inside",
        "products in half precision",
        "Lie-LogCholesky-power",
        swap((ManifoldNorm, "forward", _under_autocast)),
        "equivalent: the operations of manifolds and charts leave autocast too",
        dtype=torch.float32,
    ),
    Mutant(
        "state written first",
        "a failed forward is counted",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "forward", _counts_first)),
    ),
)
