"""Draws the site's pictures when it is built; those of SPD metrics are geodesics of two covariances, as ellipses."""

import math
from pathlib import Path

import figures_curvature
import figures_families
import figures_orthogonal
import figures_pages
import torch

import manifoldnorm as mn

FOLDER = Path(__file__).parent / "_figures"
STEPS = 9


def ends():
    """Two elongated covariances in different directions, the second one larger."""

    def covariance(angle, major, minor):
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        return turn @ torch.diag(torch.tensor([major, minor], dtype=torch.float64)) @ turn.mT

    return covariance(0.2, 1.0, 0.05), covariance(1.6, 2.0, 0.1)


def geometries():
    """The geometries by the name of their page."""
    charts = mn.manifolds
    precision = charts.LogCholeskyChart() @ charts.CholeskyInverse()
    metric = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    return {
        "euclidean": mn.Euclidean(2, 2),
        "affine_invariant": mn.AffineInvariant(2),
        "log_euclidean": mn.LogEuclidean(2),
        "log_cholesky": mn.LogCholesky(2),
        "bures_wasserstein": mn.BuresWasserstein(2),
        "generalized_bures_wasserstein": mn.GeneralizedBuresWasserstein(2, metric),
        "cholesky_right_invariant": mn.CholeskyRightInvariant(2),
        "adaptive_log_euclidean": mn.AdaptiveLogEuclidean(2, low=0.5, high=2.0),
        "power_deformed": mn.PowerDeformed(mn.AffineInvariant(2), 0.5),
        "pullback": charts.Pullback(precision, charts.TriangularMatrices(2)),
    }


def draw(manifold, path):
    """One row of ellipses (one standard deviation) from the first covariance to the second."""
    p, q = ends()
    covariances = manifold.geodesic(p, q, torch.linspace(0.0, 1.0, STEPS, dtype=torch.float64))
    mn.plotting.spd_ellipses(covariances).savefig(path, dpi=120)


def draw_all(app=None):
    """Draw every picture into docs/_figures (a handler of Sphinx' builder-inited event)."""
    FOLDER.mkdir(exist_ok=True)
    for name, manifold in geometries().items():
        draw(manifold, FOLDER / f"{name}.png")
    figures_curvature.draw_all(FOLDER)
    figures_families.draw_all(FOLDER)
    figures_orthogonal.draw_all(FOLDER)
    figures_pages.draw_all(FOLDER)


if __name__ == "__main__":
    draw_all()
