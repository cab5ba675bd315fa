"""Covariance matrices of signals, with shrinkage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds._checks import check_finite
from manifoldnorm.manifolds.charts import real_diagonal
from manifoldnorm.manifolds.cone import PositiveDefiniteCone


def _frobenius(m: Tensor) -> Tensor:
    return (m.real.square() + m.imag.square() if m.is_complex() else m.square()).sum((-2, -1))


def _unit(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the covariance divided by its mean eigenvalue, and that: a weight is free of the signal's unit.

    Fourth powers of the signal itself would leave the range of float32 at 1e-11 and at 1e9.
    """
    level = real_diagonal(covariance).detach().mean(-1)
    level = torch.where(level > 0, level, 1.0)
    return covariance / level[..., None, None], level


def ledoit_wolf(x: Tensor, covariance: Tensor) -> Tensor:
    """Return the Ledoit-Wolf weight of the scaled identity for centred signals (..., n, t).

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", theorem 3.2.
    """
    n, t = x.shape[-2:]
    covariance, level = _unit(covariance)
    power = (x.real.square() + x.imag.square()) if x.is_complex() else x.square()
    fourth = (power.sum(-2) / level[..., None]).square().sum(-1) / t  # mean over time of |x_t|^4
    square = _frobenius(covariance)
    target = real_diagonal(covariance).sum(-1).square() / n
    beta, delta = (fourth - square) / t, square - target
    return torch.where(delta > 0, (beta / torch.where(delta > 0, delta, 1.0)).clamp(0.0, 1.0), 1.0)


def oas(x: Tensor, covariance: Tensor) -> Tensor:
    """Return the oracle-approximating weight of the scaled identity for centred signals (..., n, t).

    Source: Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. (23), without the terms of
    order 1 / n, as scikit-learn does.
    """
    n, t = x.shape[-2:]
    covariance, _ = _unit(covariance)
    mean_square = _frobenius(covariance) / n**2
    mu2 = (real_diagonal(covariance).sum(-1) / n).square()
    numerator, denominator = mean_square + mu2, (t + 1.0) * (mean_square - mu2 / n)
    return torch.where(
        denominator > 0, (numerator / torch.where(denominator > 0, denominator, 1.0)).clamp_max(1.0), 1.0
    )


_SHRINKAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ledoit_wolf": ledoit_wolf, "oas": oas}


def _centred(x: Tensor, center: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if center else x


class _Gram(Function):
    """``scale X X^H`` of the centred signals, exactly Hermitian; one product backward, ``scale (G + G^H) X``.

    The rows of that have mean zero, so centring adds nothing to it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: float, center: bool) -> Tensor:
        x = _centred(x, center)
        product = x @ x.mH
        return (product + product.mH).mul_(0.5 * scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.scale, ctx.center = inputs
        ctx.save_for_backward(x)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ((g + g.mH) * ctx.scale) @ _centred(x, ctx.center), None, None


class Covariance(nn.Module):
    """Covariance matrices (..., n, n) of signals (..., n, t), real or complex.

    Parameters
    ----------
    shrinkage : float or {"ledoit_wolf", "oas"}, optional
        Weight of ``tr(C) / n I`` in the result, fixed or estimated per sample (scikit-learn's formulas). None: no
        shrinkage.
    center : bool
        Whether the mean over time is removed.
    normalize_trace : bool
        Whether each matrix is divided by its mean eigenvalue, so that its trace is n.
    window, hop : int, optional
        Cut the signal into windows of ``window`` samples every ``hop`` (default ``window``), giving
        (..., windows, n, n). A one-dimensional signal (..., 1, t) can be embedded with `embed`.
    embed : int, optional
        Replace each channel by ``embed`` delayed copies first (radar: windows of one complex signal
        become the channels).
    unbiased : bool
        Divide by ``t - 1`` instead of t.
    check_input : bool
        Whether to raise for non-finite signals and for singular results.

    Raises
    ------
    ValueError
        For a signal shorter than a window; under ``check_input`` for a rank-deficient covariance, with the remedy.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.Covariance(shrinkage="oas")(x).shape
    torch.Size([2, 3, 3])
    """

    def __init__(
        self,
        shrinkage: float | str | None = None,
        *,
        center: bool = True,
        normalize_trace: bool = False,
        window: int | None = None,
        hop: int | None = None,
        embed: int | None = None,
        unbiased: bool = False,
        check_input: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(shrinkage, str) and shrinkage not in _SHRINKAGES:
            raise ValueError(
                f"Covariance: shrinkage must be a number or one of {sorted(_SHRINKAGES)}, got {shrinkage!r}."
            )
        if isinstance(shrinkage, (int, float)) and not 0 <= shrinkage <= 1:
            raise ValueError(f"Covariance: shrinkage must lie in [0, 1], got {shrinkage}.")
        for name, value in (("window", window), ("hop", hop), ("embed", embed)):
            if value is not None and value < 1:
                raise ValueError(f"Covariance: {name} must be at least 1, got {value}.")
        if hop is not None and window is None:
            raise ValueError(f"Covariance: hop={hop} needs a window, e.g. Covariance(window={2 * hop}, hop={hop}).")
        self.shrinkage, self.center, self.normalize_trace = shrinkage, center, normalize_trace
        self.window, self.hop, self.embed = window, hop or window, embed
        self.unbiased, self.check_input = unbiased, check_input

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map signals (..., n, t) to covariance matrices."""
        self._check(x)
        x = self._cut(x)
        t = x.shape[-1]
        if isinstance(self.shrinkage, str):
            x = _centred(x, self.center)
            plain = call(_Gram, x, 1 / t, False)
            matrix = plain * (t / (t - 1)) if self.unbiased else plain
        else:
            plain = matrix = call(_Gram, x, 1 / (t - 1 if self.unbiased else t), self.center)
        matrix = self._shrink(x, plain, matrix)
        if self.normalize_trace:
            matrix = matrix / real_diagonal(matrix).mean(-1)[..., None, None]
        if self.check_input:
            self._check_rank(matrix, t)
        return matrix

    def _cut(self, x: Tensor) -> Tensor:
        if self.embed is not None:
            x = x.unfold(-1, self.embed, 1).transpose(-1, -2).flatten(-3, -2)
        if self.window is not None:
            assert self.hop is not None
            x = x.unfold(-1, self.window, self.hop).movedim(-2, -3)
        return x

    def _shrink(self, x: Tensor, plain: Tensor, matrix: Tensor) -> Tensor:
        if self.shrinkage is None:
            return matrix
        if isinstance(self.shrinkage, str):
            weight = _SHRINKAGES[self.shrinkage](x, plain)
        else:
            weight = real_diagonal(matrix).new_full(matrix.shape[:-2], self.shrinkage)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        level = (weight * real_diagonal(matrix).mean(-1))[..., None, None]
        return (1 - weight)[..., None, None] * matrix + level * eye

    def _check(self, x: Tensor) -> None:
        check_tensor(x, "Covariance")
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"Covariance: expected floating-point or complex signals, got {x.dtype}. Use x.double().")
        needed = max(self.window or 1, 2 if self.unbiased else 1) + (self.embed or 1) - 1
        if x.ndim < 2 or x.shape[-1] < needed:
            raise ValueError(
                f"Covariance: expected signals (..., channels, time) with at least {needed} time samples, "
                f"got {tuple(x.shape)}."
            )
        if self.check_input:
            check_finite(x, 2, "Covariance input")

    def _check_rank(self, matrix: Tensor, t: int) -> None:
        n = matrix.shape[-1]
        few = f" (a window has {t} samples for {n} channels)" if t <= n else ""
        PositiveDefiniteCone.check_point(matrix, f"Covariance output{few}")

    def extra_repr(self) -> str:
        """Return the options."""
        return (
            f"shrinkage={self.shrinkage}, center={self.center}, normalize_trace={self.normalize_trace}, "
            f"window={self.window}, hop={self.hop}, embed={self.embed}, unbiased={self.unbiased}"
        )
