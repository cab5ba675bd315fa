"""Algebraic structures a manifold may carry beside its metric: group and gyrogroup."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from torch import Tensor

Finish = Callable[[Tensor, Tensor | None], Tensor]
Spread = Callable[[Tensor], Tensor]


def same(p: Tensor) -> Tensor:
    """Return ``p``: how one center meets all samples."""
    return p


class _StructureMeta(abc.ABCMeta):
    """Lets ``isinstance(pullback, LieGroup)`` ask the pullback's base, whose structure it carries."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        if cls.__bases__ != (object,):  # a geometry that has a structure, not the structure itself
            return False
        base = getattr(instance, "structure_base", None)
        return base is not None and isinstance(base, cls)


class LieGroup(metaclass=_StructureMeta):
    """Mix-in: a group product and inverse. Left translations move points in `LieBatchNorm`."""

    @abc.abstractmethod
    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the group product of ``x`` and ``y`` (broadcasting)."""

    @abc.abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """Return the group inverse of ``x``."""

    def quotient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``inverse(x)`` composed with ``y``: the left translation that moves ``x`` to the identity."""
        return self.compose(self.inverse(x), y)

    def group_dilation(self: Any, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Return squared distances of ``quotient(center, x)`` from the identity, and how to finish.

        ``finish(t, bias)`` is ``compose(bias, dilated by t)``; an override may share work between the steps. ``spread``
        makes what belongs to the center broadcast against the samples, where there is a center per domain.
        """
        squared, dilate = self.polar(self.quotient(spread(center), x))

        def finish(t: Tensor, bias: Tensor | None) -> Tensor:
            return dilate(t) if bias is None else self.compose(bias, dilate(t))

        return squared, finish


class Gyrogroup(metaclass=_StructureMeta):
    """Mix-in: gyroaddition and scaling derived from the geometry.

    ``x (+) y = exp_x(transport_{e -> x} log_e y)`` and ``t (*) x = exp_e(t log_e x)``; overrides must equal these.
    Source: Nguyen and Yang 2023, "Building neural networks on matrix manifolds: a gyrovector space approach".
    """

    def gyroadd(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the gyrosum of ``x`` and ``y`` (broadcasting)."""
        origin = self.origin(dtype=y.dtype, device=y.device)
        return self.exp(x, self.from_origin(x, self.log(origin, y)))

    def gyroneg(self: Any, x: Tensor) -> Tensor:
        """Return the gyroinverse of ``x``."""
        return self.gyroscale(-1.0, x)

    def gyrosub(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return ``gyroneg(x) (+) y``: the left gyrotranslation that moves ``x`` to the origin."""
        return self.gyroadd(self.gyroneg(x), y)

    def gyroscale(self: Any, t: Tensor | float, x: Tensor) -> Tensor:
        """Return ``x`` dilated by ``t`` (broadcast over the batch) about the origin."""
        return self.polar(x)[1](t)

    def gyro_dilation(self: Any, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Return squared distances of ``gyrosub(center, x)`` from the origin, and how to finish.

        ``finish(t, bias)`` is ``gyroadd(bias, dilated by t)``; an override may share work between the steps. ``spread``
        makes what belongs to the center broadcast against the samples, where there is a center per domain.
        """
        squared, dilate = self.polar(self.gyrosub(spread(center), x))

        def finish(t: Tensor, bias: Tensor | None) -> Tensor:
            return dilate(t) if bias is None else self.gyroadd(bias, dilate(t))

        return squared, finish

    def gyration(self: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return ``gyr[x, y] z = -(x + y) + (x + (y + z))`` in gyroaddition."""
        return self.gyrosub(self.gyroadd(x, y), self.gyroadd(x, self.gyroadd(y, z)))
