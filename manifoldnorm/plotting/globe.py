"""The two-dimensional sphere, seen from a distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold, ProjectedSphere, Sphere, Stereographic
from manifoldnorm.plotting import _points
from manifoldnorm.plotting._canvas import RIM, canvas, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def sphere(
    points: Tensor,
    *,
    manifold: Manifold | None = None,
    geodesics: Tensor | Sequence[tuple[int, int]] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
    marks: Mapping[str, Tensor] | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    view: tuple[float, float] = (25.0, 30.0),
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw points of the sphere, and shortest arcs between them, in orthographic projection.

    What lies on the far side is pale. Points of `ProjectedSphere` are moved to the sphere.

    Parameters
    ----------
    points : Tensor
        Points (N, 3), or (N, 2) of the projected sphere.
    manifold : Sphere or ProjectedSphere, optional
        Of dimension 2, with any curvature; default ``Sphere(2)``.
    geodesics : Tensor or sequence of pairs, optional
        Indices (M, 2) of points to join.
    groups : sequence, optional
        A class or a domain (N,) for each point: one colour and one marker for each of them, and a legend.
    marks : mapping of str to Tensor, optional
        Single points to draw large, by name, such as a mean.
    labels : mapping of int to str, or sequence of str, optional
        Text at points, by index. In their order; those that would cover an earlier one are left out.
    view : tuple of float
        Elevation and azimuth, in degrees, of the viewer: the origin ``(1, 0, 0)`` is at (0, 0).
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
        If the manifold is not a sphere, or points, geodesics, groups and labels do not fit each other.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> figure = mn.plotting.sphere(torch.eye(3), geodesics=[(0, 1), (1, 2)], labels=["x", "y", "z"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['x', 'y', 'z']
    """
    manifold = Sphere(2) if manifold is None else manifold
    if not is_sphere(manifold):
        raise ValueError(f"sphere: manifold must be Sphere(2) or ProjectedSphere(2), got {manifold}.")
    points = _points.checked(manifold, points, "sphere")
    radius = float(manifold.curvature) ** -0.5  # type: ignore[attr-defined]
    axes = canvas(ax, 5.0, 5.0)
    frame = _points.frame(*view)
    _globe(axes, radius, frame)
    places = _place(manifold, points) @ frame.T
    if geodesics is not None:
        arcs = _place(manifold, _points.geodesics_between(manifold, points, geodesics)) @ frame.T
        _curves(axes, arcs, color=colour(0) if groups is None else "0.4", linewidth=1.2, zorder=2)
    members = _points.grouped(groups, len(points))
    far = places[:, 2] < 0
    _points.scatter(axes, places[:, :2], {name: own[far[own]] for name, own in members.items()}, alpha=0.2, label=None)
    _points.scatter(axes, places[:, :2], {name: own[~far[own]] for name, own in members.items()})
    _points.mark(axes, marks, manifold, lambda point: _place(manifold, point) @ frame.T)
    limits = (-1.03 * radius, 1.03 * radius)
    axes.set(aspect="equal", title=title, xlim=limits, ylim=limits)
    axes.set_axis_off()
    if labels is not None:
        _points.write(axes, places[:, :2], labels)
    _points.legend(axes)
    return axes.figure


def is_sphere(manifold: Manifold) -> bool:
    """Return whether a manifold is the two-dimensional sphere, possibly projected."""
    return isinstance(manifold, Sphere | Stereographic) and manifold.dim == 2 and bool(manifold.curvature > 0)


def _place(manifold: Manifold, points: Tensor) -> _points.Array:
    """Return points on the sphere in space."""
    if isinstance(manifold, Stereographic):
        points = ProjectedSphere(2, manifold.curvature).to_sphere(points)
    return points.numpy()


def _curves(axes: Any, curves: _points.Array, **style: Any) -> None:
    """Draw curves (M, T, 3) in the viewer's frame: solid in front, pale and dotted behind."""
    for behind, look in ((False, {"alpha": 0.9}), (True, {"alpha": 0.4, "linestyle": ":"})):
        seen = np.where(((curves[..., 2:] < 0) == behind), curves[..., :2], np.nan)
        axes.plot(*seen.transpose(2, 1, 0), **look, **style)


def _globe(axes: Any, radius: float, frame: _points.Array) -> None:
    """Draw the outline, and the front of circles of latitude and longitude at every 30 degrees."""
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.fill(radius * np.cos(turn), radius * np.sin(turn), facecolor="0.97", edgecolor=RIM, linewidth=1, zorder=0)
    latitude, longitude = np.radians(np.arange(-60, 90, 30)), np.radians(np.arange(0, 180, 30))
    parallels = [_circle(np.cos(a) * np.cos(turn), np.cos(a) * np.sin(turn), np.sin(a)) for a in latitude]
    meridians = [_circle(np.cos(turn) * np.cos(a), np.cos(turn) * np.sin(a), np.sin(turn)) for a in longitude]
    lines = radius * np.stack([*parallels, *meridians]) @ frame.T
    seen = np.where(lines[..., 2:] >= 0, lines[..., :2], np.nan)
    axes.plot(*seen.transpose(2, 1, 0), color="0.85", linewidth=0.6, zorder=0.5)


def _circle(x: _points.Array, y: _points.Array, z: Any) -> _points.Array:
    return np.stack(np.broadcast_arrays(x, y, z), -1)
