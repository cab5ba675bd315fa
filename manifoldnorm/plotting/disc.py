"""The hyperbolic plane in the Poincare disc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Klein, Lorentz, Manifold, PoincareBall, Stereographic
from manifoldnorm.plotting import _points
from manifoldnorm.plotting._canvas import RIM, canvas, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def poincare_disc(
    points: Tensor,
    *,
    manifold: Manifold | None = None,
    geodesics: Tensor | Sequence[tuple[int, int]] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
    marks: Mapping[str, Tensor] | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw points of the hyperbolic plane, and geodesics between them, in the Poincare disc.

    Points of `Lorentz` and `Klein` are moved there by the isometries of these models; the disc has the radius
    ``1 / sqrt(-K)``.

    Parameters
    ----------
    points : Tensor
        Points (N, 2), or (N, 3) of the hyperboloid.
    manifold : PoincareBall, Lorentz or Klein, optional
        Of dimension 2, with any curvature; default ``PoincareBall(2)``.
    geodesics : Tensor or sequence of pairs, optional
        Indices (M, 2) of points to join.
    groups : sequence, optional
        A class or a domain (N,) for each point: one colour and one marker for each of them, and a legend.
    marks : mapping of str to Tensor, optional
        Single points to draw large, by name, such as a mean.
    labels : mapping of int to str, or sequence of str, optional
        Text at points, by index. In their order; those that would cover an earlier one are left out.
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
        If the manifold is not a hyperbolic plane, or points, geodesics, groups and labels do not fit each other.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> points = torch.tensor([[0.0, 0.0], [0.5, 0.5], [-0.6, 0.3]])
    >>> figure = mn.plotting.poincare_disc(points, geodesics=[(0, 1), (1, 2)], labels=["root", "left", "right"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['root', 'left', 'right']
    """
    manifold = PoincareBall(2) if manifold is None else manifold
    if not is_plane(manifold):
        raise ValueError(f"poincare_disc: manifold must be PoincareBall(2), Lorentz(2) or Klein(2), got {manifold}.")
    points = _points.checked(manifold, points, "poincare_disc")
    axes = canvas(ax, 5.0, 5.0)
    radius = (-float(manifold.curvature)) ** -0.5  # type: ignore[attr-defined]
    from matplotlib.patches import Circle

    axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=RIM, linewidth=1))
    places = _place(manifold, points)
    if geodesics is not None:
        arcs = _place(manifold, _points.geodesics_between(manifold, points, geodesics))
        style = {"color": colour(0) if groups is None else "0.4", "alpha": max(0.2, min(0.8, 100 / max(len(arcs), 1)))}
        axes.plot(*arcs.transpose(2, 1, 0), linewidth=0.8, zorder=1, **style)
    _points.scatter(axes, places, _points.grouped(groups, len(points)))
    _points.mark(axes, marks, manifold, lambda point: _place(manifold, point))
    limits = (-1.03 * radius, 1.03 * radius)
    axes.set(aspect="equal", title=title, xlim=limits, ylim=limits)
    axes.set_axis_off()
    if labels is not None:
        _points.write(axes, places, labels)
    _points.legend(axes)
    return axes.figure


def is_plane(manifold: Manifold) -> bool:
    """Return whether a manifold is a model of the hyperbolic plane."""
    return isinstance(manifold, Stereographic | Lorentz | Klein) and manifold.dim == 2 and bool(manifold.curvature < 0)


def _place(manifold: Manifold, points: Tensor) -> _points.Array:
    """Return points of a model in the disc."""
    inside = manifold.to_poincare(points) if isinstance(manifold, Lorentz | Klein) else points
    return inside.numpy()
