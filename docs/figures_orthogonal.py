"""Draws the pictures of Grassmann manifolds, rotations and Stiefel manifolds: geodesics of planes and of frames."""

import math

import torch
from matplotlib.figure import Figure

import manifoldnorm as mn

STEPS = 7
# how space is seen: (right, up)
VIEW = torch.tensor([[0.94, -0.3, 0.05], [0.12, 0.25, 0.95]], dtype=torch.float64)


def shade(k):
    """From light at the start to dark at the end."""
    return (0.16, 0.38, 0.62, 0.25 + 0.65 * k / (STEPS - 1))


def panels(title_count=STEPS):
    """One row of empty panels."""
    figure = Figure(figsize=(1.3 * title_count, 1.5), layout="constrained")
    plots = figure.subplots(1, title_count)
    for plot in plots:
        plot.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
        plot.axis("off")
    return figure, plots


def times():
    """Times along a geodesic."""
    return torch.linspace(0.0, 1.0, STEPS, dtype=torch.float64)


def grassmann(path):
    """Planes in space, as discs with their normal."""
    manifold = mn.Grassmann(3, 2)
    start = manifold.origin(dtype=torch.float64)
    end = manifold.exp(start, torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.6, 1.0]], dtype=torch.float64))
    angles = torch.linspace(0.0, 2 * math.pi, 80, dtype=torch.float64)
    figure, plots = panels()
    for k, (plot, t) in enumerate(zip(plots, times(), strict=True)):
        frame = manifold.geodesic(start, end, t)
        disc = torch.stack([angles.cos(), angles.sin()], -1) @ frame.mT @ VIEW.mT
        normal = torch.linalg.cross(frame[:, 0], frame[:, 1]) @ VIEW.mT
        plot.fill(*disc.T.numpy(), facecolor=shade(k), edgecolor="black", linewidth=0.7)
        plot.plot([0, float(normal[0])], [0, float(normal[1])], color="black", linewidth=1.2)
    figure.savefig(path, dpi=120)


def axes_of(plot, frame):
    """Draw the columns of a frame as arrows."""
    for column, colour in zip((VIEW @ frame).T.tolist(), ("tab:red", "tab:green", "tab:blue"), strict=False):
        plot.annotate("", column, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})


def frames(manifold, end, path):
    """Frames in space along a geodesic."""
    start = manifold.origin(dtype=torch.float64)
    figure, plots = panels()
    for plot, t in zip(plots, times(), strict=True):
        axes_of(plot, manifold.geodesic(start, end, t))
    figure.savefig(path, dpi=120)


def draw_all(folder):
    """Draw every picture into a folder."""
    grassmann(folder / "grassmann.png")
    rotations, stiefel = mn.Rotations(3), mn.Stiefel(3, 2)
    skew = torch.tensor([[0.0, -0.9, 0.7], [0.9, 0.0, -1.2], [-0.7, 1.2, 0.0]], dtype=torch.float64)
    frames(rotations, rotations.exp(torch.eye(3, dtype=torch.float64), skew), folder / "rotations.png")
    frames(stiefel, stiefel.exp(torch.eye(3, 2, dtype=torch.float64), skew[:, :2]), folder / "stiefel.png")
