"""Constant curvature as differentiable, traceable, immutable objects: gradients, curvature through zero, errors."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import manifoldnorm as mn
from manifoldnorm.manifolds import _curvature as cv
from manifoldnorm.stats import Exact

F64 = torch.float64
MODELS: list[Any] = [mn.PoincareBall(3), mn.Lorentz(3), mn.Klein(3), mn.Sphere(3), mn.ProjectedSphere(3)]
every = pytest.mark.parametrize("m", MODELS, ids=repr)
STEP = 1e-3
SIGNS = [-0.7, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.7]


def scalar(k: float) -> Tensor:
    return torch.tensor(k, dtype=F64, requires_grad=True)


# ---- functions of the signed square


@pytest.mark.parametrize("sign", [None, -1, 1])
def test_functions_of_the_signed_square(sign: int | None) -> None:
    """Values and first two derivatives against 40 digits, on both sides of zero and of the switch to the series."""
    sizes = [1e-12, 1e-5, 3.9e-3, 4.1e-3, 0.1, 0.9]
    z = torch.tensor([s * side for side in (-1, 1) if sign in (None, side) for s in sizes], dtype=F64)
    with mp.workdps(60):
        root = lambda t: mp.sqrt(mp.mpc(t))  # noqa: E731
        truth = {
            "sine": (lambda t: cv.sine_cosine(t, sign)[0], lambda t: mp.re(mp.sin(root(t)) / root(t))),
            "cosine": (lambda t: cv.sine_cosine(t, sign)[1], lambda t: mp.re(mp.cos(root(t)))),
            "tan": (lambda t: cv.tan_ratio(t, sign)[0], lambda t: mp.re(mp.tan(root(t)) / root(t))),
            "gap": (lambda t: cv.tan_ratio(t, sign)[1], lambda t: mp.re(1 + mp.tan(root(t)) ** 2)),
            "arctan": (lambda t: cv.arctan_ratio(t, 1 + t, sign), lambda t: mp.re(mp.atan(root(t)) / root(t))),
        }
        for name, (ours, exact) in truth.items():
            leaf = z.clone().requires_grad_()
            value = ours(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), leaf)
            for order, got in enumerate((value, slope, bend)):
                # a known sign means a curvature away from zero: derivatives in it may lose eps / |z| per order
                loss = [4e-16, 4e-13, 1e-9][order] if sign is None else 4e-16 * 10 ** (6 * order)
                keep = z.abs() > (0 if sign is None or not order else 2e-3)
                expected = [mp.diff(exact, mp.mpf(t), order) if order else exact(mp.mpf(t)) for t in z.tolist()]
                error = torch.tensor([float(abs(mp.mpf(g) - e)) for g, e in zip(got.tolist(), expected, strict=True)])
                assert float(error[keep].max()) < loss * 10, (name, order)


# ---- curvature through zero


def operations(d: int = 3) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    x, y, v = (torch.rand(4, d, dtype=F64) - 0.5 for _ in range(3))
    found = {
        "exp": lambda m: m.exp(x, v),
        "log": lambda m: m.log(x, y),
        "squared_dist": lambda m: m.squared_dist(x, y),
        "inner": lambda m: m.inner(x, v, y),
        "transport": lambda m: m.transport(x, y, v),
        "gyroadd": lambda m: m.gyroadd(x, y),
        "gyration": lambda m: m.gyration(x, y, v),
        "gyroscale": lambda m: m.gyroscale(0.3, x),
        "midpoint": lambda m: m.midpoint(x),
        "mean": lambda m: Exact()(m, x),
        "frechet_mean": lambda m: m.frechet_mean(x),
    }
    return found, x, y, v


@pytest.mark.parametrize("k", SIGNS)
def test_value_and_derivative_in_the_curvature(k: float) -> None:
    found, *_ = operations()
    for name, f in found.items():
        leaf = scalar(k)
        value = f(mn.Stereographic(3, leaf))
        fixed = f(mn.Stereographic(3, k))
        assert float((value - fixed).detach().abs().max()) < 1e-13, name
        weight = torch.randn_like(value)
        (slope,) = torch.autograd.grad((value * weight).sum(), leaf, create_graph=name != "frechet_mean")

        def at(t: float, f: Any = f, weight: Tensor = weight) -> Tensor:
            return (f(mn.Stereographic(3, torch.tensor(k + t * STEP, dtype=F64))) * weight).sum()

        expected = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
        assert abs(float((slope - expected).detach())) < 1e-9 * max(1.0, abs(float(expected))), name


def test_flat_values_are_those_of_flat_space() -> None:
    _, x, y, v = operations()
    for m in (mn.Stereographic(3, 0.0), mn.Stereographic(3, torch.tensor(0.0, dtype=F64))):
        assert torch.equal(m.gyroadd(x, y), x + y)
        assert torch.allclose(m.dist(x, y), 2 * (x - y).norm(dim=-1), rtol=1e-15)
        assert torch.allclose(m.exp(x, v), x + v, rtol=1e-15)
        assert torch.allclose(m.frechet_mean(x), x.mean(0), rtol=1e-14, atol=1e-15)


def test_second_derivative_in_the_curvature_at_zero() -> None:
    x, y = (0.5 * torch.randn(3, dtype=F64) for _ in range(2))
    f = lambda k: mn.Stereographic(3, k).squared_dist(x, y)  # noqa: E731
    assert gradcheck(f, (scalar(0.0),), eps=1e-5)
    assert gradgradcheck(f, (scalar(0.0),), eps=1e-5)


# ---- gradients


@every
def test_first_and_second_derivatives(m: Any) -> None:
    x, y = m.random_point(2, dtype=F64), m.random_point(2, dtype=F64)
    v = m.random_tangent(x)
    leaves = [t.clone().requires_grad_() for t in (x, y, v)]
    functions = [
        lambda x, y, v: m.exp(x, 0.5 * v),
        lambda x, y, v: m.log(x, y),
        lambda x, y, v: m.transport(x, y, v),
        lambda x, y, v: m.gyroadd(x, y),
        lambda x, y, v: m.gyroscale(0.7, x),
        lambda x, y, v: m.squared_dist(x, y),
        lambda x, y, v: m.midpoint(x),
    ]
    for f in functions:
        assert gradcheck(f, leaves)
        assert gradgradcheck(f, leaves)


@every
def test_gradients_where_points_coincide(m: Any) -> None:
    """Rows of spec/pains.md 5.4: d log_x(y) / dy at y = x, d dist at y = x, exp at a zero vector."""
    x = m.random_point(6, dtype=F64)
    u = m.random_tangent(x)
    y = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(m.inner(x, m.log(x, y), u).sum(), y)
    step = torch.autograd.functional.jvp(lambda t: m.log(x, t), x, u)[1]
    assert float((m.project_tangent(x, step) - u).abs().max()) < 1e-12  # the differential is the identity
    assert bool(grad.isfinite().all())
    for a, b in ((x, x.clone().requires_grad_()), (x.clone().requires_grad_(), x)):
        d = m.dist(a, b)
        leaf = a if a.requires_grad else b
        d.sum().backward()
        assert float(d.detach().abs().max()) == 0 and float(leaf.grad.abs().max()) == 0
    zero = torch.zeros_like(x)
    moved = torch.autograd.functional.jvp(lambda t: m.exp(x, t), zero, u)[1]
    assert float((moved - u).abs().max()) < 1e-12
    e = m.origin(6, dtype=F64)
    for function in (lambda t: m.gyroscale(0.5, t), lambda t: m.polar(t)[0]):
        leaf = e.clone().requires_grad_()
        function(leaf).sum().backward()
        assert bool(leaf.grad.isfinite().all())


@every
def test_the_implicit_gradient_and_its_gradient(m: Any) -> None:
    x = m.gyroscale(0.5, m.random_point(5, dtype=F64)).requires_grad_()
    w = torch.rand(5, dtype=F64).requires_grad_()
    project = lambda t: m.project(t)  # noqa: E731
    assert gradcheck(lambda x, w: Exact()(m, project(x), w / w.sum()), (x, w))


@every
def test_forward_mode(m: Any) -> None:
    x, y = m.random_point(2, dtype=F64), m.random_point(2, dtype=F64)
    for f in (lambda t: m.squared_dist(t, y), lambda t: m.gyroadd(t, y), lambda t: m.log(y, t)):
        assert torch.allclose(torch.func.jacfwd(f)(x), torch.func.jacrev(f)(x), rtol=1e-11, atol=1e-12)


@every
def test_vmap(m: Any) -> None:
    x, y = m.random_point(4, 3, dtype=F64), m.random_point(4, 3, dtype=F64)
    v = m.random_tangent(x)
    for f, arguments in (
        (m.exp, (x, 0.5 * v)),
        (m.log, (x, y)),
        (m.dist, (x, y)),
        (m.transport, (x, y, v)),
        (m.gyroadd, (x, y)),
        (m.gyration, (x, y, m.gyroneg(x))),
        (lambda t: Exact(2)(m, t, None), (x,)),
        (torch.func.grad(lambda t: m.squared_dist(t, y[0]).sum()), (x,)),
        (torch.func.grad(lambda t: Exact(2)(m, t, None).square().sum()), (x,)),
    ):
        expected = torch.stack([f(*(a[i] for a in arguments)) for i in range(4)])
        assert torch.allclose(torch.func.vmap(f)(*arguments), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
@pytest.mark.parametrize(("m", "dtype"), [*((m, F64) for m in MODELS), (MODELS[0], torch.float32)], ids=str)
def test_compiles_without_a_break(m: Any, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    layer = mn.nn.GyroBatchNorm(m, dtype=dtype)
    twin = copy.deepcopy(layer)
    x = m.random_point(16, dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for step, state in ((compiled, layer), (twin, twin)):
        leaf = x.clone().requires_grad_()
        y = step(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad, state.running_mean, state.running_var))
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None
        assert float((a - b).abs().max()) < 100 * torch.finfo(dtype).eps


# ---- value objects and errors


@every
def test_value_objects(m: Any) -> None:
    same = pickle.loads(pickle.dumps(m))
    assert same == m and hash(same) == hash(m) and repr(same) == repr(m)
    assert m.replace(curvature=2 * m.curvature) != m


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mn.PoincareBall(3, 1.0), "curvature must be negative, got 1.0; pass curvature=-1.0"),
        (lambda: mn.Lorentz(3, 0.0), "flat"),
        (lambda: mn.Klein(3, 0.5), "negative"),
        (lambda: mn.Sphere(3, -1.0), "curvature must be positive, got -1.0; pass curvature=1.0"),
        (lambda: mn.ProjectedSphere(3, -2.0), "positive"),
        (lambda: mn.Stereographic(3, float("nan")), "finite"),
        (lambda: mn.Stereographic(0, -1.0), "positive integer"),
        (lambda: mn.Stereographic(3, torch.ones(2)), "one number"),
        (lambda: mn.Lorentz(3).check_point(torch.zeros(3)), "lift"),
        (lambda: mn.Sphere(3).check_point(torch.ones(2, 3)), r"Use Sphere\(2\)"),
        (lambda: mn.Lorentz(3).dist(torch.zeros(3), torch.zeros(3)), "expected"),
        (lambda: mn.Sphere(3).log(torch.ones(2, 3), torch.ones(2, 3)), "expected"),
        (lambda: mn.PoincareBall(3).exp(torch.zeros(4), torch.zeros(4)), "expected shape"),
        (lambda: mn.nn.GyroBatchNorm(mn.Lorentz(3))(torch.zeros(5, 3)), "time coordinate first"),
        (lambda: mn.PoincareBall(2).check_point(torch.tensor([[0.1, 0.0], [0.8, 0.6]])), "sample 1 is not on"),
        (lambda: mn.Klein(2).check_point(torch.tensor([0.0, 1.1])), "not on the manifold"),
        (lambda: mn.Lorentz(1).check_point(torch.tensor([1.0, 1.0])), "not on the manifold"),
        (lambda: mn.Sphere(1).check_point(torch.tensor([1.0, 1.0])), "not on the manifold"),
    ],
)
def test_errors_name_the_fix(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_curvature_is_one_signed_number() -> None:
    x, y = torch.rand(2, 5, dtype=F64) * 0.3
    for k in (-2.0, -0.5):
        scaled = abs(k) ** 0.5
        d = mn.PoincareBall(5, k).dist(x, y)
        assert torch.allclose(d, mn.PoincareBall(5).dist(scaled * x, scaled * y) / scaled)
        assert torch.equal(d, mn.Stereographic(5, k).dist(x, y))


@every
def test_large_incoming_gradients_do_not_overflow(m: Any) -> None:
    for x in (m.random_point(16, dtype=F64), m.origin(16, dtype=F64)):
        leaf = x.clone().requires_grad_()
        y = mn.nn.GyroBatchNorm(m, dtype=F64)(leaf)
        (1e6 * m.gyroadd(m.origin(dtype=F64), y)).sum().backward()
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


def test_injectivity_radius_of_a_signed_curvature() -> None:
    assert mn.Stereographic(3, 0.25).injectivity_radius == pytest.approx(2 * math.pi)
    assert mn.Stereographic(3, -0.25).injectivity_radius == math.inf
    for k, radius in ((0.25, 2 * math.pi), (0.0, math.inf), (-0.25, math.inf)):
        curvature = torch.tensor(k, dtype=F64, requires_grad=True)
        found = mn.Stereographic(3, curvature).injectivity_radius
        assert float(found.detach()) == pytest.approx(radius)
        assert bool(torch.autograd.grad(found, curvature)[0].isfinite())
