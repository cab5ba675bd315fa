"""Batch norms of Grassmann manifolds, as their codes have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds import Grassmann, Manifold, Stiefel
from manifoldnorm.manifolds._frames import Turn, blocks, ray, signs
from manifoldnorm.manifolds.base import spread
from manifoldnorm.manifolds.stiefel import polar_factor
from manifoldnorm.manifolds.structures import Finish, Spread, same
from manifoldnorm.nn.batchnorm import GyroBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.nn.published.rotations import FirstSampleKarcher


class CayleyGrassmann(Grassmann):
    """Grassmann manifolds whose gyro-operations turn by a Cayley transform.

    Quirk: the code's ``(I - w) (I + w)^-1`` is about ``exp(-2 w)``: turns have the wrong sense and twice the angle.
    What is called gyroaddition here is none, ``gyrosub(x, x)`` is not the origin.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> line = torch.tensor([[0.8], [0.6]])
    >>> mn.nn.published.CayleyGrassmann(2, 1).gyrosub(line, line).T
    tensor([[-0.2146,  0.9767]])
    """

    def _turn(self, velocity: Tensor) -> Turn:
        """Return the Cayley transform of omega of a tangent vector at the origin: two reflections again."""
        middle = velocity - self.origin(dtype=velocity.dtype, device=velocity.device)
        return Turn(middle @ linalg.inv_sqrtm(middle.mT @ middle), signs(velocity))

    def _log(self, x: Tensor) -> Tensor:
        return self.log(self.origin(dtype=x.dtype, device=x.device), x)

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Cayley transform of omega of ``x``, applied to ``y``."""
        return self._turn(self._log(x)).apply(y)

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Cayley transform of minus omega of ``x``, applied to ``y``."""
        return self._turn(-self._log(x)).apply(y)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return the Cayley transform of minus omega, applied to the origin."""
        return self.gyroscale(-1.0, x)

    def gyroscale(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return the Cayley transform of t omega, applied to the origin."""
        turn = self._turn(spread(t, 2) * self._log(x))
        return turn.apply(self.origin(dtype=x.dtype, device=x.device))

    def gyration(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the Cayley gyrosum of the inverse of ``x + y`` and ``x + (y + z)``."""
        return self.gyroadd(self.gyroneg(self.gyroadd(x, y)), self.gyroadd(x, self.gyroadd(y, z)))

    def gyro_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Return true distances from the center, and the three Cayley steps."""
        base = spread(center)
        centred = self.gyrosub(base, x)

        def finish(t: Tensor, bias: Tensor | None) -> Tensor:
            y = self.gyroscale(t, centred)
            return y if bias is None else self.gyroadd(bias, y)

        return self.squared_dist(base, x), finish


class MisalignedGrassmann(Grassmann):
    """Grassmann manifolds whose transport ends in another frame than the one given.

    Quirk: the code transports to the frame that continues the geodesic and forgets to turn the result into the frame of
    its end point, so it depends on the frames.
    """

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the transported vector in the frame ``exp(p, log(p, q))``."""
        return super().transport(p, self.exp(p, self.log(p, q)), v)


class _GrassmannNorm(PublishedNorm):
    """What the three codes share: one Karcher step from the first sample, a scale of any sign, detached statistics."""

    def __init__(self, manifold: Grassmann, karcher_steps: int, **options: Any) -> None:
        super().__init__(manifold, **{"mean": FirstSampleKarcher(karcher_steps), **options})

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``(n, p) -> layer``."""
        return NormFactory(cls, manifold, options)

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the origin and the running variance at one."""
        super(PublishedNorm, self).reset_running_stats()

    def _own_bias(self, manifold: Manifold) -> None:
        if self.bias_kind == "manifold":
            from manifoldnorm._geoopt import manifold_parameter

            self.bias_on_manifold = manifold_parameter(self.bias_on_manifold.detach(), manifold)


class GyroBNGr(_GrassmannNorm, GyroBatchNorm):
    """GyroBN of Grassmann manifolds with the published defaults.

    Quirks: the Cayley transform, see `CayleyGrassmann`; one Karcher step from the first sample, so the output depends
    on the order of the batch; statistics are detached; the scale may be negative. With ``exact=True`` (the code's
    ``expm`` mode) and many Karcher steps it is ``GyroBatchNorm(Grassmann(n, p), grad_through_stats=False)``.

    Parameters
    ----------
    n, p : int
        Sizes of the frames.
    exact : bool
        Whether to turn by the exponential.
    karcher_steps : int
        Steps of the mean.
    **options
        Of `GyroBatchNorm`.

    References
    ----------
    Code of Chen et al. 2025, "Gyrogroup batch normalization" (``GrGroBNImpl.py``).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.published.GyroBNGr(5, 2)(torch.eye(5, 2).expand(4, 5, 2)).shape
    torch.Size([4, 5, 2])
    """

    def __init__(self, n: int, p: int, *, exact: bool = False, karcher_steps: int = 1, **options: Any) -> None:
        geometry = Grassmann(n, p) if exact else CayleyGrassmann(n, p)
        super().__init__(geometry, karcher_steps, **{"bias": "tangent", **options})


class RBNGr(_GrassmannNorm, RiemannianBatchNorm):
    """Riemannian batch norm of Grassmann manifolds, as the code of GyroBN has it for comparison.

    Quirks: the transport of `MisalignedGrassmann`: mean and variance of the output are right, but its samples depend on
    the frames of mean and bias; one Karcher step from the first sample; statistics are detached.

    Parameters
    ----------
    n, p : int
        Sizes of the frames.
    karcher_steps : int
        Steps of the mean.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Code of Chen et al. 2025, "Gyrogroup batch normalization" (``RBNGr.py``); Lou et al. 2020.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.published.RBNGr(5, 2)(torch.eye(5, 2).expand(4, 5, 2)).shape
    torch.Size([4, 5, 2])
    """

    def __init__(self, n: int, p: int, *, karcher_steps: int = 1, **options: Any) -> None:
        super().__init__(MisalignedGrassmann(n, p), karcher_steps, **{"route": "direct", **options})
        self._own_bias(self.manifold)


class ManifoldNormGr(_GrassmannNorm, RiemannianBatchNorm):
    """ManifoldNorm of Grassmann manifolds, as the code of GyroBN has it for comparison.

    Quirks: no variance enters the scale; the transport to the origin has a wrong sign in one block, so vectors leave
    the tangent space there, and ends in another frame; the bias is an orthogonal matrix that turns the whole space.

    Parameters
    ----------
    n, p : int
        Sizes of the frames.
    karcher_steps : int
        Steps of the mean.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Code of Chen et al. 2025, "Gyrogroup batch normalization" (``ManifoldNormGr.py``); Chakraborty 2020, "ManifoldNorm".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.published.ManifoldNormGr(5, 2)(torch.eye(5, 2).expand(4, 5, 2)).shape
    torch.Size([4, 5, 2])
    """

    def __init__(self, n: int, p: int, *, karcher_steps: int = 1, **options: Any) -> None:
        super().__init__(Grassmann(n, p), karcher_steps, **options)
        if self.bias_kind == "manifold":
            eye = torch.eye(n, dtype=self.bias_on_manifold.dtype, device=self.bias_on_manifold.device)
            self.bias_on_manifold = torch.nn.Parameter(eye.expand(*self.running_var.shape, n, n).clone())
            self._own_bias(Stiefel(n, n))

    def _published_move(self, move: Move) -> Move:
        def turned(manifold: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
            base = spread_mean(mean)
            v = manifold.log(base, x)
            top, bottom = blocks(base)
            gap = torch.cat([top - torch.linalg.inv(top).mT, -bottom], -2)
            eye = torch.eye(top.shape[-1], dtype=x.dtype, device=x.device)
            root = linalg.sqrtm(eye + gap.mT @ gap)
            across = torch.linalg.solve(root, gap.mT @ v)
            moved = v - base @ across - gap @ torch.linalg.solve(eye + root, across)

            def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
                velocity = moved if self.scale is None else spread(self.scale, 2) * moved
                along, off = ray(velocity).at(1.0)
                origin = manifold.origin(dtype=x.dtype, device=x.device)
                y = polar_factor(origin @ along + off)
                return y if bias is None else bias @ y

            return Moved(manifold.inner(base, v, v), finish)

        return turned

    def _select_move(self, base: Manifold) -> Move:
        return self._published_move(super(PublishedNorm, self)._select_move(base))
