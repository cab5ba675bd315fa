"""Norms as one operation for each direction: the same numbers as the template, and only where they are meant to run."""

from __future__ import annotations

import contextlib
import copy
import itertools
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.linalg import _fused, _grassmann
from manifoldnorm.linalg.native import INSTRUCTION_SETS, kernels
from manifoldnorm.nn import _paths
from manifoldnorm.stats import Exact, FixedPoint, Karcher, Newton

N = 6
COMPILED = pytest.mark.skipif(
    not _fused.usable(torch.zeros(1, N, N)), reason="needs the compiled kernels (no C++ compiler at installation?)"
)


def step(
    layer: Any, x: Tensor, g: Tensor, template: bool, domain: Tensor | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return what one training step of a copy of the layer gives, and the paths that were taken."""
    inputs = () if domain is None else (domain,)
    layer, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
    with _paths.watch() as taken:
        if template:
            with _paths.template_only():
                y = layer(leaf, *inputs)
        else:
            y = layer(leaf, *inputs)
    y.backward(g)
    gradients = {f"gradient in {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": y.detach(), "gradient in x": leaf.grad, **gradients, **dict(layer.named_buffers())}, taken


def assert_same(layer: Any, x: Tensor, tolerance: float, expected: str = "fused", domain: Tensor | None = None) -> None:
    g = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    if x.ndim > 2 and x.shape[-1] == x.shape[-2]:
        g = g + g.mT
    fused, taken = step(layer, x, g, False, domain)
    reference, _ = step(layer, x, g, True, domain)
    assert [path.rsplit(": ")[-1] for path in taken] == [expected]
    assert fused.keys() == reference.keys()
    for name, value in fused.items():
        # the rounding of a parameter's gradient, a sum over samples, is relative to its terms
        terms = (g.abs().max() * reference["output"].abs().max()).item() if name.startswith("gradient in") else 0.0
        size = reference[name].abs().max().clamp_min(terms)
        assert (value - reference[name]).abs().max() <= tolerance * size, name


def layer_of(kind: Any, manifold: Any, dtype: torch.dtype, scale: float = 0.7, **options: Any) -> Any:
    layer = kind(manifold, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(3)
    layer.scale = scale * torch.ones_like(layer.scale)
    groups = () if layer.channels is None else (layer.channels,)
    if layer.bias_kind:
        layer.bias_point = manifold.random_point(*groups, generator=generator, dtype=torch.float64).to(dtype)
    return layer


def points(manifold: Any, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    x: Tensor = manifold.random_point(*batch, generator=generator, dtype=torch.float64).to(dtype)
    return x


AIM = list(
    itertools.product(
        (mn.nn.LieBatchNorm, mn.nn.GyroBatchNorm, mn.nn.RiemannianBatchNorm),
        (Karcher(1), Karcher(2), Newton(1), Newton(2), Exact()),
        (True, False),
        ("tangent", "manifold", False),
    )
)


@COMPILED
@pytest.mark.parametrize(("kind", "mean", "through", "bias"), AIM)
def test_affine_invariant(kind: Any, mean: Any, through: bool, bias: Any) -> None:
    for manifold in (mn.AffineInvariant(N, 0.7), mn.PowerDeformed(mn.AffineInvariant(N), 0.5)):
        layer = layer_of(kind, manifold, torch.float64, mean=mean, grad_through_stats=through, bias=bias)
        assert_same(layer, points(manifold, 10), 1e-12)


@COMPILED
@pytest.mark.parametrize("kind", [mn.nn.LieBatchNorm, mn.nn.GyroBatchNorm])
def test_affine_invariant_in_single_precision(kind: Any) -> None:
    manifold = mn.AffineInvariant(N)
    assert_same(layer_of(kind, manifold, torch.float32), points(manifold, 10, dtype=torch.float32), 1e-4)
    with mn.linalg.precision("native"):
        assert_same(layer_of(kind, manifold, torch.float32), points(manifold, 10, dtype=torch.float32), 1e-4)


# in no order; domain 2 has one sample, too few, and domain 4 has none: both keep to their running statistics
DOMAIN = torch.tensor([3, 0, 1, 0, 3, 2, 1, 0, 1, 3, 3])


def domain_layer(norm: Any, manifold: Any, dtype: torch.dtype) -> Any:
    """Return the norm with five domains whose running statistics are not fresh."""
    layer = mn.nn.DomainBatchNorm(norm, 5)
    generator = torch.Generator().manual_seed(6)
    means = mn.AffineInvariant(manifold.point_shape[-1]).random_point(5, generator=generator, dtype=torch.float64)
    layer.norm.running_mean.copy_(means.to(dtype))
    layer.norm.running_var.copy_(torch.linspace(0.5, 2, 5))
    return layer


@COMPILED
@pytest.mark.parametrize(("kind", "mean", "through", "bias"), AIM)
def test_affine_invariant_by_domain(kind: Any, mean: Any, through: bool, bias: Any) -> None:
    for manifold in (mn.AffineInvariant(N, 0.7), mn.PowerDeformed(mn.AffineInvariant(N), 0.5)):
        norm = layer_of(kind, manifold, torch.float64, mean=mean, grad_through_stats=through, bias=bias)
        assert_same(domain_layer(norm, manifold, torch.float64), points(manifold, 11), 1e-12, domain=DOMAIN)


@COMPILED
@pytest.mark.parametrize("kind", [mn.nn.LieBatchNorm, mn.nn.GyroBatchNorm])
def test_affine_invariant_by_domain_in_single_precision(kind: Any) -> None:
    manifold, single = mn.AffineInvariant(N), torch.float32
    x = points(manifold, 11, dtype=single)
    assert_same(domain_layer(layer_of(kind, manifold, single), manifold, single), x, 1e-4, domain=DOMAIN)
    with mn.linalg.precision("native"):
        assert_same(domain_layer(layer_of(kind, manifold, single), manifold, single), x, 1e-4, domain=DOMAIN)


BURES = list(
    itertools.product(
        ("plain", "metric", "power"),
        (Karcher(1), FixedPoint(2), Newton(1)),
        ("tangent", "manifold", 0),
        (False, True),
    )
)


def bures(geometry: str, dtype: torch.dtype) -> Any:
    """Return a geometry whose base is the Bures-Wasserstein one."""
    return {
        "plain": mn.BuresWasserstein(N),
        "metric": mn.GeneralizedBuresWasserstein(N, points(mn.AffineInvariant(N), dtype=dtype)),
        "power": mn.PowerDeformed(mn.BuresWasserstein(N), 0.5),
    }[geometry]


@COMPILED
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("geometry", "mean", "bias", "through"), BURES)
def test_bures(geometry: str, mean: Any, bias: Any, through: bool, dtype: torch.dtype) -> None:
    manifold = bures(geometry, dtype)
    options = {"mean": mean, "grad_through_stats": through, "bias": bias or False}
    layer = layer_of(mn.nn.RiemannianBatchNorm, manifold, dtype, 0.3, **options)
    x = points(mn.AffineInvariant(N), 10, dtype=dtype)
    if bias != "manifold" or geometry == "metric":
        assert_same(layer, x, 1e-12 if dtype == torch.float64 else 1e-4)
    else:  # only the symmetric part of the template's gradient in a symmetric matrix means anything
        g = points(mn.AffineInvariant(N), 10, dtype=dtype)
        found = [step(layer, x, g, template)[0]["gradient in bias_on_manifold"] for template in (False, True)]
        gap = found[0] - mn.linalg.symmetrize(found[1])
        assert gap.abs().max() <= (1e-12 if dtype == torch.float64 else 1e-4) * found[1].abs().max()


@COMPILED
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("geometry", "mean", "bias", "through"), BURES)
def test_bures_by_domain(geometry: str, mean: Any, bias: Any, through: bool, dtype: torch.dtype) -> None:
    manifold = bures(geometry, dtype)
    options = {"mean": mean, "grad_through_stats": through, "bias": bias or False}
    norm = layer_of(mn.nn.RiemannianBatchNorm, manifold, dtype, 0.2, **options)
    layer, x = domain_layer(norm, manifold, dtype), points(mn.AffineInvariant(N), 11, dtype=dtype)
    if bias == "manifold":  # its gradient is the business of the test above
        layer.norm.bias_on_manifold.requires_grad_(False)
    assert_same(layer, x, 1e-12 if dtype == torch.float64 else 1e-4, domain=DOMAIN)


@COMPILED
@pytest.mark.parametrize("instructions", range(3))
def test_bures_by_domain_with_each_instruction_set(instructions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = kernels()
    assert not isinstance(library, str)
    if instructions > library.best:
        pytest.skip(f"this processor has no {INSTRUCTION_SETS[instructions]}")
    monkeypatch.setattr(library, "best", instructions)
    norm = layer_of(mn.nn.RiemannianBatchNorm, mn.BuresWasserstein(N), torch.float64, 0.2)
    several, x = domain_layer(norm, norm.manifold, torch.float64), points(mn.AffineInvariant(N), 44)
    for domain in (DOMAIN.repeat(4), torch.full((44,), 2), torch.arange(44) % 2):
        assert_same(several, x, 1e-12, domain=domain)
    one = layer_of(mn.nn.RiemannianBatchNorm, mn.BuresWasserstein(N), torch.float64, 0.2)
    assert_same(mn.nn.DomainBatchNorm(one, 1), x, 1e-12, domain=torch.zeros(44, dtype=torch.long))


@COMPILED
def test_gradients_of_bures_by_domain_are_those_of_the_output() -> None:
    manifold = mn.BuresWasserstein(2)
    norm = layer_of(mn.nn.RiemannianBatchNorm, manifold, torch.float64, 0.2, mean=Exact())
    layer, x = domain_layer(norm, manifold, torch.float64), points(mn.AffineInvariant(2), 7).requires_grad_()

    def f(x: Tensor, *_: Tensor) -> Any:
        return layer(mn.linalg.symmetrize(x), DOMAIN[:7])

    with _paths.watch() as taken:
        assert torch.autograd.gradcheck(f, (x, *norm.parameters()))
    assert all(path.endswith("fused") for path in taken)


@COMPILED
@pytest.mark.parametrize("through", [True, False])
def test_charts_that_learn_by_domain(through: bool) -> None:
    """Running means have a gradient in what is learned, where a domain with too few samples uses them."""
    norm = mn.nn.BuresWassersteinBatchNorm(N, dtype=torch.float64, grad_through_stats=through)
    norm.scale = 0.2
    layer, x = domain_layer(norm, norm.manifold, torch.float64), points(mn.AffineInvariant(N), 11)
    assert_same(layer, x, 0.0, "template", domain=DOMAIN)
    assert_same(layer, x, 1e-12, domain=torch.arange(11) % 4)


@COMPILED
def test_steps_that_leave_the_domain_are_left_to_the_template() -> None:
    manifold = mn.BuresWasserstein(N)
    layer = layer_of(mn.nn.RiemannianBatchNorm, manifold, torch.float64, 9.0, grad_through_stats=False)
    assert_same(layer, points(mn.AffineInvariant(N), 10), 0.0, "template")


def frames(manifold: Any, count: int, size: float = 0.5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Frames about a common centre, in any bases."""
    generator = torch.Generator().manual_seed(4)
    centre = manifold.random_point(generator=generator, dtype=torch.float64).expand(count, *manifold.point_shape)
    x = manifold.exp(centre, size * manifold.random_tangent(centre, generator) / manifold.dim**0.5)
    p = manifold.point_shape[-1]
    turn = torch.linalg.qr(torch.randn(count, p, p, dtype=torch.float64, generator=generator))[0]
    return (x @ turn).to(dtype)


GRASSMANN = list(
    itertools.product(
        (mn.nn.GyroBatchNorm, mn.nn.RiemannianBatchNorm),
        (None, Karcher(1), Karcher(3), Newton(1), Newton(2), Exact()),
        (True, False),
        ("tangent", "manifold", False),
    )
)


@COMPILED
@pytest.mark.parametrize(("kind", "mean", "through", "bias"), GRASSMANN)
def test_grassmann(kind: Any, mean: Any, through: bool, bias: Any) -> None:
    for n, p, count in ((7, 3, 10), (5, 3, 40), (3, 1, 2), (4, 3, 1)):
        options = {"mean": mean, "grad_through_stats": through, "bias": bias}
        layer = layer_of(kind, mn.Grassmann(n, p), torch.float64, **options)
        assert_same(layer, frames(layer.manifold, count), 1e-12)


@COMPILED
@pytest.mark.parametrize(("kind", "mean", "through", "bias"), GRASSMANN)
def test_grassmann_by_domain(kind: Any, mean: Any, through: bool, bias: Any) -> None:
    for n, p, many in ((7, 3, 1), (5, 3, 4), (3, 1, 6)):
        options = {"mean": mean, "grad_through_stats": through, "bias": bias}
        norm = layer_of(kind, mn.Grassmann(n, p), torch.float64, **options)
        layer, domain = mn.nn.DomainBatchNorm(norm, 5), DOMAIN.repeat(many)
        domain[domain == 2] = torch.where(torch.arange(many) > 0, 1, 2)  # still one sample, too few
        layer.norm.running_mean.copy_(frames(norm.manifold, 5))
        layer.norm.running_var.copy_(torch.linspace(0.5, 2, 5))
        assert_same(layer, frames(norm.manifold, 11 * many), 1e-12, domain=domain)


@COMPILED
@pytest.mark.parametrize("through", [True, False])
def test_grassmann_by_domain_in_single_precision_and_across_threads(through: bool) -> None:
    manifold, before = mn.Grassmann(7, 3), torch.get_num_threads()
    norm = layer_of(mn.nn.GyroBatchNorm, manifold, torch.float32, grad_through_stats=through)
    assert_same(mn.nn.DomainBatchNorm(norm, 5), frames(manifold, 11, dtype=torch.float32), 1e-4, domain=DOMAIN)
    norm = layer_of(mn.nn.GyroBatchNorm, manifold, torch.float64, grad_through_stats=through)
    layer, x, domain = mn.nn.DomainBatchNorm(norm, 60), frames(manifold, 550), (torch.arange(550) * 7) % 53
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(step(layer, x, torch.ones_like(x), False, domain)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    assert_same(layer, x, 1e-12, domain=domain)


@COMPILED
@pytest.mark.parametrize("instructions", range(3))
def test_grassmann_with_each_instruction_set(instructions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = kernels()
    assert not isinstance(library, str)
    if instructions > library.best:
        pytest.skip(f"this processor has no {INSTRUCTION_SETS[instructions]}")
    monkeypatch.setattr(library, "best", instructions)
    for n, p, count in ((50, 10, 30), (40, 20, 5), (2, 1, 20)):
        layer = layer_of(mn.nn.GyroBatchNorm, mn.Grassmann(n, p), torch.float64)
        assert_same(layer, frames(layer.manifold, count), 1e-12)


@COMPILED
@pytest.mark.parametrize("through", [True, False])
def test_grassmann_in_single_precision(through: bool) -> None:
    manifold = mn.Grassmann(7, 3)
    layer = layer_of(mn.nn.GyroBatchNorm, manifold, torch.float32, grad_through_stats=through)
    x = frames(manifold, 10, dtype=torch.float32)
    assert_same(layer, x, 1e-4)
    with mn.linalg.precision("native"):
        assert_same(layer, x, 0.0, "template")


@COMPILED
def test_grassmann_at_vanishing_and_equal_angles() -> None:
    """A batch that is its mean, at the origin and off it, and the bias at the origin."""
    manifold = mn.Grassmann(6, 2)
    layer = mn.nn.GyroBatchNorm(manifold, dtype=torch.float64)
    for x in (manifold.origin(5, dtype=torch.float64).contiguous(), frames(manifold, 1).expand(5, 6, 2).contiguous()):
        assert_same(layer, x, 1e-12)
        got, _ = step(layer, x, torch.ones_like(x), False)
        assert all(bool(value.isfinite().all()) for value in got.values())


@COMPILED
def test_chordal_mean_is_found_or_left_to_the_solver() -> None:
    manifold = mn.Grassmann(6, 2)
    for size in (0.0, 0.3, 0.6):
        x = frames(manifold, 20, size)
        expected, got = manifold.arithmetic_start(x, None), _grassmann.chordal_mean(x)
        assert got is not None
        torch.testing.assert_close(got[0] @ got[0].mT, expected @ expected.mT, atol=1e-13, rtol=0)
    # the first of orthogonal frames is an invariant space of the mean projector, but not the one wanted
    eye = torch.eye(6, dtype=torch.float64)
    x = torch.stack([eye[:, :2], eye[:, 2:4], eye[:, 2:4]])
    assert _grassmann.chordal_mean(x) is None
    assert_same(mn.nn.GyroBatchNorm(manifold, dtype=torch.float64), x + 0.0, 1e-12)
    assert _grassmann.chordal_mean(frames(manifold, 20, 1.3)) is None
    # no gap: no dominant space
    assert _grassmann.chordal_mean(torch.stack([eye[:, :2], eye[:, 2:4]])) is None


@COMPILED
def test_grassmann_across_threads_and_after_checks() -> None:
    manifold = mn.Grassmann(12, 3)
    layer, x = layer_of(mn.nn.GyroBatchNorm, manifold, torch.float64), frames(manifold, 300)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(step(layer, x, torch.ones_like(x), False)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    checked = layer_of(mn.nn.GyroBatchNorm, manifold, torch.float64, check_input=True)
    assert_same(checked, x, 0.0, "template")
    assert_same(layer_of(mn.nn.RiemannianBatchNorm, manifold, torch.float64, route="direct"), x, 0.0, "template")


@COMPILED
def test_second_derivatives_of_grassmann_norms_raise() -> None:
    layer, x = mn.nn.GyroBatchNorm(mn.Grassmann(5, 2), dtype=torch.float64), frames(mn.Grassmann(5, 2), 4)
    for template in (False, True):
        with _paths.template_only() if template else contextlib.nullcontext(), pytest.raises(NotImplementedError):
            _penalty(layer, x.requires_grad_())


FLAT: list[tuple[Any, int | None, Any]] = list(
    itertools.product(
        (
            mn.LogEuclidean(4),
            mn.LogEuclidean(4, 2.0, 0.3),
            mn.LogCholesky(4),
            mn.CorrelationOffLog(4),
            mn.Euclidean(3, 2),
        ),
        (None, 3),
        ("tangent", "manifold", False),
    )
)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize(("manifold", "channels", "bias"), FLAT)
def test_flat(manifold: Any, channels: int | None, bias: Any, through: bool) -> None:
    groups = () if channels is None else (channels,)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        options = {"channels": channels, "bias": bias, "grad_through_stats": through}
        layer = layer_of(mn.nn.LieBatchNorm, manifold, dtype, **options)
        assert_same(layer, points(manifold, 10, *groups, dtype=dtype), tolerance)


@COMPILED
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("bias", ["tangent", "manifold", False])
@pytest.mark.parametrize("manifold", [mn.LogEuclidean(4), mn.LogCholesky(4)], ids=str)
def test_charts_by_domain(manifold: Any, bias: Any, through: bool) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        options = {"bias": bias, "grad_through_stats": through}
        norm = layer_of(mn.nn.LieBatchNorm, manifold, dtype, **options)
        assert_same(domain_layer(norm, manifold, dtype), points(manifold, 11, dtype=dtype), tolerance, domain=DOMAIN)


@COMPILED
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("bias", ["tangent", "manifold", False])
@pytest.mark.parametrize(
    "manifold",
    [mn.Euclidean(), mn.Euclidean(3), mn.Euclidean(3, 2), mn.manifolds.SymmetricMatrices(4), mn.CorrelationOffLog(4)],
    ids=str,
)
def test_flat_by_domain(manifold: Any, bias: Any, through: bool) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        norm = layer_of(mn.nn.LieBatchNorm, manifold, dtype, bias=bias, grad_through_stats=through)
        layer, x = mn.nn.DomainBatchNorm(norm, 5), points(manifold, 11, dtype=dtype)
        layer(points(manifold, 11, dtype=dtype), DOMAIN)  # running statistics that are not fresh
        assert_same(layer, x, tolerance, domain=DOMAIN)
        assert_same(layer, x[:, None].expand(11, 2, *manifold.point_shape), tolerance, domain=DOMAIN)
    several = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(manifold, channels=2, dtype=torch.float64), 5)
    assert_same(several, points(manifold, 11, 2), 0.0, "template", domain=DOMAIN)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("manifold", [mn.LogCholesky(3), mn.Euclidean(3), mn.Euclidean()], ids=str)
def test_second_derivatives_of_flat_norms_by_domain(manifold: Any, through: bool) -> None:
    norm = layer_of(mn.nn.LieBatchNorm, manifold, torch.float64, grad_through_stats=through)
    layer = mn.nn.DomainBatchNorm(norm, 5)
    x = points(norm.manifold, 6).requires_grad_()

    def f(x: Tensor) -> Any:
        return layer(mn.linalg.symmetrize(x) if x.ndim == 3 else x, DOMAIN[:6])

    with _paths.template_only():
        expected = torch.autograd.grad(torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0].sum(), x)
    found = torch.autograd.grad(torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0].sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("through", [True, False])
def test_second_derivatives_of_flat_norms(through: bool) -> None:
    layer = layer_of(mn.nn.LieBatchNorm, mn.LogCholesky(3), torch.float64, grad_through_stats=through)
    x = points(layer.manifold, 4).requires_grad_()

    def f(x: Tensor) -> Any:
        return layer(mn.linalg.symmetrize(x))

    if through:
        assert torch.autograd.gradcheck(f, (x,))
        assert torch.autograd.gradgradcheck(f, (x,))
    else:
        with _paths.template_only():
            expected = _penalty(layer, x)
        torch.testing.assert_close(_penalty(layer, x), expected, rtol=1e-12, atol=1e-14)


def _penalty(layer: Any, x: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return second


class Halved(mn.nn.LieBatchNorm):
    """A subclass that changes a step."""

    def _dispersion(self, *args: Any) -> Tensor:
        return super()._dispersion(*args) / 2


def test_what_is_not_exactly_the_norm_takes_the_template() -> None:
    manifold = mn.AffineInvariant(N)
    x = points(manifold, 10)
    assert_same(layer_of(Halved, manifold, torch.float64), x, 0.0, "template")
    momentum = layer_of(mn.nn.LieBatchNorm, manifold, torch.float64, statistics=mn.nn.Momentum(0.5))
    assert_same(momentum, x, 0.0, "template")
    assert_same(layer_of(mn.nn.LieBatchNorm, manifold, torch.float64).eval(), x, 0.0, "template")
    layer = layer_of(mn.nn.LieBatchNorm, manifold, torch.float64)
    with _paths.watch() as taken:
        layer(x, torch.ones(10, dtype=torch.float64))
        layer(torch.cat([x, torch.full_like(x[:1], torch.nan)]))
    assert all(path.endswith("template") for path in taken)
    assert len(taken) == 2


@pytest.mark.parametrize("manifold", [mn.AffineInvariant(3), mn.BuresWasserstein(3)])
def test_a_bad_sample_is_named_and_changes_nothing(manifold: Any) -> None:
    layer = mn.nn.RiemannianBatchNorm(manifold, grad_through_stats=False)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = points(mn.AffineInvariant(3), 5, dtype=torch.float32)
    x[2] = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    with pytest.raises(torch.linalg.LinAlgError, match="sample 2"):
        layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_batch_of_zeros_is_refused() -> None:
    layer = mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(3), grad_through_stats=False)
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        layer(torch.zeros(4, 3, 3))


COUNTS = [
    (lambda: mn.nn.LieBatchNorm(mn.AffineInvariant(N), mean=Karcher(1)), {("eigh", 30): 2}),
    (lambda: mn.nn.GyroBatchNorm(mn.AffineInvariant(N), mean=Karcher(1)), {("eigh", 30): 2}),
    (lambda: mn.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(N)), mn.nn.LogEig()), {("eigh", 30): 1}),
    (lambda: mn.nn.LieBatchNorm(mn.LogCholesky(N)), {("cholesky", 30): 1}),
    (
        lambda: mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(N), mean=FixedPoint(1), grad_through_stats=False),
        {("eigh", 30): 2, ("cholesky", 30): 1},
    ),
]


@COMPILED
@pytest.mark.parametrize(("make", "expected"), COUNTS)
def test_decompositions_of_a_training_step(make: Any, expected: dict[tuple[str, int], int]) -> None:
    layer, x = make(), points(mn.AffineInvariant(N), 30, dtype=torch.float32).requires_grad_()
    with mn.linalg.tally() as counts:
        layer(x).sum().backward()
    assert {key: times for key, times in counts.items() if key[1] == 30} == expected


def test_explain_leaves_the_module_alone() -> None:
    model = mn.models.SPDNet([N, 4], 2, norm=mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = mn.nn.explain(model, points(mn.AffineInvariant(N), 7, dtype=torch.float32))
    assert "RiemannianBatchNorm on AffineInvariant" in text
    assert "forward: " in text
    assert "backward: " in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@COMPILED
@pytest.mark.parametrize("manifold", [mn.AffineInvariant(3), mn.BuresWasserstein(3)], ids=str)
def test_a_second_derivative_is_refused_with_a_remedy(manifold: Any) -> None:
    layer = layer_of(mn.nn.RiemannianBatchNorm, manifold, torch.float64, 0.2, grad_through_stats=False)
    x = points(manifold, 5).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="LogEuclidean"):
        grad.sum().backward()


@COMPILED
@pytest.mark.parametrize("manifold", [mn.AffineInvariant(3), mn.LogCholesky(3), mn.BuresWasserstein(3)], ids=str)
def test_what_a_program_keeps_belongs_to_autograd(manifold: Any) -> None:
    layer = layer_of(mn.nn.RiemannianBatchNorm, manifold, torch.float64, 0.2, grad_through_stats=False)
    x = points(manifold, 9).requires_grad_()
    expected = torch.autograd.grad(layer(x).square().sum(), x)[0]
    again: Any = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.square().sum(), x)[0], expected)
    seen: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert max(seen) > 3 * x.numel()  # the program's memory is among them
    with mn.nn.watch_statistics(layer) as watch:
        layer(x)
    (rows,) = (record.rows for _, record in watch._watched.values())
    assert all(t.untyped_storage().nbytes() < 1000 for t in rows[0])
    with mn.linalg.backend("native"):
        y = layer(x)
    with mn.linalg.backend("torch"):
        y.square().sum().backward()


@COMPILED
@pytest.mark.parametrize("decades", [4, 8, 12, 14])
def test_bures_variance_of_badly_conditioned_matrices(decades: int) -> None:
    scaling = torch.logspace(0, -decades / 2, 2, dtype=torch.float64)
    x = scaling[:, None] * points(mn.AffineInvariant(2), 2) * scaling
    layer = layer_of(mn.nn.RiemannianBatchNorm, mn.BuresWasserstein(2), torch.float64, 0.1, momentum=1.0, mean=Exact())
    (fused, taken), (reference, _) = (step(layer, x, x, template) for template in (False, True))
    assert taken[0].endswith("fused")
    # half the distance of two matrices, in a form without cancellation
    expected = mn.BuresWasserstein(2).squared_dist(x[0], x[1]) / 4
    for found in (fused, reference):
        assert abs(found["running_var"] - expected) <= 1e-7 * expected


@COMPILED
@pytest.mark.parametrize("mean", [None, Karcher(1)], ids=str)
@pytest.mark.parametrize("through", [True, False])
def test_bures_takes_short_windows_in_single_precision(mean: Any, through: bool) -> None:
    a = torch.randn(64, 20, 10, generator=torch.Generator().manual_seed(0))
    layer = mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(20), mean=mean, grad_through_stats=through)
    assert layer(a @ a.mT / 10).isfinite().all()


@COMPILED
@pytest.mark.parametrize(
    "manifold", [mn.AffineInvariant(4), mn.LogEuclidean(4), mn.LogCholesky(4), mn.BuresWasserstein(4)], ids=str
)
def test_the_default_device_is_another_one(manifold: Any) -> None:
    layer, x = mn.nn.RiemannianBatchNorm(manifold), points(manifold, 9, dtype=torch.float32).requires_grad_()
    expected = copy.deepcopy(layer)(x)
    with torch.device("meta"):
        y = layer(x)
        y.sum().backward()
    assert torch.equal(y, expected) and x.grad is not None and x.grad.isfinite().all()
