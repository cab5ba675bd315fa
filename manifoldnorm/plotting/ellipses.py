"""Positive-definite 2 x 2 matrices as ellipses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds import AffineInvariant
from manifoldnorm.plotting import _points
from manifoldnorm.plotting._canvas import canvas, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def spd_ellipses(
    matrices: Tensor,
    *,
    centres: Tensor | Sequence[Sequence[float]] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw positive-definite 2 x 2 matrices as ellipses of one standard deviation.

    The ellipse of P is the set of x with ``x^T P^-1 x = 1``: its half axes are the square roots of the eigenvalues,
    along the eigenvectors.

    Parameters
    ----------
    matrices : Tensor
        Matrices (N, 2, 2).
    centres : Tensor or sequence, optional
        Where to draw them (N, 2); default in a row, from pale to dark.
    groups : sequence, optional
        A class or a domain (N,) for each matrix: one colour for each of them, and a legend.
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
        If the matrices are not 2 x 2 or not positive definite, or centres and groups do not fit them.
    TypeError
        If they are complex.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> path = mn.AffineInvariant(2).geodesic(
    ...     torch.eye(2), torch.diag(torch.tensor([4.0, 1.0])), torch.linspace(0, 1, 5)
    ... )
    >>> figure = mn.plotting.spd_ellipses(path)
    >>> figure.axes[0].patches[-1].width
    4.0
    """
    points = _points.checked(AffineInvariant(2), matrices, "spd_ellipses")
    reach = points.diagonal(dim1=-2, dim2=-1).sqrt().numpy()  # half of the box around each ellipse
    where = _row(reach[:, 0]) if centres is None else np.asarray(torch.as_tensor(centres).detach().cpu(), dtype=float)
    if where.shape != reach.shape:
        raise ValueError(f"centres must be {reach.shape}, one for each matrix, got {where.shape}.")
    low, high = (where - reach).min(0), (where + reach).max(0)
    margin = 0.02 * (high - low).max()
    low, high = low - margin, high + margin
    width, height = (high - low) * 8 / (high - low).max()
    axes = canvas(ax, max(width, 1.5) + 0.2, max(height, 1.2) + (0.4 if title else 0.2))
    members = _points.grouped(groups, len(points))
    fade = np.linspace(0.25, 0.75, len(points)) if centres is None and groups is None else np.full(len(points), 0.35)
    for k, (name, chosen) in enumerate(members.items()):
        for nth, i in enumerate(chosen):
            patch = _ellipse(points[i], where[i])
            patch.set(facecolor=(colour(k), fade[i]), edgecolor="black" if groups is None else colour(k))
            patch.set_label(name if name and nth == 0 else None)
            axes.add_patch(patch)
    axes.set(aspect="equal", title=title, xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if centres is None:
        axes.set_axis_off()
    _points.legend(axes)
    return axes.figure


def _row(reach: _points.Array) -> _points.Array:
    """Return centres in a row at equal distances, so that no two boxes overlap."""
    step = 2.2 * reach.max(initial=0.0)
    return np.stack([step * np.arange(len(reach)), np.zeros(len(reach))], -1)


def _ellipse(matrix: Tensor, centre: _points.Array) -> Any:
    from matplotlib.patches import Ellipse

    values, vectors = linalg.eigh(matrix)
    minor, major = (2 * values.sqrt()).tolist()
    angle = float(torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1])))
    return Ellipse(tuple(centre), major, minor, angle=angle, linewidth=1)
