"""Draws the pictures of pages with several geometries: correlation matrices, kernel metrics, products."""

import math

import torch
from matplotlib.figure import Figure

import manifoldnorm as mn

F64 = torch.float64
TIMES = torch.linspace(0.0, 1.0, 60, dtype=F64)


def elliptope(plot):
    """Draw the boundary of the 3 x 3 correlation matrices: c23 = c12 c13 +- sqrt((1 - c12^2)(1 - c13^2))."""
    first = torch.linspace(0.0, math.pi, 40, dtype=F64)[:, None]
    second = torch.linspace(-math.pi, math.pi, 80, dtype=F64)[None, :]
    x, y = torch.broadcast_tensors(first.cos(), second.cos())
    surface = [part.numpy() for part in (x, y, (first + second).cos())]
    plot.plot_surface(*surface, color="tab:blue", alpha=0.12, linewidth=0, antialiased=True)


def correlation(path):
    """Geodesics of the five metrics between the same two matrices, from two sides."""
    metrics = {
        "Euclidean-Cholesky": mn.CorrelationEuclideanCholesky(3),
        "log-Euclidean-Cholesky": mn.CorrelationLogEuclideanCholesky(3),
        "off-log": mn.CorrelationOffLog(3),
        "log-scaling": mn.CorrelationLogScaling(3),
        "poly-hyperbolic": mn.CorrelationPolyHyperbolic(3),
    }
    p = torch.tensor([[1.0, 0.95, -0.8], [0.95, 1.0, -0.92], [-0.8, -0.92, 1.0]], dtype=F64)
    q = torch.tensor([[1.0, -0.9, -0.85], [-0.9, 1.0, 0.97], [-0.85, 0.97, 1.0]], dtype=F64)
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    for k, (height, side) in enumerate(((18, -70), (75, -60))):
        plot = figure.add_subplot(1, 2, k + 1, projection="3d")
        elliptope(plot)
        for name, metric in metrics.items():
            c = metric.geodesic(p, q, TIMES)
            plot.plot(c[:, 0, 1].numpy(), c[:, 0, 2].numpy(), c[:, 1, 2].numpy(), label=name, linewidth=1.6)
        plot.view_init(height, side)
        plot.set(xlabel="$c_{12}$", ylabel="$c_{13}$", zlabel="$c_{23}$")
        plot.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), zticks=(-1, 0, 1))
    figure.legend(*plot.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)


def kernel_metrics(path):
    """The area of the ellipse along the geodesics between two covariances."""
    metrics = {
        "Euclidean": mn.MixedPowerEuclidean(2, 1.0, 1.0),
        "mixed (1, 1/2)": mn.MixedPowerEuclidean(2, 1.0, 0.5),
        "Bures-Wasserstein": mn.BuresWasserstein(2),
        "mixed (1, -1/2)": mn.MixedPowerEuclidean(2, 1.0, -0.5),
        "affine-invariant": mn.MixedPowerEuclidean(2, 1.0, -1.0),
    }
    p = torch.tensor([[1.0, 0.4], [0.4, 0.25]], dtype=F64)
    q = torch.tensor([[0.4, -0.5], [-0.5, 1.2]], dtype=F64)
    times = torch.linspace(0.0, 1.0, 21, dtype=F64)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    plot = figure.subplots()
    with torch.no_grad():
        for name, metric in metrics.items():
            velocity = metric.log(p, q)
            points = metric.exp(p, times[:, None, None] * velocity)
            plot.plot(times.numpy(), torch.linalg.det(points).sqrt().numpy(), label=name)
    plot.set(xlabel="time along the geodesic", ylabel="square root of the determinant")
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def product(path):
    """A batch in both factors, before and after a norm layer: each factor has its own centre and its own scale."""
    ball, sphere = mn.PoincareBall(2), mn.ProjectedSphere(2)
    space = mn.Product(ball, sphere)
    generator = torch.Generator().manual_seed(0)
    centre = space.merge(torch.tensor([0.6, 0.4], dtype=F64), torch.tensor([-0.5, 0.5], dtype=F64))
    spread = space.random_tangent(centre.expand(200, -1), generator)
    wide, narrow = space.split(spread)
    x = space.exp(centre, space.merge(0.5 * wide, 0.15 * narrow))
    layer = mn.nn.GyroBatchNorm(space, dtype=F64)
    layer.scale = torch.tensor([0.8, 0.8], dtype=F64)
    figure = Figure(figsize=(7.2, 2.1), layout="constrained")
    panels = figure.subplots(1, 4)
    batches = [*space.split(x), *space.split(layer(x).detach())]
    titles = ("ball: input", "projected sphere: input", "ball: output", "projected sphere: output")
    angle = torch.linspace(0.0, 2 * math.pi, 100)
    for plot, points, title in zip(panels, batches, titles, strict=True):
        plot.plot(angle.cos().numpy(), angle.sin().numpy(), color="black", linewidth=0.8)
        plot.scatter(*points.T.numpy(), s=3, color="tab:blue" if "ball" in title else "tab:orange")
        plot.plot(0, 0, marker="+", color="black")
        plot.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
        plot.set_title(title, fontsize=8)
        plot.axis("off")
    figure.savefig(path, dpi=120)


def draw_all(folder):
    """Draw every picture into a folder."""
    correlation(folder / "correlation.png")
    kernel_metrics(folder / "kernel_metrics.png")
    product(folder / "product.png")
