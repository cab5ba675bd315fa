"""What pictures of points share: arguments that are checked, points in groups, marked points, labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold
from manifoldnorm.plotting._canvas import MARKERS, colour

STEPS = 65  # points of a drawn geodesic
FONT = 8  # points, of labels
MARKS = (
    {"marker": "*", "markersize": 14, "color": "black", "markeredgecolor": "white"},
    {"marker": "+", "markersize": 18, "color": "black", "markeredgewidth": 1.5},
    {"marker": "X", "markersize": 10, "color": "black", "markeredgecolor": "white"},
)

Array = np.ndarray[Any, Any]


def checked(manifold: Manifold, points: Any, what: str) -> Tensor:
    """Return points (N, *point_shape) without gradient, in double precision on the CPU, or raise."""
    if not isinstance(points, Tensor):
        raise TypeError(f"{what}: points must be a tensor, got {type(points).__name__}. Use torch.as_tensor(points).")
    if points.is_complex():
        raise TypeError(f"{what}: points are complex, and a picture needs real ones. Draw x.real or x.abs().")
    if points.ndim != 1 + len(manifold.point_shape):
        raise ValueError(
            f"{what}: expected points (N, {', '.join(map(str, manifold.point_shape))}), got {tuple(points.shape)}. "
            f"Draw one channel at a time, and one point as x[None]."
        )
    if not len(points):
        raise ValueError(f"{what}: there are no points.")
    points = points.detach().cpu()
    manifold.check_point(points, what)
    return points.double()


def geodesics_between(manifold: Manifold, points: Tensor, pairs: Any) -> Tensor:
    """Return the geodesics (M, STEPS, *point_shape) between pairs (M, 2) of points, given by their indices."""
    ends = torch.as_tensor(pairs).cpu()
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.is_floating_point():
        raise ValueError(f"geodesics must be pairs (M, 2) of indices of points, got shape {tuple(ends.shape)}.")
    if ends.numel() and (int(ends.min()) < 0 or int(ends.max()) >= len(points)):
        raise ValueError(f"geodesics: indices must lie between 0 and {len(points) - 1}.")
    times = torch.linspace(0.0, 1.0, STEPS, dtype=points.dtype)
    start, end = (points[side, None].expand(-1, STEPS, *manifold.point_shape) for side in ends.long().unbind(1))
    return manifold.geodesic(start, end, times.expand(len(ends), STEPS))


def frame(elevation: float, azimuth: float) -> Array:
    """Return the directions to the right, up and towards the viewer, as rows."""
    up, around = math.radians(elevation), math.radians(azimuth)
    right = [-math.sin(around), math.cos(around), 0.0]
    towards = [math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)]
    return np.array([right, np.cross(towards, right), towards])


def grouped(groups: Sequence[Any] | Tensor | None, count: int) -> dict[str, Array]:
    """Return the indices of each group's points by its name, in order of appearance of sorted names."""
    if groups is None:
        return {"": np.arange(count)}
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names) != count:
        raise ValueError(f"groups must name one group for each of the {count} points, got {len(names)}.")
    return {str(name): np.array([k for k, own in enumerate(names) if own == name]) for name in sorted(set(names))}


def scatter(axes: Any, places: Array, groups: Mapping[str, Array], **style: Any) -> None:
    """Draw points (N, 2), each group in its own colour and with its own marker."""
    size = min(5.0, max(2.0, 44 / math.sqrt(len(places))))
    for k, (name, members) in enumerate(groups.items()):
        look = {"marker": MARKERS[k % len(MARKERS)], "color": colour(k), "label": name or None, "alpha": 0.7}
        look = {"markersize": size, "markeredgewidth": 0, **look, **style}
        axes.plot(*places[members].T, linestyle="none", **look)


def mark(axes: Any, marks: Mapping[str, Tensor] | None, manifold: Manifold, place: Callable[[Tensor], Array]) -> None:
    """Draw single points of the manifold by name, large and with a white rim.

    A third coordinate of a place is its depth: what lies behind is pale.
    """
    for k, (name, point) in enumerate((marks or {}).items()):
        where = place(checked(manifold, point[None], f"marks[{name!r}]"))[0]
        behind = len(where) == 3 and where[2] < 0
        look = {**MARKS[k % len(MARKS)], "alpha": 0.35 if behind else 1.0}
        axes.plot(*where[:2, None], linestyle="none", label=name, zorder=12 - k, **look)


def legend(axes: Any) -> None:
    """Draw a legend below the picture where there is something to say."""
    _, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(len(names), 4), fontsize=9, frameon=False)


def write(axes: Any, places: Array, labels: Mapping[int, str] | Sequence[str]) -> None:
    """Write labels at their points (N, 2), in their order; one that would cover an earlier one is left out."""
    named = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    inch = (axes.get_xlim()[1] - axes.get_xlim()[0]) / (axes.bbox.width / axes.figure.dpi)
    letter, line = 0.6 * FONT / 72 * inch, 1.6 * FONT / 72 * inch
    placed: list[tuple[Array, int]] = []
    for index, text in named:
        if not 0 <= index < len(places):
            raise ValueError(f"labels: there is no point {index}, only {len(places)} points.")
        apart = [(abs(places[index] - other), (len(text) + length) / 2 + 1) for other, length in placed]
        if any(offset[0] < letters * letter and offset[1] < line for offset, letters in apart):
            continue
        placed.append((places[index], len(text)))
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0.3}
        axes.annotate(text, places[index], fontsize=FONT, ha="center", va="center", bbox=box, zorder=9)
