"""The affine-invariant norms as one program for each direction, on CPU: two decompositions of the batch.

The template of `ManifoldNorm` says what they compute; `_affine_invariant_forward` and `_affine_invariant_backward` say
it once more without a graph in between, for real matrices with the compiled kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.manifolds import AffineInvariant
from manifoldnorm.nn._affine_invariant_backward import backward as backward_program
from manifoldnorm.nn._affine_invariant_forward import Shape
from manifoldnorm.nn._affine_invariant_forward import forward as forward_program
from manifoldnorm.nn._programmed import Programmed, Run
from manifoldnorm.stats import Exact, Karcher, Newton


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch.

    Attributes
    ----------
    group : bool
        Whether points are moved by Cholesky factors (else by symmetric roots).
    mean : Karcher, Newton or Exact
        How the mean is found.
    metric_scale : float
        Of squared distances, for the sum of squared logarithms.
    eps : float
        Added to the variance.
    through : bool
        Whether gradients pass through the statistics.
    """

    manifold: AffineInvariant
    group: bool
    mean: Karcher | Newton | Exact
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = True
    is_program: ClassVar[bool] = True

    @property
    def start(self) -> str:
        """From where the last step to the mean starts: a mean that the program forms itself, or one it is given."""
        if self.mean == Karcher(1, self.mean.backward_steps):
            return "arithmetic"
        return "middle" if isinstance(self.mean, Newton) and self.mean.steps == 1 else "given"

    @property
    def cg_steps(self) -> int:
        """Conjugate-gradient steps of the last step to the mean; 0 for a gradient step."""
        return 0 if isinstance(self.mean, Karcher) else self.mean.cg_steps

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, run: Run
    ) -> Tensor:
        """Return the output; the running statistics follow in ``run``.

        The bias is a tangent vector at the identity (its symmetric part counts), or a point.
        """
        bias, kind = tangent, "" if tangent is None else "tangent"
        if point is not None:
            bias, kind = linalg.cholesky(point) if self.group else linalg.sqrtm(point), "colour"
        run.shape = Shape(
            plan=self,
            batch=x.shape[0],
            n=x.shape[-1],
            dtype=working_dtype(x.dtype, widens(x)),
            precision=torch.finfo(x.dtype).eps,
            scaled=log_scale is not None,
            bias=kind,
            tracks=bool(run.tracks),
            domains=run.domains,
            min_samples=run.min_samples,
        )
        out: Any = FusedAffineInvariant.apply(x, log_scale, bias, run)
        return out


class FusedAffineInvariant(Programmed):
    """``Y = K (A X A^T)^t K^T`` with the A and t of the batch, or of each sample's domain.

    ``bias`` is a symmetric tangent vector at the identity, whose exponential is ``K K^T``, or K.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: Run) -> Tensor:
        plan: Plan = run.shape.plan
        start = run.start(plan.mean, plan.manifold, x) if plan.start == "given" else None
        return Programmed.start(ctx, forward_program(run.shape), run, x, (log_scale, bias, start), (log_scale, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        s: Shape = ctx.run.shape
        x, _, bias, _ = saved = ctx.saved_tensors
        others = ([bias] if s.bias == "colour" else []) + ([x] if s.plan.through else [])
        gradients = Programmed.finish(ctx.run, saved, backward_program(s), g, *others)
        return *gradients[:3], None
