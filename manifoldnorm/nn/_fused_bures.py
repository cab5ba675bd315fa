"""The Bures-Wasserstein norm as one program for each direction, on CPU: two decompositions of the batch.

`_bures_forward` and `_bures_backward` say what they compute. Where gradients pass through the statistics the means are
an input like the samples, with their own way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.linalg._ops import cholesky_cpu
from manifoldnorm.linalg._program import Declined, view
from manifoldnorm.manifolds import BuresWasserstein
from manifoldnorm.nn._bures_backward import backward as backward_program
from manifoldnorm.nn._bures_forward import Shape
from manifoldnorm.nn._bures_forward import forward as forward_program
from manifoldnorm.nn._programmed import Programmed, Run
from manifoldnorm.stats import Karcher, MeanPolicy


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the geometry, how the mean is found, the variance's factor and its eps.

    ``through`` says whether gradients pass through the statistics.
    """

    manifold: BuresWasserstein
    mean: MeanPolicy
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = True
    is_program: ClassVar[bool] = True

    @property
    def start(self) -> str:
        """What the program is given to find the mean: nothing, where its last step starts, or the mean itself."""
        if self.through or not isinstance(self.mean, Karcher):
            return "mean"
        return "arithmetic" if self.mean.steps == 1 else "start"

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, run: Run
    ) -> Tensor:
        """Return the output; the running statistics follow in ``run``.

        The bias is the logarithm of a point (its symmetric part counts), or the point.
        """
        run.shape = Shape(
            plan=self,
            batch=x.shape[0],
            n=x.shape[-1],
            precision=torch.finfo(x.dtype).eps,
            scaled=log_scale is not None,
            bias="tangent" if tangent is not None else "point" if point is not None else "",
            tracks=bool(run.tracks),
            domains=run.domains,
            min_samples=run.min_samples,
        )
        segments = None if run.segments is None or not self.through else run.segments()
        mean = self.mean(self.manifold, x, segments) if self.through else None
        out: Any = FusedBures.apply(x, log_scale, tangent if tangent is not None else point, run, mean)
        return out


class FusedBures(Programmed):
    """``(I + S) B (I + S)`` at the bias point B; with gradients through the statistics the mean is an input, too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: Run, mean: Tensor | None
    ) -> Tensor:
        s, given = run.shape, mean
        if given is None and s.plan.start == "start":
            given = run.start(s.plan.mean, s.plan.manifold, x)
        elif given is None and s.plan.start == "mean":
            segments = None if run.segments is None else run.segments()
            given = s.plan.mean(s.plan.manifold, x, segments)
        point = torch.eye(s.n, dtype=x.dtype, device="cpu") if bias is None else bias
        try:
            return Programmed.start(ctx, forward_program(s), run, x, (log_scale, point, given), (log_scale, bias))
        except Declined:
            if not s.domains:
                cholesky_cpu(x.mean(0), True, "BuresWasserstein mean")  # says if samples share a null vector
            raise

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        s: Shape = ctx.run.shape
        plan = backward_program(s)
        *gradients, memory = Programmed.finish(ctx.run, ctx.saved_tensors, plan, g)
        mean = None
        if s.plan.through:
            place = plan.mean if s.domains else plan.mean.item(0)
            mean = view(place, memory).to(ctx.saved_tensors[0].dtype, copy=True)
        return *gradients, None, mean
