"""Draws the pictures of the spaces of constant curvature: circles and geodesics in the coordinates of each model."""

import math

import torch
from matplotlib.figure import Figure

import manifoldnorm as mn

RADII = (0.4, 0.8, 1.2)
# how points in three coordinates are seen: (right, up)
VIEWS = {
    "lorentz": torch.tensor([[0.0, 0.95, -0.3], [0.9, 0.13, 0.42]], dtype=torch.float64),
    "sphere": torch.tensor([[0.0, 0.9, 0.44], [0.85, -0.23, 0.47]], dtype=torch.float64),
}


def geometries():
    """The models by the name of their page."""
    return {
        "stereographic": [mn.Stereographic(2, k) for k in (-1.0, 0.0, 1.0)],
        "poincare_ball": [mn.PoincareBall(2)],
        "klein": [mn.Klein(2)],
        "lorentz": [mn.Lorentz(2)],
        "sphere": [mn.Sphere(2)],
        "projected_sphere": [mn.ProjectedSphere(2)],
    }


def tangents(manifold, radius, angles):
    """Vectors of one length in all directions, at the origin."""
    plane = torch.stack([angles.cos(), angles.sin()], -1)
    vectors = torch.nn.functional.pad(plane, (1, 0)) if manifold.point_shape == (3,) else plane
    origin = manifold.origin(dtype=torch.float64)
    return radius * vectors / manifold.norm(origin, vectors)[:, None]


def curves(manifold):
    """Circles of equal radii about the origin and about a second centre, and the geodesic through both."""
    size = 0.7 if isinstance(manifold, mn.Lorentz) else 1.0  # its coordinates grow exponentially
    origin = manifold.origin(dtype=torch.float64)
    angles = torch.linspace(0.0, 2 * math.pi, 200, dtype=torch.float64)
    second = manifold.exp(
        origin,
        tangents(manifold, size * (1.3 if manifold.curvature <= 0 else 0.9), torch.tensor([0.5], dtype=torch.float64))[
            0
        ],
    )
    for centre, colour in ((origin, "tab:blue"), (second, "tab:orange")):
        for radius in RADII:
            yield manifold.shoot(centre, tangents(manifold, size * radius, angles)), colour, 1.0
    half = size * (1.6 if manifold.curvature <= 0 else 1.2)
    for start in (0.5, 1.6, 2.6):  # three geodesics through the second centre
        ends = manifold.shoot(second, tangents(manifold, half, torch.tensor([start, start + math.pi]).double()))
        yield manifold.geodesic(ends[0], ends[1], torch.linspace(0.0, 1.0, 100, dtype=torch.float64)), "black", 0.7


def draw(name, manifolds, path):
    """One panel for each manifold."""
    figure = Figure(figsize=(3.2 * len(manifolds), 3.2), layout="constrained")
    for plot, manifold in zip(figure.subplots(1, len(manifolds), squeeze=False)[0], manifolds, strict=True):
        for points, colour, width in curves(manifold):
            seen = points @ VIEWS[name].mT if name in VIEWS else points
            plot.plot(*seen.T.numpy(), color=colour, linewidth=width)
        if (manifold.curvature < 0 and name != "lorentz") or name == "sphere":
            circle = torch.linspace(0.0, 2 * math.pi, 200)
            plot.plot(circle.cos(), circle.sin(), color="0.6", linewidth=0.8)
        plot.set(aspect="equal", title=f"K = {manifold.curvature:g}" if len(manifolds) > 1 else None)
        plot.axis("off")
    figure.savefig(path, dpi=120)


def draw_all(folder):
    """Draw every picture into a folder."""
    for name, manifolds in geometries().items():
        draw(name, manifolds, folder / f"{name}.png")
