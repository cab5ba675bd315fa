"""The suites: all laws of a manifold, of its groups, and of a norm layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.testing import (
    laws_domains,
    laws_groups,
    laws_means,
    laws_metric,
    laws_norm,
    laws_norm_batches,
    laws_norm_gradients,
    laws_norm_processes,
    laws_norm_state,
    laws_values,
)
from manifoldnorm.testing.actions import Symmetry
from manifoldnorm.testing.cases import ManifoldCase
from manifoldnorm.testing.laws import Law, LawFunction, Report, run_laws
from manifoldnorm.testing.norm_cases import NormCase

MANIFOLD_LAWS: tuple[LawFunction, ...] = (
    laws_metric.METRIC_LAWS + laws_values.VALUE_LAWS + laws_domains.DOMAIN_LAWS + laws_means.MEAN_LAWS
)
LIE_LAWS: tuple[LawFunction, ...] = laws_groups.LIE_LAWS
GYRO_LAWS: tuple[LawFunction, ...] = laws_groups.GYRO_LAWS
NORM_LAWS: tuple[LawFunction, ...] = (
    laws_norm.MOMENT_LAWS
    + laws_norm_batches.BATCH_LAWS
    + laws_norm_state.STATE_LAWS
    + laws_norm_gradients.GRADIENT_LAWS
    + laws_norm_processes.PROCESS_LAWS
)
SLOW_NORM_LAWS: tuple[LawFunction, ...] = laws_norm_state.SLOW_LAWS


def _manifold_laws(
    functions: Sequence[LawFunction],
    manifold: Manifold,
    sampler: Callable[..., Tensor] | None,
    dtype: torch.dtype,
    device: Any,
    name: str | None,
) -> list[Law]:
    def case(seed: int) -> ManifoldCase:
        return ManifoldCase(manifold, dtype, seed, sampler, device)

    subject = _subject(name or repr(manifold), dtype)
    return [Law(f.__name__, subject, f, case, dtype) for f in functions]


def _subject(name: str, dtype: torch.dtype) -> str:
    return f"{name} {str(dtype).removeprefix('torch.')}"


def laws_of(
    manifold: Manifold,
    *,
    sampler: Callable[..., Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    name: str | None = None,
) -> list[Law]:
    """Return every law of a manifold, its means and its groups, ready for ``pytest.mark.parametrize``.

    Parameters
    ----------
    manifold : Manifold
        The subject. What it cannot do is absent, not passed.
    sampler : callable, optional
        ``sampler(*batch, generator=..., dtype=...) -> points`` in general position, default ``manifold.random_point``.
    dtype : torch.dtype
        ``float64`` or ``float32``: the precision, and the column of the tolerance table.
    device : optional
        Where the data live.
    name : str, optional
        What reports call the subject, default its repr.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> laws = mn.testing.laws_of(mn.Euclidean(3))
    >>> laws[0].assert_holds(seed=0)
    """
    return _manifold_laws(MANIFOLD_LAWS + LIE_LAWS + GYRO_LAWS, manifold, sampler, dtype, device, name)


def check_manifold(
    manifold: Manifold,
    sampler: Callable[..., Tensor] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    name: str | None = None,
) -> Report:
    """Run the laws of a Riemannian manifold and of its Frechet means; see `laws_of` for the parameters.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.testing.check_manifold(mn.Euclidean(3)).ok
    True
    """
    return run_laws(_manifold_laws(MANIFOLD_LAWS, manifold, sampler, dtype, device, name), seed)


def check_lie_group(
    manifold: Manifold,
    sampler: Callable[..., Tensor] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    name: str | None = None,
) -> Report:
    """Run the axioms of the group, invariance of the metric under left translations and homogeneity of the mean.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.testing.check_lie_group(mn.LogCholesky(2)).ok
    True
    """
    return run_laws(_manifold_laws(LIE_LAWS, manifold, sampler, dtype, device, name), seed)


def check_gyrogroup(
    manifold: Manifold,
    sampler: Callable[..., Tensor] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    name: str | None = None,
) -> Report:
    """Run the axioms of a pseudo-reductive gyrogroup, isometry of translations and gyrations, homogeneity of the mean.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.testing.check_gyrogroup(mn.AffineInvariant(2)).ok
    True
    """
    return run_laws(_manifold_laws(GYRO_LAWS, manifold, sampler, dtype, device, name), seed)


def laws_of_norm(
    layer: nn.Module | Callable[[], nn.Module],
    *,
    manifold: Manifold | None = None,
    symmetries: Sequence[Symmetry] = (),
    sampler: Callable[..., Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    slow: bool = False,
    name: str | None = None,
) -> list[Law]:
    """Return every law of a norm layer, ready for ``pytest.mark.parametrize``.

    Parameters
    ----------
    layer : Module or callable
        A layer, which is copied and never changed, or a function without arguments that builds one.
    manifold : Manifold, optional
        Its geometry, default ``layer.manifold``.
    symmetries : sequence of Symmetry
        How the layer with a neutral bias treats transformed data, e.g. ``Symmetry(rotation, equivariant)``.
    sampler, dtype, device, name
        As in `laws_of`; the layer is converted to the precision.
    slow : bool
        Whether to include laws that take seconds (compilation).

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> laws = mn.testing.laws_of_norm(mn.nn.LieBatchNorm(mn.LogCholesky(2)))
    >>> laws[0].assert_holds(seed=0)
    """
    prototype = layer if isinstance(layer, nn.Module) else layer()

    def case(seed: int) -> NormCase:
        return NormCase(prototype, dtype, seed, sampler, device, manifold)

    subject = _subject(name or f"{type(prototype).__name__}({getattr(prototype, 'manifold', manifold)!r})", dtype)
    laws = [Law(f.__name__, subject, f, case, dtype) for f in NORM_LAWS]
    for symmetry in symmetries:
        function = functools.partial(laws_norm.equivariance, symmetry=symmetry)
        laws.append(Law(str(symmetry), subject, function, case, dtype))
    if slow:
        laws += [Law(f.__name__, subject, f, case, dtype, slow=True) for f in SLOW_NORM_LAWS]
    return laws


def check_norm(
    layer: nn.Module | Callable[[], nn.Module],
    *,
    manifold: Manifold | None = None,
    symmetries: Sequence[Symmetry] = (),
    sampler: Callable[..., Tensor] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
    slow: bool = False,
    name: str | None = None,
) -> Report:
    """Run the laws of a norm layer; see `laws_of_norm` for the parameters.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> from manifoldnorm.testing import Symmetry, equivariant, rotation
    >>> norm = mn.nn.LieBatchNorm(mn.LogEuclidean(2))
    >>> mn.testing.check_norm(norm, symmetries=[Symmetry(rotation, equivariant)]).ok
    True
    """
    laws = laws_of_norm(
        layer,
        manifold=manifold,
        symmetries=symmetries,
        sampler=sampler,
        dtype=dtype,
        device=device,
        slow=slow,
        name=name,
    )
    return run_laws(laws, seed)
