"""Laws of Frechet means and of what mean policies need from a manifold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.manifolds import flatten
from manifoldnorm.testing.cases import ManifoldCase, derivative, largest, mismatch

SAMPLES = 8


def _away(case: ManifoldCase, a: Tensor, b: Tensor) -> float:
    """Return the largest distance between means."""
    return largest(case.manifold.dist(a, b))


def _stationarity(case: ManifoldCase, mean: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the norm of the mean logarithm at ``mean`` over the root of the variance, by definition."""
    m = case.manifold
    share = (
        torch.full((len(x),), 1 / len(x), dtype=case.dtype, device=x.device)
        if weights is None
        else weights / weights.sum()
    )
    v = (case.spread(share) * m.log(mean, x)).sum(0)
    return m.norm(mean, v) / (share * m.squared_dist(mean, x)).sum(0).sqrt()


def mean_is_stationary(case: ManifoldCase) -> float:
    """At the Frechet mean the weighted mean of the logarithms is 0."""
    x = case.cloud(SAMPLES, size=1.0)
    weights = case.cast(case.noise(SAMPLES, complex_ok=False)).abs() + 0.1
    plain = case.manifold.frechet_mean(x)
    weighted = case.manifold.frechet_mean(x, weights)
    return max(largest(_stationarity(case, plain, x)), largest(_stationarity(case, weighted, x, weights)))


def mean_ignores_order(case: ManifoldCase) -> float:
    """The mean does not depend on the order of the samples."""
    x = case.cloud(SAMPLES)
    order = torch.randperm(SAMPLES, generator=case.generator)
    return _away(case, case.manifold.frechet_mean(x[order]), case.manifold.frechet_mean(x))


def mean_weights_are_repetitions(case: ManifoldCase) -> float:
    """Integer weights are repetitions, their scale is immaterial, and weight 0 leaves a sample out."""
    x = case.cloud(4)
    m, w = case.manifold, torch.tensor([2.0, 1.0, 3.0, 0.0], dtype=case.dtype, device=x.device)
    expected = m.frechet_mean(torch.stack([x[0], x[0], x[1], x[2], x[2], x[2]]))
    return max(_away(case, m.frechet_mean(x, w), expected), _away(case, m.frechet_mean(x, 7 * w), expected))


def mean_of_batches(case: ManifoldCase) -> float:
    """Means over any dimensions of a batch equal means taken one at a time."""
    x = case.cloud(4, 3, 2)
    m = case.manifold
    over_first = m.frechet_mean(x)
    singly = torch.stack([torch.stack([m.frechet_mean(x[:, i, j]) for j in range(2)]) for i in range(3)])
    over_two = m.frechet_mean(x, dim=(0, -2))
    pooled = torch.stack([m.frechet_mean(x[:, :, j].flatten(0, 1)) for j in range(2)])
    if over_first.shape != singly.shape or over_two.shape != pooled.shape:
        return math.inf
    return max(_away(case, over_first, singly), _away(case, over_two, pooled))


def mean_of_one_point(case: ManifoldCase) -> float:
    """The mean of one point, or of equal points, is that point."""
    p = case.points()
    m = case.manifold
    return max(mismatch(m.frechet_mean(p[:1]), p[0]), mismatch(m.frechet_mean(p[:1].expand_as(p).clone()), p[0]))


def mean_of_two_points(case: ManifoldCase) -> float:
    """The weighted mean of two points lies on their geodesic."""
    p, q = case.points(), case.points()
    m = case.manifold
    w = torch.tensor([0.7, 0.3], dtype=case.dtype, device=p.device)[:, None].expand(2, len(p))
    return _away(case, m.frechet_mean(torch.stack([p, q]), w), m.geodesic(p, q, 0.3))


def mean_gradient(case: ManifoldCase) -> float:
    """The gradient of the mean in samples and weights is its finite difference."""
    m, x = case.manifold, case.cloud(SAMPLES, size=0.7).requires_grad_()
    weights = (case.cast(case.noise(SAMPLES, complex_ok=False)).abs() + 0.5).requires_grad_()
    weight = case.noise(*m.point_shape).to(x.device)
    (m.frechet_mean(x, weights) * case.cast(weight).conj()).real.sum().backward()
    assert x.grad is not None and weights.grad is not None
    wide, wide_weights = x.detach().to(case.wide), weights.detach().double()
    u = case.tangents(wide, 0.1)
    s = 0.1 * case.noise(SAMPLES, complex_ok=False).to(x.device)

    def value(points: Tensor, share: Tensor) -> Tensor:
        return (m.frechet_mean(points, share) * weight.conj()).real.sum()

    eps = torch.finfo(torch.float64).eps
    in_x = derivative(lambda t: value(wide + t * u, wide_weights), eps)
    in_w = derivative(lambda t: value(wide, wide_weights + t * s), eps)
    got_x = case.inner(x.grad.to(case.wide), u).sum()
    got_w = (weights.grad.double() * s).sum()
    size = max(1.0, abs(float(in_x)), abs(float(in_w)))
    return max(abs(float(got_x - in_x)), abs(float(got_w - in_w))) / size


def newton_hessian(case: ManifoldCase) -> float:
    """Solving with the Hessian undoes the finite difference of the residual, taken at the mean."""
    m, x = case.manifold, case.cloud(SAMPLES, size=1.0)
    if not m.has_hessian:
        raise NotImplementedError("no Hessian of the squared distance")
    mean = m.frechet_mean(x)
    system = m.mean_system(mean, x, None)
    other = m.mean_system(mean, case.cloud(SAMPLES), None).residual  # in the system's own coordinates
    step = 0.3 * other / other.abs().square().sum().sqrt()
    change = derivative(lambda t: m.mean_system(m.mean_step(mean, t * step), x, None).residual, case.eps)
    assert system.hessian is not None
    return mismatch(system.hessian.solve(-change, 4 * m.dim, 0), step)


def mean_system_cost(case: ManifoldCase) -> float:
    """The cost that damping watches is the variance up to a constant, and mean steps of length 0 go nowhere."""
    m, x = case.manifold, case.cloud(SAMPLES)
    p, q = case.points(2)
    systems = [m.mean_system(a, x, None) for a in (p, q)]
    expected = m.squared_dist(p, x).mean() - m.squared_dist(q, x).mean()
    got = (systems[0].cost - systems[1].cost) * flatten(m)[2]  # a pullback's system is that of its base
    return max(mismatch(got, expected), mismatch(m.mean_step(p, 0 * systems[0].residual), p))


def karcher_converges(case: ManifoldCase) -> float:
    """Unit Karcher steps on concentrated data end at the Frechet mean, and one step leaves the arithmetic mean."""
    m, x = case.manifold, case.cloud(SAMPLES, size=0.3)
    exact = m.frechet_mean(x)
    many = _away(case, stats.Karcher(30)(m, x), exact)
    once, start = m.dist(stats.Karcher(1)(m, x), exact), m.dist(m.arithmetic_start(x, None), exact)
    closed = m.closed_form_mean(x, None) is not None
    return many if closed or bool(once < 0.5 * start) else math.inf


def policies_agree(case: ManifoldCase) -> float:
    """The fixed-step policies `Exact` and ``Newton(5)`` equal the mean iterated to a tolerance, weighted too."""
    m, x = case.manifold, case.cloud(SAMPLES, 2)
    weights = case.cast(case.noise(SAMPLES, 2, complex_ok=False)).abs() + 0.1
    expected = m.frechet_mean(x, weights)
    share = weights / weights.sum(0)
    worst = _away(case, stats.Exact()(m, x, share), expected)
    if m.has_hessian:
        worst = max(worst, _away(case, stats.Newton(5, cg_steps=12)(m, x, share), expected))
    return worst


def default_mean(case: ManifoldCase) -> float:
    """The mean that layers use by default is within 2 % of a standard deviation of the Frechet mean."""
    m, x = case.manifold, case.cloud(SAMPLES)
    exact = m.frechet_mean(x)
    return largest(m.dist(m.default_mean(m, x), exact) / m.squared_dist(exact, x).mean().sqrt())


MEAN_LAWS = (
    mean_is_stationary,
    mean_ignores_order,
    mean_weights_are_repetitions,
    mean_of_batches,
    mean_of_one_point,
    mean_of_two_points,
    mean_gradient,
    newton_hessian,
    mean_system_cost,
    karcher_converges,
    policies_agree,
    default_mean,
)
