"""The norms of flat geometries with statistics per domain as one program for each direction, on CPU.

The program is that of `_fused_charted` without a chart, on points as rows of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.linalg import _program
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.nn import _fused_flat
from manifoldnorm.nn._fused_charted import ChartedRun, FusedCharted, Shape
from manifoldnorm.nn._programmed import Run


class Rows:
    """No chart: points are rows of numbers as they are."""

    axes = 1

    @staticmethod
    def enter(p: Program, x: Place, y: Place, new: Callable[..., Place], eps: float) -> tuple[Place, ...]:
        """Copy the points."""
        p.map(_program.SCALE, x, y)
        return ()

    @staticmethod
    def leave(p: Program, y: Place, x: Place, new: Callable[..., Place]) -> tuple[Place, ...]:
        """Copy the points."""
        p.map(_program.SCALE, y, x)
        return ()

    @staticmethod
    def enter_adjoint(p: Program, left: tuple[Place, ...], g: Place, out: Place) -> None:
        """Copy the gradient."""
        p.map(_program.SCALE, g, out)


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the plan of the norm without domains."""

    flat: _fused_flat.Plan

    takes_tangent: ClassVar[bool] = False
    is_program: ClassVar[bool] = True

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, run: Run
    ) -> Tensor:
        """Return the output; the running statistics follow in ``run``. The bias is a point."""
        own = ChartedRun(**vars(run), flat=self.flat)
        own.shape = Shape(
            chart=Rows,
            batch=x.shape[0],
            n=math.prod(x.shape[1:]),
            dtype=working_dtype(x.dtype, widens(x)),
            precision=torch.finfo(x.dtype).eps,
            metric_scale=self.flat.metric_scale,
            eps=self.flat.eps,
            scaled=log_scale is not None,
            bias="" if point is None else "point",
            leaves=False,
            tracks=bool(run.tracks),
            domains=run.domains,
            min_samples=run.min_samples,
        )
        out: Any = FusedCharted.apply(x, log_scale, point, own)
        run.tracked, run.found = own.tracked, own.found
        own.forget()
        return out
