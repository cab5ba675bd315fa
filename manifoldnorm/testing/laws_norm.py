"""What a norm layer computes: moments, the four steps, running statistics, symmetries."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from manifoldnorm.manifolds import Gyrogroup
from manifoldnorm.nn import GyroBatchNorm, LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.testing.actions import Symmetry
from manifoldnorm.testing.cases import largest, mismatch
from manifoldnorm.testing.norm_cases import NormCase


def output_mean_is_the_bias(case: NormCase) -> float:
    """With a converged mean, the Frechet mean of the output is the bias point."""
    layer = case.generic()
    y = layer(case.batch()).detach()
    return largest(case.manifold.dist(case.bias_of(layer), case.manifold.frechet_mean(y)))


def output_variance(case: NormCase) -> float:
    """With a converged mean, the variance of the output is ``s^2 v / (v + eps)``."""
    layer, x, m = case.needs(case.generic(), "eps"), case.batch(), case.manifold
    y = layer(x).detach()
    v = m.squared_dist(m.frechet_mean(x), x).mean(0)
    expected = case.scale_of(layer).square() * v / (v + layer.eps)
    return mismatch(m.squared_dist(case.bias_of(layer), y).mean(0), expected)


def weighted_moments(case: NormCase) -> float:
    """Weights enter the mean and the variance, any scale of them."""
    layer, x, m = case.weighing(case.needs(case.generic(), "eps")), case.batch(), case.manifold
    w = case.cast(case.noise(len(x), complex_ok=False)).abs() + 0.2
    y = layer(x, 3 * w).detach()
    per_group = w.reshape(-1, *(1,) * len(case.groups)).expand(len(x), *case.groups)
    share = per_group / w.sum()
    v = (share * m.squared_dist(m.frechet_mean(x, per_group), x)).sum(0)
    expected = case.scale_of(layer).square() * v / (v + layer.eps)
    got = (share * m.squared_dist(case.bias_of(layer), y)).sum(0)
    away = largest(m.dist(case.bias_of(layer), m.frechet_mean(y, per_group)))
    return max(mismatch(got, expected), away)


# ---- the four steps by definition


def four_steps(case: NormCase) -> float:
    """The training output is: centre, scale, bias, each by the definition of the manifold's primitives."""
    layer, x, m = case.generic(), case.batch(), case.manifold
    mean = m.frechet_mean(x)
    variance = m.squared_dist(mean, x).mean(0)
    return mismatch(layer(x).detach(), _by_definition(case, layer, x, mean, variance))


def eval_four_steps(case: NormCase) -> float:
    """The evaluation output is the same with the running mean and variance, and evaluation changes no state."""
    layer = case.tracking(case.generic())
    layer(case.batch())
    layer(case.batch())
    layer.eval()
    x, before = case.batch(), layer.running_mean.clone()
    y = layer(x).detach()
    changed = largest(layer.running_mean - before)
    return max(changed, mismatch(y, _by_definition(case, layer, x, layer.running_mean, layer.running_var)))


def _by_definition(case: NormCase, layer: Any, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    factor = case.scale_of(layer) / (variance + case.needs(layer, "eps").eps).sqrt()
    bias = case.bias_of(layer)
    if isinstance(layer, LieBatchNorm):
        return _group(case, x, mean, factor, bias)
    if isinstance(layer, GyroBatchNorm):
        return _gyro(case, x, mean, factor, bias)
    if isinstance(layer, RiemannianBatchNorm):
        return (_direct if layer.route == "direct" else _through_origin)(case, x, mean, factor, bias)
    raise NotImplementedError(f"{type(layer).__name__} is not one of the schools of the package")


def _group(case: NormCase, x: Tensor, mean: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    m: Any = case.manifold
    e = case.origin()
    centred = m.compose(m.inverse(mean), x)
    return m.compose(bias, m.exp(e, case.spread(factor) * m.log(e, centred)))


def _gyro(case: NormCase, x: Tensor, mean: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    m: Any = case.manifold
    e = case.origin()
    inverse = m.exp(e, -m.log(e, mean))
    centred = m.exp(inverse, m.from_origin(inverse, m.log(e, x)))
    return m.exp(bias, m.from_origin(bias, case.spread(factor) * m.log(e, centred)))


def _through_origin(case: NormCase, x: Tensor, mean: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    m = case.manifold
    v = m.to_origin(mean, m.log(mean, x))
    return m.exp(bias, m.from_origin(bias, case.spread(factor) * v))


def _direct(case: NormCase, x: Tensor, mean: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    m = case.manifold
    return m.exp(bias, case.spread(factor) * m.transport(mean, bias, m.log(mean, x)))


def transport_is_gyrotranslation(case: NormCase) -> float:
    """Through the origin, parallel transport and gyrotranslation are the same layer."""
    layer, x, m = case.generic(), case.batch(), case.manifold
    through = isinstance(layer, GyroBatchNorm) or getattr(layer, "route", "") == "origin"
    if not (through and isinstance(m, Gyrogroup)):
        raise NotImplementedError("the layer or its geometry knows only one of the two ways")
    mean = m.frechet_mean(x)
    factor = case.scale_of(layer) / (m.squared_dist(mean, x).mean(0) + layer.eps).sqrt()
    y, bias = layer(x).detach(), case.bias_of(layer)
    ways = (_gyro(case, x, mean, factor, bias), _through_origin(case, x, mean, factor, bias))
    return max(mismatch(y, way) for way in ways)


# ---- running statistics


def fresh_eval_is_a_dilation(case: NormCase) -> float:
    """A fresh layer in evaluation dilates about the origin by ``(1 + eps)^-1/2``: nearly the identity."""
    layer, x, m, e = case.needs(case.tracking(case.fresh()), "eps").eval(), case.batch(), case.manifold, case.origin()
    return mismatch(layer(x).detach(), m.exp(e, (1 + layer.eps) ** -0.5 * m.log(e, x)))


def running_statistics(case: NormCase) -> float:
    """Running statistics move by ``momentum`` along the geodesic; without momentum they average all batches equally."""
    return max(_running(case, 0.3), _running(case, None))


def _running(case: NormCase, momentum: float | None) -> float:
    layer, m = case.needs(case.tracking(case.generic()), "momentum"), case.manifold
    layer.momentum = momentum
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    for step in range(3):
        x = case.batch()
        layer(x)
        weight = 1 / (step + 1) if momentum is None else momentum
        batch_mean = m.frechet_mean(x)
        variance = (1 - weight) * variance + weight * m.squared_dist(batch_mean, x).mean(0)
        mean = m.geodesic(mean, batch_mean, weight)
    counted = float(abs(int(layer.num_batches_tracked) - 3))
    return max(counted, mismatch(layer.running_var, variance), mismatch(layer.running_mean, mean))


def eval_repeats_training(case: NormCase) -> float:
    """After a training step with momentum 1, evaluation of the same batch gives the training output."""
    layer, x = case.needs(case.tracking(case.generic()), "momentum"), case.batch()
    layer.momentum = 1.0
    trained = layer(x).detach()
    return mismatch(layer.eval()(x).detach(), trained)


def eval_uses_the_batch(case: NormCase) -> float:
    """Without running statistics, evaluation uses the batch as training does."""
    layer, x = case.generic(), case.batch()
    if getattr(layer, "running_mean", None) is not None:
        raise NotImplementedError("the layer keeps running statistics")
    trained = layer(x).detach()
    return mismatch(layer.eval()(x).detach(), trained)


def equivariance(case: NormCase, symmetry: Symmetry) -> float:
    """With a neutral bias the layer treats transformed data as declared, with a converged mean and with its own."""
    x, act = case.batch(), symmetry.sampler(case)
    moved = act(x)
    return max(symmetry.relation(act, f(x).detach(), f(moved).detach()) for f in (case.exact(), case.fresh()))


def bias_and_scale_can_be_assigned(case: NormCase) -> float:
    """What is assigned to ``bias_point`` and ``scale`` is what they read as, and a negative scale is refused."""
    layer = case.needs(case.generic(), "scale")
    worst = 0.0
    if getattr(layer, "bias_kind", ""):
        point = case.points(*case.groups) if case.groups else case.points(1)[0]
        layer.bias_point = point
        worst = mismatch(layer.bias_point.detach(), point)
    layer.scale = 1.7
    worst = max(worst, largest(layer.scale.detach() - 1.7))
    try:
        layer.scale = -1.0
    except ValueError:
        return worst
    return float("inf")


MOMENT_LAWS = (
    output_mean_is_the_bias,
    output_variance,
    weighted_moments,
    four_steps,
    eval_four_steps,
    transport_is_gyrotranslation,
    fresh_eval_is_a_dilation,
    running_statistics,
    eval_repeats_training,
    eval_uses_the_batch,
    bias_and_scale_can_be_assigned,
)
