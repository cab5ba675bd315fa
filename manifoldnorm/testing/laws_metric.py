"""Laws of a Riemannian manifold: exponential, distance, transport, gradient, projection.

Each function takes a `ManifoldCase` and returns a residual; its name is the law's name in the tolerance table.
"""

from __future__ import annotations

import math

import torch

from manifoldnorm.testing.cases import COUNT, ManifoldCase, derivative, largest, mismatch, second_derivative


def exp_log(case: ManifoldCase) -> float:
    """The exponential undoes the logarithm."""
    p, q = case.points(), case.points()
    return case.mismatch(case.manifold.exp(p, case.manifold.log(p, q)), q)


def log_exp(case: ManifoldCase) -> float:
    """The logarithm undoes the exponential."""
    p = case.points()
    v = case.tangents(p, 0.5)
    return mismatch(case.manifold.log(p, case.manifold.exp(p, v)), v)


def exp_velocity(case: ManifoldCase) -> float:
    """A geodesic starts with its tangent vector: the derivative of ``exp(p, t v)`` at t = 0 is v."""
    p = case.points()
    v = case.tangents(p)
    return mismatch(derivative(lambda t: case.manifold.exp(p, t * v), case.eps), v)


def retract_velocity(case: ManifoldCase) -> float:
    """A retraction starts with its tangent vector and stays on the manifold."""
    p = case.points()
    v = case.tangents(p)
    step = mismatch(derivative(lambda t: case.manifold.retract(p, t * v), case.eps), v)
    return max(step, largest(case.manifold.violation(case.manifold.retract(p, v))))


def dist_is_norm_of_log(case: ManifoldCase) -> float:
    """The distance is the norm of the logarithm, and its square the squared distance."""
    p, q = case.points(), case.points()
    distance = case.manifold.dist(p, q)
    norm, square = case.manifold.norm(p, case.manifold.log(p, q)), case.manifold.squared_dist(p, q)
    return max(mismatch(distance, norm), mismatch(square, distance.square()))


def dist_symmetry(case: ManifoldCase) -> float:
    """The distance is symmetric."""
    p, q = case.points(), case.points()
    return mismatch(case.manifold.dist(p, q), case.manifold.dist(q, p))


def triangle_inequality(case: ManifoldCase) -> float:
    """No detour is shorter, and one along the geodesic is as long."""
    p, q, r = case.points(), case.points(), case.points()
    m = case.manifold
    excess = (m.dist(p, r) - m.dist(p, q) - m.dist(q, r)).clamp_min(0)
    middle = m.geodesic(p, q, 0.3)
    return max(largest(excess), mismatch(m.dist(p, middle) + m.dist(middle, q), m.dist(p, q)))


def dist_to_itself(case: ManifoldCase) -> float:
    """The distance of a point from itself is 0 and its gradient there is 0, not NaN."""
    p = case.points().requires_grad_()
    q = p.detach().clone().requires_grad_()
    d = case.manifold.dist(p, q)
    d.sum().backward()
    assert p.grad is not None and q.grad is not None
    return max(largest(d.detach()), largest(p.grad), largest(q.grad))


def constant_speed(case: ManifoldCase) -> float:
    """Geodesics have constant speed, from the first point at time 0 to the second at time 1, and go on beyond."""
    p, q = case.points(), case.points()
    m, d = case.manifold, case.manifold.dist(p, q)
    ends = max(case.mismatch(m.geodesic(p, q, 0.0), p), case.mismatch(m.geodesic(p, q, 1.0), q))
    times = (0.0, 0.3, 0.8, 1.1)
    at = [m.geodesic(p, q, t) for t in times]
    gaps = [mismatch(m.dist(at[i], at[j]), (times[j] - times[i]) * d) for i in range(4) for j in range(i + 1, 4)]
    return max(ends, *gaps)


def inner_is_a_metric(case: ManifoldCase) -> float:
    """The inner product is symmetric, real-bilinear and positive."""
    p = case.points()
    u, v, w = case.tangents(p), case.tangents(p), case.tangents(p)
    inner = case.manifold.inner
    if bool((inner(p, u, u) <= 0).any()):
        return math.inf
    linear = mismatch(inner(p, u, 2 * v - 3 * w), 2 * inner(p, u, v) - 3 * inner(p, u, w))
    return max(linear, mismatch(inner(p, u, v), inner(p, v, u)))


# ---- parallel transport


def transport_isometry(case: ManifoldCase) -> float:
    """Parallel transport preserves inner products and is linear."""
    p, q = case.points(), case.points()
    m, u, v = case.manifold, case.tangents(p), case.tangents(p)
    moved_u, moved_v = m.transport(p, q, u), m.transport(p, q, v)
    linear = mismatch(m.transport(p, q, 2 * u - v), 2 * moved_u - moved_v)
    return max(linear, mismatch(m.inner(q, moved_u, moved_v), m.inner(p, u, v)))


def transport_round_trip(case: ManifoldCase) -> float:
    """Transport along a geodesic and back is the identity."""
    p, q = case.points(), case.points()
    v = case.tangents(p)
    return mismatch(case.manifold.transport(q, p, case.manifold.transport(p, q, v)), v)


def transport_velocity(case: ManifoldCase) -> float:
    """Transport carries the velocity of its own geodesic."""
    p, q = case.points(), case.points()
    m = case.manifold
    return mismatch(m.transport(p, q, m.log(p, q)), -m.log(q, p))


def transport_is_parallel(case: ManifoldCase) -> float:
    """The covariant derivative of a transported vector vanishes, with the connection read off the exponential."""
    p = case.points()
    m, u, v = case.manifold, case.tangents(p, 0.5), case.tangents(p, 0.5)
    change = derivative(lambda t: m.transport(p, m.exp(p, t * u), v), case.eps)
    return largest(m.project_tangent(p, change + _christoffel(case, p, u, v))) / largest(v)


def origin_transport_isometry(case: ManifoldCase) -> float:
    """Transport to the origin and from it preserve inner products."""
    p = case.points()
    m, u, v, e = case.manifold, case.tangents(p), case.tangents(p), case.origin(COUNT)
    expected = m.inner(p, u, v)
    there = mismatch(m.inner(e, m.to_origin(p, u), m.to_origin(p, v)), expected)
    u, v = case.tangents(e), case.tangents(e)
    return max(there, mismatch(m.inner(p, m.from_origin(p, u), m.from_origin(p, v)), m.inner(e, u, v)))


def origin_transport_round_trip(case: ManifoldCase) -> float:
    """Transport to the origin and back is the identity."""
    p = case.points()
    v = case.tangents(p)
    return mismatch(case.manifold.from_origin(p, case.manifold.to_origin(p, v)), v)


def origin_transport_velocity(case: ManifoldCase) -> float:
    """Transport to the origin carries the velocity of the geodesic towards it."""
    p, e = case.points(), case.origin(COUNT)
    m = case.manifold
    return mismatch(m.to_origin(p, m.log(p, e)), -m.log(e, p))


def origin_transport_is_parallel(case: ManifoldCase) -> float:
    """Along a geodesic from the origin the covariant derivative of a transported vector vanishes."""
    e = case.origin(COUNT)
    m, u, v = case.manifold, case.tangents(e, 0.5), case.tangents(e, 0.5)
    p = m.exp(e, u)
    change = derivative(lambda t: m.from_origin(m.exp(e, (1 + t) * u), v), case.eps)
    bend = _christoffel(case, p, -m.log(p, e), m.from_origin(p, v))
    return largest(m.project_tangent(p, change + bend)) / largest(v)


def _christoffel(case: ManifoldCase, p: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the Christoffel form ``Gamma_p(u, v)``: minus the polarised second derivative of the exponential."""

    def bend(w: torch.Tensor) -> torch.Tensor:
        return second_derivative(lambda t: case.manifold.exp(p, t * w), case.eps)

    return (bend(u - v) - bend(u + v)) / 4


# ---- gradients


def gradient_duality(case: ManifoldCase) -> float:
    """The inner product with the Riemannian gradient is the directional derivative."""
    p = case.points()
    g, u = case.ambient(p), case.tangents(p)
    gradient = case.manifold.egrad2rgrad(p, g)
    return mismatch(case.manifold.inner(p, gradient, u), case.inner(g, u))


def gradient_is_tangent(case: ManifoldCase) -> float:
    """The Riemannian gradient is a tangent vector."""
    p = case.points()
    gradient = case.manifold.egrad2rgrad(p, case.ambient(p))
    return mismatch(case.manifold.project_tangent(p, gradient), gradient)


def squared_dist_gradient(case: ManifoldCase) -> float:
    """The Riemannian gradient of the squared distance is minus twice the logarithm, in both arguments."""
    p, q = case.points().requires_grad_(), case.points().requires_grad_()
    m = case.manifold
    m.squared_dist(p, q).sum().backward()
    assert p.grad is not None and q.grad is not None
    a, b = p.detach(), q.detach()
    first = mismatch(m.egrad2rgrad(a, p.grad), -2 * m.log(a, b))
    return max(first, mismatch(m.egrad2rgrad(b, q.grad), -2 * m.log(b, a)))


# ---- projections


def projection(case: ManifoldCase) -> float:
    """Projection lands on the manifold, is idempotent, and leaves points where they are."""
    p = case.points()
    m, x = case.manifold, case.ambient(p)
    once = m.project(x)
    off = max(largest(m.violation(once)), largest(m.violation(p)))
    return max(off, mismatch(m.project(once), once), mismatch(m.project(p), p))


def violation_notices(case: ManifoldCase) -> float:
    """An ambient array off the manifold has a positive violation, where there is such an array."""
    x = 10 * case.ambient(case.points())
    moved = (case.manifold.project(x) - x).abs().reshape(len(x), -1).amax(-1) > 0.1
    if not bool(moved.any()):
        raise NotImplementedError("every ambient array is a point")
    return float((case.manifold.violation(x)[moved] < 1e-3).sum())


def tangent_projection(case: ManifoldCase) -> float:
    """The tangent projector is idempotent and self-adjoint, and random tangent vectors are tangent."""
    p = case.points()
    m, a, b = case.manifold, case.ambient(p), case.ambient(p)
    u, v = m.project_tangent(p, a), m.project_tangent(p, b)
    random = m.random_tangent(p.cpu(), case.generator).to(p.device)
    tangent = mismatch(m.project_tangent(p, random), random)
    return max(tangent, mismatch(m.project_tangent(p, u), u), mismatch(case.inner(u, b), case.inner(a, v)))


def tangent_dimension(case: ManifoldCase) -> float:
    """The rank of the tangent projector is the dimension of the manifold."""
    p = case.points(1)[0]
    size = p.numel()
    basis = torch.eye(size, dtype=p.dtype, device=p.device).reshape(size, *p.shape)
    if p.is_complex():
        basis = torch.cat([basis, 1j * basis])
    image = case.manifold.project_tangent(p.expand_as(basis), basis).reshape(len(basis), -1)
    image = torch.cat([image.real, image.imag], -1) if image.is_complex() else image
    return float(abs(int(torch.linalg.matrix_rank(image, rtol=1e-4)) - case.manifold.dim))


METRIC_LAWS = (
    exp_log,
    log_exp,
    exp_velocity,
    retract_velocity,
    dist_is_norm_of_log,
    dist_symmetry,
    triangle_inequality,
    dist_to_itself,
    constant_speed,
    inner_is_a_metric,
    transport_isometry,
    transport_round_trip,
    transport_velocity,
    transport_is_parallel,
    origin_transport_isometry,
    origin_transport_round_trip,
    origin_transport_velocity,
    origin_transport_is_parallel,
    gradient_duality,
    gradient_is_tangent,
    squared_dist_gradient,
    projection,
    violation_notices,
    tangent_projection,
    tangent_dimension,
)
