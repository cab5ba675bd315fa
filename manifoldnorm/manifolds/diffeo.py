"""Diffeomorphisms as immutable values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.manifolds._operations import guard


class Diffeo:
    """A diffeomorphism between two manifolds of tensors of the same shape, as an immutable value.

    A subclass gives `__call__` and `inverse`; differentials default to derivatives of these by automatic
    differentiation, and a closed form may replace them. ``outer @ inner`` composes.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> chart = mn.manifolds.MatrixPower(0.5)
    >>> chart.inverse(chart(2 * torch.eye(2))).diagonal()
    tensor([2., 2.])
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        guard(cls)

    image_of: ClassVar[dict[str, str]] = {}  # what "identity" and "zero" are mapped to, where they are one of these

    def image(self, kind: str | None) -> str | None:
        """Return which of "identity" and "zero" the given one is mapped to; None for neither."""
        return self.image_of.get(kind or "")

    def __call__(self, p: Tensor) -> Tensor:
        """Return the image of ``p``."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """Return the preimage of ``y``."""
        raise NotImplementedError

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the differential at ``p`` applied to the tangent vector ``v``."""
        return _directional(self.__call__, *_aligned(p, v))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the differential of the inverse at the image point ``y`` applied to ``w``."""
        return _directional(self.inverse, *_aligned(y, w))

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the differential at the identity matrix applied to ``v`` (override: often just a factor)."""
        eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        return self.push(eye.expand_as(v), v)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return the adjoint of `pull` at ``y`` applied to ``g``: how Euclidean gradients enter the image."""
        y, g = _aligned(y, g)
        return torch.func.vjp(self.inverse, y)[1](g)[0]

    def __matmul__(self, inner: Diffeo) -> Diffeo:
        return Composition(self, inner)

    def _key(self) -> tuple[Any, ...]:
        values = tuple(id(v) if isinstance(v, Tensor) else v for v in vars(self).values())
        return (type(self), *values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diffeo) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def _aligned(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(p.shape, v.shape)
    return p.expand(shape), v.expand(shape)


def _directional(f: Callable[[Tensor], Tensor], p: Tensor, v: Tensor) -> Tensor:
    """Return D f(p)[v] as the derivative of the (linear) reverse-mode product: works without forward-mode rules."""
    image, vjp = torch.func.vjp(f, p)[:2]
    transposed = torch.func.vjp(lambda c: vjp(c)[0], torch.zeros_like(image))[1]
    return transposed(v)[0]


class Composition(Diffeo):
    """``outer(inner(p))``."""

    def __init__(self, outer: Diffeo, inner: Diffeo) -> None:
        self.outer, self.inner = outer, inner

    def image(self, kind: str | None) -> str | None:
        return self.outer.image(self.inner.image(kind))

    def __call__(self, p: Tensor) -> Tensor:
        return self.outer(self.inner(p))

    def inverse(self, y: Tensor) -> Tensor:
        return self.inner.inverse(self.outer.inverse(y))

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        return self.outer.push(self.inner(p), self.inner.push(p, v))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        return self.inner.pull(self.outer.inverse(y), self.outer.pull(y, w))

    def push_identity(self, v: Tensor) -> Tensor:
        return self.outer.push_identity(self.inner.push_identity(v))

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        return self.outer.pull_adjoint(y, self.inner.pull_adjoint(self.outer.inverse(y), g))
