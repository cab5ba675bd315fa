"""The cone of positive-definite 2 x 2 matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from manifoldnorm.manifolds import AffineInvariant, Manifold, Pullback
from manifoldnorm.manifolds.cone import PositiveDefiniteCone
from manifoldnorm.manifolds.spd import ConeManifold
from manifoldnorm.plotting import _points
from manifoldnorm.plotting._canvas import RIM, canvas, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def spd_cone(
    points: Tensor,
    *,
    manifold: Manifold | Mapping[str, Manifold] | None = None,
    geodesics: Tensor | Sequence[tuple[int, int]] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
    marks: Mapping[str, Tensor] | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    height: float | None = None,
    view: tuple[float, float] = (18.0, -60.0),
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw positive-definite 2 x 2 matrices as points of their cone, and geodesics of a metric between them.

    The coordinates ``(x11 - x22) / 2``, ``x12`` and ``(x11 + x22) / 2`` make the cone round: its axis are the multiples
    of the identity matrix, its boundary the singular matrices.

    Parameters
    ----------
    points : Tensor
        Matrices (N, 2, 2).
    manifold : Manifold or mapping of str to Manifold, optional
        The metric of the geodesics, on real positive-definite 2 x 2 matrices; default ``AffineInvariant(2)``. Several
        metrics, by name, have a colour each.
    geodesics : Tensor or sequence of pairs, optional
        Indices (M, 2) of points to join.
    groups : sequence, optional
        A class or a domain (N,) for each point: one colour and one marker for each of them, and a legend.
    marks : mapping of str to Tensor, optional
        Single matrices to draw large, by name, such as a mean.
    labels : mapping of int to str, or sequence of str, optional
        Text at points, by index. In their order; those that would cover an earlier one are left out.
    height : float, optional
        Where the drawn cone ends, half of a trace; default a little above all points.
    view : tuple of float
        Elevation and azimuth of the viewer, in degrees.
    title : str
        Above the picture.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the matrices are not 2 x 2 or not positive definite, or geodesics and groups do not fit them.
    TypeError
        If they are complex: those have four dimensions.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> points = torch.stack([torch.eye(2), torch.tensor([[2.0, 1.0], [1.0, 1.0]])])
    >>> figure = mn.plotting.spd_cone(points, geodesics=[(0, 1)], manifold=mn.LogEuclidean(2), title="log-Euclidean")
    >>> figure.axes[0].get_title()
    'log-Euclidean'
    """
    metrics = _metrics(manifold)
    points = _points.checked(AffineInvariant(2), points, "spd_cone")
    pairs = torch.zeros(0, 2, dtype=torch.long) if geodesics is None else geodesics
    paths = {name: _place(_points.geodesics_between(metric, points, pairs)) for name, metric in metrics.items()}
    places = _place(points)
    if height is None:
        height = 1.1 * float(max(places[:, 2].max(), *(path[..., 2].max(initial=0.0) for path in paths.values())))
    axes = canvas(ax, 5.0, 3.4)
    frame = _points.frame(*view)
    _cone(axes, height, frame)
    for k, (name, found) in enumerate(paths.items()):
        look = {"color": colour(k) if groups is None else str(0.4 * k / len(paths)), "linewidth": 1.5}
        for nth, path in enumerate(found):
            axes.plot(*(path @ frame.T)[:, :2].T, label=name if name and nth == 0 else None, **look)
    shade = {} if len(paths) == 1 else {"color": "0.2"}
    _points.scatter(axes, (places @ frame.T)[:, :2], _points.grouped(groups, len(points)), **shade)
    _points.mark(axes, marks, AffineInvariant(2), lambda point: (_place(point) @ frame.T)[:, :2])
    axes.set(aspect="equal", title=title)
    axes.set_axis_off()
    if labels is not None:
        _points.write(axes, (places @ frame.T)[:, :2], labels)
    _points.legend(axes)
    return axes.figure


def _metrics(manifold: Manifold | Mapping[str, Manifold] | None) -> Mapping[str, Manifold]:
    """Return the metrics by name, or raise if one is not of the cone."""
    metrics = manifold if isinstance(manifold, Mapping) else {"": AffineInvariant(2) if manifold is None else manifold}
    for metric in metrics.values():
        if not is_cone(metric):
            raise ValueError(
                f"spd_cone: needs metrics of real 2 x 2 matrices, such as AffineInvariant(2), got {metric}."
            )
    return metrics


def is_cone(manifold: Manifold) -> bool:
    """Return whether the points of a manifold are all real positive-definite 2 x 2 matrices."""
    if isinstance(manifold, Pullback):
        positive = manifold.domain is PositiveDefiniteCone
    else:
        positive = isinstance(manifold, ConeManifold)
    return positive and manifold.point_shape == (2, 2) and not manifold.is_complex


def _place(points: Tensor) -> _points.Array:
    """Return the coordinates in which the cone is round."""
    a, b, c = points[..., 0, 0], points[..., 0, 1], points[..., 1, 1]
    return torch.stack([(a - c) / 2, b, (a + c) / 2], -1).numpy()


def _cone(axes: Any, height: float, frame: _points.Array) -> None:
    """Draw the cone up to a height, its axis, and where the other two coordinates point."""
    turn = np.linspace(0, 2 * np.pi, 361)
    for level, look in (
        (height, {"facecolor": "0.9", "zorder": 0.1}),
        (height / 2, {"facecolor": "none", "zorder": 0.2}),
    ):
        rim = _levels(level * np.cos(turn), level * np.sin(turn), level) @ frame.T
        axes.fill(*rim[:, :2].T, edgecolor=RIM, linewidth=0.8, **look)
    rise, tilt = height * frame[1, 2], height * frame[2, 2]  # of the rim's middle; half of the ellipse's short axis
    if abs(tilt) < abs(rise):  # the apex is outside of the rim: tangents
        down = math.asin(-tilt / rise)
        arc = np.linspace(down, math.pi - down, 181)
        side = np.stack([height * np.cos(arc), rise + tilt * np.sin(arc)])
        axes.fill(
            *np.concatenate([side, np.zeros((2, 1))], 1), facecolor="0.95", edgecolor=RIM, linewidth=0.8, zorder=0
        )
    ends = height * np.array([[1.1, 0, 1], [0, 1.1, 1], [0, 0, 1.45]])
    starts = height * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    names = (r"$\frac{1}{2}(x_{11} - x_{22})$", "$x_{12}$", r"$\frac{1}{2}(x_{11} + x_{22})$")
    for start, end, name in zip(starts @ frame.T, ends @ frame.T, names, strict=True):
        axes.plot(*np.stack([start, end])[:, :2].T, color="0.75", linewidth=0.8, zorder=0.3)
        centred = abs(end[0]) < 0.3 * height
        aside = {"ha": "center", "va": "bottom" if end[1] > rise else "top"} if centred else {"va": "center"}
        axes.text(end[0], end[1], f" {name} ", fontsize=9, **{"ha": "left" if end[0] > 0 else "right", **aside})
    for level in (0.5, 1.0):  # numbers on the axis
        axes.text(0, level * rise, f"{level * height:.2g} ", fontsize=8, ha="right", va="bottom", color="0.3")
    low, high = min(0.0, rise - abs(tilt)), max(1.45 * rise, rise + abs(tilt))
    axes.set(xlim=(-1.45 * height, 1.45 * height), ylim=(low - 0.05 * height, high + 0.17 * height))


def _levels(x: _points.Array, y: _points.Array, z: float) -> _points.Array:
    return np.stack([x, y, np.full_like(x, z)], -1)
