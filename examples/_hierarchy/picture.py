"""The disc with the hierarchy in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import manifoldnorm as mn

from .data import Hierarchy


def draw(points: Tensor, hierarchy: Hierarchy, title: str, file: Path, labels: int = 60) -> None:
    """Draw points (N, 2) of the ball, direct edges as geodesics, and names of the items with most descendants."""
    from matplotlib.figure import Figure

    descendants = torch.bincount(hierarchy.pairs[:, 1], minlength=len(hierarchy))
    points = mn.PoincareBall(2).gyrosub(points[descendants.argmax()], points)  # an isometry: the root in the centre
    edges = hierarchy.direct if len(hierarchy.direct) else hierarchy.pairs
    most = [item for item in descendants.argsort(descending=True).tolist() if descendants[item]][:labels]
    names = {item: hierarchy.names[item].rsplit(".n.", 1)[0].replace("_", " ") for item in most}
    figure = Figure(figsize=(9, 9), layout="constrained", dpi=120)
    mn.plotting.poincare_disc(points, geodesics=edges, labels=names, title=title, ax=figure.add_subplot())
    figure.savefig(file)
