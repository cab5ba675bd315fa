"""Laws of a manifold as an object of tensors: batches, precision, overrides, equality, autograd."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from manifoldnorm.manifolds import Gyrogroup, LieGroup, Manifold
from manifoldnorm.testing.cases import COUNT, ManifoldCase, derivative, largest, mismatch

Operation = tuple[Callable[..., Tensor], str, tuple[Tensor, ...]]


def operations(case: ManifoldCase) -> dict[str, Operation]:
    """Return every operation of the manifold that is present: function, kinds of its arguments, arguments.

    A kind is ``p`` for a point and ``v`` for a vector at the first argument, or at the origin if that is no point.
    """
    m, p, q = case.manifold, case.points(), case.points()
    u, v, g = case.tangents(p, 0.5), case.tangents(p), case.ambient(p)
    w = case.tangents(case.origin(COUNT), 0.5)
    found: dict[str, Operation] = {
        "exp": (m.exp, "pv", (p, u)),
        "log": (m.log, "pp", (p, q)),
        "inner": (m.inner, "pvv", (p, u, v)),
        "dist": (m.dist, "pp", (p, q)),
        "squared_dist": (m.squared_dist, "pp", (p, q)),
        "geodesic": (lambda a, b: m.geodesic(a, b, 0.3), "pp", (p, q)),
        "to_origin": (m.to_origin, "pv", (p, v)),
        "from_origin": (m.from_origin, "pv", (p, w)),
        "transport": (m.transport, "ppv", (p, q, v)),
        "vector_transport": (m.vector_transport, "ppv", (p, q, v)),
        "retract": (m.retract, "pv", (p, u)),
        "egrad2rgrad": (m.egrad2rgrad, "pv", (p, g)),
        "project_tangent": (m.project_tangent, "pv", (p, g)),
        "polar distance": (lambda x: m.polar(x)[0], "p", (p,)),
        "polar": (lambda x: m.polar(x)[1](0.3), "p", (p,)),
        "shoot": (m.shoot, "pv", (p, w)),
        "point_from_tangent": (m.point_from_tangent, "v", (w,)),
        "tangent_from_point": (m.tangent_from_point, "p", (p,)),
    }
    if isinstance(m, LieGroup):
        found |= {
            "compose": (m.compose, "pp", (p, q)),
            "inverse": (m.inverse, "p", (p,)),
            "quotient": (m.quotient, "pp", (p, q)),
        }
    if isinstance(m, Gyrogroup):
        found |= {
            "gyroadd": (m.gyroadd, "pp", (p, q)),
            "gyrosub": (m.gyrosub, "pp", (p, q)),
            "gyroneg": (m.gyroneg, "p", (p,)),
            "gyroscale": (lambda x: m.gyroscale(0.3, x), "p", (p,)),
            "gyration": (m.gyration, "ppp", (p, q, case.points())),
        }
    return {name: entry for name, entry in found.items() if _present(entry[0], entry[2])}


def _present(function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> bool:
    try:
        function(*arguments)
    except NotImplementedError:
        return False
    return True


def batching(case: ManifoldCase) -> float:
    """An operation on a batch is the stack of the operation on each point, and an empty batch stays empty."""
    worst = _geodesic_times(case)
    for f, _, arguments in operations(case).values():
        whole = f(*arguments)
        single = torch.stack([f(*(a[i] for a in arguments)) for i in range(COUNT)])
        empty = f(*(a[:0] for a in arguments))
        worst = max(worst, mismatch(whole, single), 0.0 if empty.shape == whole[:0].shape else math.inf)
    return worst


def _geodesic_times(case: ManifoldCase) -> float:
    p, q, m = case.points(), case.points(), case.manifold
    t = case.cast(case.noise(COUNT, complex_ok=False))
    whole = _or_none(lambda: m.geodesic(p, q, t))
    if whole is None:
        return 0.0
    return mismatch(whole, torch.stack([m.geodesic(p[i], q[i], float(t[i])) for i in range(COUNT)]))


def broadcasting(case: ManifoldCase) -> float:
    """A single base point and singleton dimensions broadcast, forward and backward."""
    worst = 0.0
    for f, _, arguments in operations(case).values():
        if len(arguments) < 2:
            continue
        first, rest = arguments[0], arguments[1:]
        grid = (COUNT, COUNT, *first.shape[1:])
        one_base = _same_call(case, f, first[0], first.shape, rest, rest)
        outer = tuple(a[None] for a in rest), tuple(a.expand(grid) for a in rest)
        worst = max(worst, one_base, _same_call(case, f, first[:, None], grid, *outer))
    return worst


def _same_call(
    case: ManifoldCase,
    f: Callable[..., Tensor],
    base: Tensor,
    full: tuple[int, ...],
    some: tuple[Tensor, ...],
    expanded: tuple[Tensor, ...],
) -> float:
    """Compare ``f(base, *some)`` with f of the arguments expanded by hand: values and the gradient in the base."""
    leaf = base.detach().clone().requires_grad_()
    expected = f(leaf.expand(full), *expanded)
    y = f(leaf, *some).expand_as(expected)  # an operation that ignores an argument need not expand to it
    weight = case.cast(case.noise(*expected.shape) if expected.is_complex() else case.noise(*expected.shape).real)
    gradients = []
    for value in (y, expected):
        # an operation may ignore its base point
        cost = (value * weight).real.sum() + 0 * leaf.abs().sum()
        gradients.append(torch.autograd.grad(cost, leaf)[0])
    size = max(1.0, largest(gradients[1]))  # a gradient may vanish but for rounding
    return max(mismatch(y.detach(), expected.detach()), largest(gradients[0] - gradients[1]) / size)


def precision(case: ManifoldCase) -> float:
    """Single precision agrees with double; dtype and device of the input are kept."""
    single = ManifoldCase(case.manifold, torch.float32, case.seed, case.sampler, case.device)
    worst = 0.0
    for f, _, arguments in operations(single).values():
        got = f(*arguments)
        wide = f(*(a.to(torch.complex128 if a.is_complex() else torch.float64) for a in arguments))
        kept = got.dtype in (single.dtype, single.point_dtype) and got.device == arguments[0].device
        worst = max(worst, mismatch(got.to(wide.dtype), wide) if kept else math.inf)
    return worst


def autograd(case: ManifoldCase) -> float:
    """The gradient of every operation in every argument is its finite difference, also where eigenvalues are tied."""
    generic = operations(case)
    e = case.origin(COUNT)
    w = case.tangents(e, 0.5)
    m = case.manifold
    tied: dict[str, Operation] = {
        "log at the origin": (m.log, "pp", (e, e)),
        "exp at the origin": (m.exp, "pv", (e, 0 * w)),
        "geodesic at the origin": (lambda a, b: m.geodesic(a, b, 0.3), "pp", (e, e)),
        "polar at the origin": (lambda x: m.polar(x)[1](0.3), "p", (e,)),
        "to_origin at the origin": (m.to_origin, "pv", (e, w)),
        "from_origin at the origin": (m.from_origin, "pv", (e, w)),
        "bias point at the origin": (m.point_from_tangent, "v", (0 * w,)),
    }
    tied = {name: entry for name, entry in tied.items() if _present(entry[0], entry[2])}
    entries = {k: v for k, v in {**generic, **tied}.items() if k != "dist"}
    return max(_gradient_error(case, *entry) for entry in entries.values())


def _gradient_error(case: ManifoldCase, f: Callable[..., Tensor], kinds: str, arguments: tuple[Tensor, ...]) -> float:
    """Compare autograd in the case's precision with a double-precision difference along random tangent directions."""
    leaves = [a.detach().clone().requires_grad_() for a in arguments]
    y = f(*leaves)
    weight = torch.randn(y.shape, generator=case.generator, dtype=case.wide if y.is_complex() else torch.float64)
    (y * case.cast(weight).conj()).real.sum().backward()
    wide = [a.detach().to(case.wide) for a in arguments]
    weight = weight.to(y.device)
    worst, size = 0.0, 0.0
    for i, leaf in enumerate(leaves):
        base = wide[i] if kinds[i] == "p" else wide[0] if kinds[0] == "p" else case.origin(COUNT).to(case.wide)
        direction = case.tangents(base, 0.1)

        def along(t: float, i: int = i, direction: Tensor = direction) -> Tensor:
            moved = [a + t * direction if j == i else a for j, a in enumerate(wide)]
            return (f(*moved) * weight.conj()).real.sum()

        expected = float(derivative(along, torch.finfo(torch.float64).eps))
        gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        got = float(case.inner(gradient.to(case.wide), direction).sum())
        worst, size = max(worst, abs(got - expected)), max(size, abs(expected), abs(got))
    result = worst / max(size, 1.0)
    return result if math.isfinite(result) else math.inf


def overrides(case: ManifoldCase) -> float:
    """Operations that a geometry overrides equal their definition in terms of exp, log, inner and transport."""
    m, p, q, e = case.manifold, case.points(), case.points(), case.origin(COUNT)
    worst, tried = 0.0, 0
    v, w = case.tangents(p, 0.3), case.tangents(e, 0.3)
    log = _or_none(lambda: m.log(p, q))
    from_e = _or_none(lambda: m.log(e, p))
    pairs: list[tuple[Callable[[], Tensor], Callable[[], Tensor]]] = [
        (lambda: m.norm(p, v), lambda: m.inner(p, v, v).sqrt()),
        (lambda: m.origin_inner(w, w), lambda: m.inner(e, w, w)),
        (lambda: m.tangent_from_point(m.point_from_tangent(w)), lambda: w),
        (lambda: m.point_from_tangent(m.tangent_from_point(p)), lambda: p),
        (lambda: m.shoot(p, _shortened(case, p, w)), lambda: m.exp(p, m.from_origin(p, _shortened(case, p, w)))),
        (lambda: m.shoot(None, w), lambda: m.exp(e, w)),
        (lambda: m.to_origin(p, v), lambda: m.transport(p, e, v)),
        (lambda: m.from_origin(p, w), lambda: m.transport(e, p, w)),
        (lambda: m.vector_transport(p, q, v), lambda: m.transport(p, q, v)),
        (lambda: m.vector_transport(p, q, v), lambda: m.project_tangent(q, m.vector_transport(p, q, v))),
    ]
    if log is not None and from_e is not None:
        pairs += [
            (lambda: m.squared_dist(p, q), lambda: m.inner(p, log, log)),
            (lambda: m.dist(p, q), lambda: m.inner(p, log, log).sqrt()),
            (lambda: m.geodesic(p, q, 0.3), lambda: m.exp(p, 0.3 * log)),
            (lambda: m.polar(p)[0], lambda: m.inner(e, from_e, from_e)),
            (lambda: m.polar(p)[1](0.3), lambda: m.exp(e, 0.3 * from_e)),
        ]
    for override, definition in pairs:
        got, expected = _or_none(override), _or_none(definition)
        if got is not None and expected is not None:
            worst, tried = max(worst, mismatch(got, expected)), tried + 1
    if not tried:
        raise NotImplementedError("neither operations nor their definitions are present")
    return worst


def _shortened(case: ManifoldCase, p: Tensor, w: Tensor) -> Tensor:
    """Return ``w`` at the origin, shortened so that it stays inside the domain of the exponential once moved to p."""
    fraction = case.manifold.injective_fraction(p, 3 * case.manifold.from_origin(p, w))
    return w if fraction is None else w * case.spread(fraction)


def _or_none(f: Callable[[], Tensor]) -> Tensor | None:
    """Return None where the geometry does not offer the operation (laws of that operation report it absent)."""
    try:
        return f()
    except NotImplementedError:
        return None


def value_object(case: ManifoldCase) -> float:
    """A manifold is an immutable value: equality, hash, repr, replace, copy and pickle agree; assignment raises."""
    m = case.manifold
    same = m.replace()
    copies = (copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m)))
    p, g = case.points(), case.ambient(case.points())
    faults = int(same != m) + int(hash(same) != hash(m)) + int(m == object()) + int(m not in {same})
    for clone in copies:
        faults += int(type(clone) is not type(m)) + int(repr(clone) != repr(m))
        faults += int(not torch.equal(clone.egrad2rgrad(p, g), m.egrad2rgrad(p, g)))
    try:
        m.dim = 0
    except AttributeError:
        return float(faults)
    return faults + 1.0


def shapes(case: ManifoldCase) -> float:
    """Origin and random points have the promised shapes and dtypes, and checks tell points from other arrays."""
    m = case.manifold
    e, p = case.origin(2, 3), m.random_point(2, 3, generator=case.generator, dtype=case.wide)
    faults = int(e.shape != (2, 3, *m.point_shape)) + int(p.shape != e.shape)
    faults += int(e.dtype != case.point_dtype) + int(p.dtype != case.wide)
    faults += int(bool((m.violation(e) > 1e3 * case.eps).any()))
    m.check_point(p)
    m.check_point(e)
    wrong_shape = torch.zeros(2, *(n + 1 for n in m.point_shape), dtype=case.wide)
    for bad in (p.real.to(torch.int64), *((wrong_shape,) if m.point_shape else ())):
        faults += int(not _refused(m, bad))
    return float(faults)


def _refused(m: Manifold, x: Tensor) -> bool:
    try:
        m.check_shape(x)
    except (TypeError, ValueError):
        return True
    return False


VALUE_LAWS = (batching, broadcasting, precision, autograd, overrides, value_object, shapes)
