"""The disc with the hierarchy in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import manifoldnorm as mn

from .data import Hierarchy


def draw(points: Tensor, hierarchy: Hierarchy, title: str, file: Path, labels: int = 30) -> None:
    """Draw points (N, 2) of the ball, direct edges as geodesics, and the names of the items with most descendants."""
    from matplotlib.figure import Figure

    ball = mn.PoincareBall(2)
    descendants = torch.bincount(hierarchy.pairs[:, 1], minlength=len(hierarchy))
    points = ball.gyrosub(points[descendants.argmax()], points)  # an isometry that puts the root in the centre
    figure = Figure(figsize=(9, 9), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    edges = hierarchy.direct if len(hierarchy.direct) else hierarchy.pairs
    times = torch.linspace(0, 1, 65, dtype=points.dtype)[:, None]
    arcs = ball.geodesic(points[edges[:, 0]], points[edges[:, 1]], times)
    axes.plot(arcs[..., 0], arcs[..., 1], color="tab:blue", alpha=0.15, linewidth=0.6)
    axes.plot(points[:, 0], points[:, 1], "o", color="black", markersize=2, alpha=0.5)
    placed: list[Tensor] = []
    room = torch.tensor([0.16, 0.045], dtype=points.dtype)  # that a label needs
    for item in descendants.argsort(descending=True).tolist():
        if len(placed) == labels or not descendants[item]:
            break
        if any(bool(((points[item] - other).abs() < room).all()) for other in placed):
            continue
        placed.append(points[item])
        name = hierarchy.names[item].rsplit(".n.", 1)[0].replace("_", " ")
        axes.annotate(
            name,
            points[item].tolist(),
            fontsize=8,
            ha="center",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0.3},
        )
    angles = torch.linspace(0, 2 * torch.pi, 400)
    axes.plot(angles.cos(), angles.sin(), color="gray", linewidth=0.8)
    axes.set(aspect="equal", title=title)
    axes.set_axis_off()
    figure.savefig(file)
