"""Pictures: what the artists hold is what the geometry says, and nothing outside of the figure changes."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm import plotting

F64 = torch.float64
EDGES = [(0, 1), (1, 2), (3, 0)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def lines(figure: Figure, panel: int = 0) -> list[Any]:
    return [line for line in figure.axes[panel].lines if line.get_linestyle() != "None"]


def dots(figure: Figure, panel: int = 0) -> list[Any]:
    """Return the artists of points, marks left out."""
    found = [line for line in figure.axes[panel].lines if line.get_linestyle() == "None"]
    return [line for line in found if line.get_marker() not in ("*", "+", "X")]


def marked(figure: Figure, panel: int, name: str) -> Any:
    (line,) = [line for line in figure.axes[panel].lines if line.get_label() == name]
    return line.get_xydata()[0]


def ball_distance(p: Any, q: Any, k: float) -> Any:
    ratio = 2 * k * ((p - q) ** 2).sum(-1) / ((1 - k * (p**2).sum(-1)) * (1 - k * (q**2).sum(-1)))
    return np.arccosh(1 + ratio) / np.sqrt(k)


def spd(n: int = 5) -> Tensor:
    return mn.AffineInvariant(2).random_point(n, generator=generator(), dtype=F64)


def frame(view: tuple[float, float]) -> Any:
    """Return the screen's directions (right, up, towards the viewer), as rotations of the axes."""
    up, around = np.radians(view)
    turn = np.array([[np.cos(around), -np.sin(around), 0], [np.sin(around), np.cos(around), 0], [0, 0, 1]])
    tilt = np.array([[np.cos(up), 0, -np.sin(up)], [0, 1, 0], [np.sin(up), 0, np.cos(up)]])
    towards, right, above = (turn @ tilt).T
    return np.stack([right, above, towards])


# ---- the disc


@pytest.mark.parametrize("curvature", [-1.0, -0.25, -4.0])
@pytest.mark.parametrize("model", ["PoincareBall", "Lorentz", "Klein"])
def test_the_disc_holds_isometric_points_and_geodesics(model: str, curvature: float) -> None:
    manifold = getattr(mn, model)(2, curvature)
    points = manifold.random_point(4, generator=generator(), dtype=F64)
    figure = plotting.poincare_disc(points, manifold=manifold, geodesics=EDGES)
    (circle,) = figure.axes[0].patches
    assert circle.radius == pytest.approx((-curvature) ** -0.5)
    assert figure.axes[0].get_aspect() == 1.0
    (shown,) = [line.get_xydata() for line in dots(figure)]
    distances = manifold.dist(points[:, None], points).numpy()
    np.testing.assert_allclose(ball_distance(shown[:, None], shown, -curvature), distances, rtol=1e-9, atol=1e-7)
    assert len(lines(figure)) == len(EDGES)
    for arc, (start, end) in zip(lines(figure), EDGES, strict=True):
        path = arc.get_xydata()
        np.testing.assert_allclose(path[[0, -1]], shown[[start, end]], atol=1e-12)
        legs = ball_distance(shown[start], path, -curvature), ball_distance(path, shown[end], -curvature)
        np.testing.assert_allclose(sum(legs), distances[start, end], rtol=1e-7)


def test_groups_marks_and_labels_of_the_disc() -> None:
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.001], [-0.3, 0.4]])
    mean = torch.tensor([0.1, 0.2])
    names = ["root", "kept", "too near", "far"]
    figure = plotting.poincare_disc(points, groups=["b", "a", "a", "b"], marks={"mean": mean}, labels=names)
    first, second = dots(figure)
    assert (first.get_label(), second.get_label()) == ("a", "b")
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    np.testing.assert_allclose(first.get_xydata(), points[[1, 2]])
    np.testing.assert_allclose(marked(figure, 0, "mean"), mean, rtol=1e-6)
    assert [text.get_text() for text in figure.axes[0].texts] == ["root", "kept", "far"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b", "mean"]


# ---- the cone and ellipses


def coordinates(x: Any) -> Any:
    return np.stack([(x[..., 0, 0] - x[..., 1, 1]) / 2, x[..., 0, 1], (x[..., 0, 0] + x[..., 1, 1]) / 2], -1)


def test_the_cone_holds_affine_invariant_geodesics() -> None:
    points, view = spd(4), (30.0, 20.0)
    plain = len(plotting.spd_cone(points).axes[0].lines)
    figure = plotting.spd_cone(points, geodesics=EDGES, view=view)
    (shown,) = dots(figure)
    np.testing.assert_allclose(shown.get_xydata(), (coordinates(points.numpy()) @ frame(view).T)[:, :2], atol=1e-12)
    assert len(figure.axes[0].lines) == plain + len(EDGES)
    arcs = [line for line in lines(figure) if len(line.get_xdata()) > 2]
    for arc, (start, end) in zip(arcs, EDGES, strict=True):
        p, q = points[start].numpy(), points[end].numpy()
        w, u = np.linalg.eigh(p)
        root, inverse = (u * w**0.5) @ u.T, (u * w**-0.5) @ u.T
        values, vectors = np.linalg.eigh(inverse @ q @ inverse)
        path = [root @ (vectors * values**t) @ vectors.T @ root for t in np.linspace(0, 1, len(arc.get_xdata()))]
        np.testing.assert_allclose(arc.get_xydata(), (coordinates(np.stack(path)) @ frame(view).T)[:, :2], atol=1e-10)


@pytest.mark.parametrize("elevation", [0.0, 18.0, 44.0, 60.0, 90.0, -20.0])
def test_all_points_lie_in_the_drawn_cone_and_within_the_limits(elevation: float) -> None:
    points = spd(200)
    axes = plotting.spd_cone(points, view=(elevation, 10.0)).axes[0]
    shown = axes.lines[-1].get_xydata()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert np.all((shown > [left, low]) & (shown < [right, high]))
    outline = [patch.get_path() for patch in axes.patches]
    inside = np.stack(
        [path.contains_points(shown, radius=1e-9) | path.contains_points(shown, radius=-1e-9) for path in outline]
    )
    assert inside.any(0).all()
    for path in outline:
        assert np.all((path.vertices >= [left, low]) & (path.vertices <= [right, high]))


def test_several_metrics_have_a_colour_each() -> None:
    metrics = {"AI": mn.AffineInvariant(2), "BW": mn.BuresWasserstein(2)}
    figure = plotting.spd_cone(spd(4), geodesics=EDGES, manifold=metrics)
    named = {line.get_label(): line.get_color() for line in lines(figure) if line.get_label() in metrics}
    assert len(set(named.values())) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["AI", "BW"]


def test_ellipses_are_the_eigendecomposition() -> None:
    matrices = spd(6)
    centres = torch.arange(12.0).reshape(6, 2)
    figure = plotting.spd_ellipses(matrices, centres=centres)
    axes = figure.axes[0]
    assert axes.get_aspect() == 1.0
    for patch, matrix, centre in zip(axes.patches, matrices.numpy(), centres.numpy(), strict=True):
        values, vectors = np.linalg.eigh(matrix)
        assert sorted([patch.width, patch.height]) == pytest.approx(2 * np.sqrt(values))
        boundary = patch.get_patch_transform().transform(mpl.path.Path.unit_circle().vertices[::3]) - centre
        np.testing.assert_allclose(np.einsum("ni,ij,nj->n", boundary, np.linalg.inv(matrix), boundary), 1.0, rtol=1e-9)
        along = np.array([np.cos(np.radians(patch.angle)), np.sin(np.radians(patch.angle))])
        assert abs(along @ vectors[:, np.argmax(values)]) == pytest.approx(1.0)
        box = np.sqrt(np.diag(matrix))
        assert axes.get_xlim()[0] < centre[0] - box[0]
        assert axes.get_ylim()[1] > centre[1] + box[1]


def test_a_row_of_ellipses_does_not_overlap_and_darkens() -> None:
    axes = plotting.spd_ellipses(spd(5)).axes[0]
    centres = [patch.center[0] for patch in axes.patches]
    widths = np.sqrt(spd(5)[:, 0, 0].numpy())
    assert np.all(np.diff(centres) > widths[1:] + widths[:-1])
    assert np.all(np.diff([patch.get_facecolor()[3] for patch in axes.patches]) > 0)


def test_ellipses_in_groups_have_one_legend_entry_each() -> None:
    figure = plotting.spd_ellipses(spd(4), groups=[1, 0, 1, 0], centres=torch.zeros(4, 2))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["0", "1"]


# ---- the sphere


@pytest.mark.parametrize("curvature", [1.0, 0.25])
@pytest.mark.parametrize("projected", [False, True])
def test_the_sphere_is_seen_from_the_side(projected: bool, curvature: float) -> None:
    sphere, view = mn.Sphere(2, curvature), (40.0, -25.0)
    points = sphere.random_point(4, generator=generator(), dtype=F64)
    manifold = mn.ProjectedSphere(2, curvature) if projected else sphere
    given = sphere.to_projected(points) if projected else points
    figure = plotting.sphere(given, manifold=manifold, geodesics=EDGES, view=view)
    turned = points.numpy() @ frame(view).T
    far, near = (line.get_xydata() for line in dots(figure))
    np.testing.assert_allclose(near, turned[turned[:, 2] >= 0, :2], atol=1e-9)
    np.testing.assert_allclose(far, turned[turned[:, 2] < 0, :2], atol=1e-9)
    radius = curvature**-0.5
    arcs = [line for line in lines(figure) if len(line.get_xdata()) == 65]
    for k, (start, end) in enumerate(EDGES):
        p, q = points[start].numpy() / radius, points[end].numpy() / radius
        angle = np.arccos(p @ q)
        t = np.linspace(0, 1, 65)[:, None]
        path = radius * (np.sin((1 - t) * angle) * p + np.sin(t * angle) * q) / np.sin(angle) @ frame(view).T
        front, back = arcs[k].get_xydata(), arcs[k + len(EDGES)].get_xydata()
        np.testing.assert_allclose(np.where(np.isnan(front), back, front), path[:, :2], atol=1e-8)
        clear = abs(path[:, 2]) > 1e-6
        assert np.array_equal(np.isnan(front[clear, 0]), path[clear, 2] < 0)


def test_what_is_behind_is_pale() -> None:
    points = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    figure = plotting.sphere(points, marks={"here": points[0], "there": points[1]}, view=(0.0, 0.0))
    far, near = dots(figure)
    assert far.get_alpha() < near.get_alpha()
    here, there = (line for line in figure.axes[0].lines if line.get_label() in ("here", "there"))
    assert there.get_alpha() < here.get_alpha()


# ---- before and after a norm


@pytest.mark.parametrize(
    "manifold", [mn.PoincareBall(2, -0.5), mn.Lorentz(2), mn.Klein(2), mn.Sphere(2), mn.ProjectedSphere(2)]
)
def test_the_mean_moves_to_the_origin(manifold: Any) -> None:
    x = manifold.random_point(30, generator=generator(), dtype=F64)
    layer = mn.nn.GyroBatchNorm(manifold, dtype=F64)
    before = copy.deepcopy(layer.state_dict())
    figure = plotting.before_and_after(layer, x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert [axes.get_title() for axes in figure.axes] == ["before", "after GyroBatchNorm"]
    np.testing.assert_allclose(marked(figure, 1, "mean"), marked(figure, 1, "origin"), atol=1e-6)
    assert np.linalg.norm(marked(figure, 0, "mean") - marked(figure, 0, "origin")) > 1e-2
    direct = plotting.sphere if isinstance(manifold, mn.Sphere | mn.ProjectedSphere) else plotting.poincare_disc
    expected = dots(direct(layer(x).detach(), manifold=manifold))
    for found, wanted in zip(dots(figure, 1), expected, strict=True):
        np.testing.assert_allclose(found.get_xydata(), wanted.get_xydata(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_matrices_before_and_after_have_one_scale(dtype: torch.dtype) -> None:
    x = (5 * spd(30)).to(dtype)
    layer = mn.nn.LieBatchNorm(mn.LogEuclidean(2), dtype=dtype)
    figure = plotting.before_and_after(layer, x.requires_grad_())
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    np.testing.assert_allclose(marked(figure, 1, "mean"), marked(figure, 1, "origin"), atol=1e-5)


def test_domains_and_learnable_geometries() -> None:
    disc = mn.PoincareBall(2)
    x, domain = disc.random_point(20, generator=generator()), torch.arange(20) % 2
    layer = mn.nn.DomainBatchNorm(mn.nn.GyroBatchNorm(mn.nn.LearnableManifold(disc, learn=("curvature",))), 2)
    figure = plotting.before_and_after(layer, x, domain, groups=domain)
    assert [line.get_label() for line in dots(figure, 1)] == ["0", "1"]
    y = layer(x, domain).detach()
    np.testing.assert_allclose(dots(figure, 1)[1].get_xydata(), y[1::2], atol=1e-6)


# ---- statistics during training


def test_the_picture_of_a_history() -> None:
    layer, wide = mn.nn.LieBatchNorm(mn.LogEuclidean(2)), mn.nn.LieBatchNorm(mn.LogEuclidean(2), channels=3)
    idle = mn.nn.LieBatchNorm(mn.LogEuclidean(2))
    with mn.nn.watch_statistics(torch.nn.ModuleDict({"one": layer, "three": wide, "idle": idle})) as watch:
        for _ in range(4):
            layer(mn.LogEuclidean(2).random_point(9))
            wide(mn.LogEuclidean(2).random_point(9, 3))
    history = watch.history()
    figure = plotting.statistics(history, title="two norms")
    assert len(figure.axes) == 4
    (distance,) = figure.axes[0].lines
    np.testing.assert_allclose(distance.get_ydata(), history["one"].distance, rtol=1e-6)
    batch, running = figure.axes[3].lines
    np.testing.assert_allclose(batch.get_ydata(), history["three"].variance.mean(1), rtol=1e-6)
    np.testing.assert_allclose(running.get_ydata(), history["three"].running_variance.mean(1), rtol=1e-6)
    (band,) = figure.axes[2].collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(float(history["three"].distance.max()))
    assert edges.min() == pytest.approx(float(history["three"].distance.min()))


def test_gaps_in_a_history_are_gaps_in_the_picture() -> None:
    layer = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(2)), 2)
    x = mn.LogEuclidean(2).random_point(9)
    with mn.nn.watch_statistics(layer) as watch:
        layer(x, torch.zeros(9, dtype=torch.long))
        layer(torch.full_like(x, torch.nan), torch.zeros(9, dtype=torch.long))
        layer(x, torch.ones(9, dtype=torch.long))
    figure = plotting.statistics(watch.history())
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


# ---- curves


def test_curves_keep_the_last_value_of_a_run_that_ended() -> None:
    figure = plotting.learning_curves({"a": [[1.0, 2.0], [3.0, 4.0, 6.0]]}, ylabel="loss")
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
    assert figure.axes[0].get_ylabel() == "loss"


def test_many_curves_can_be_told_apart() -> None:
    figure = plotting.learning_curves({str(k): [[1.0, k]] for k in range(20)})
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 20


# ---- for every function

DRAW: dict[str, Callable[..., Figure]] = {
    "learning_curves": lambda **k: plotting.learning_curves({"a": [[1.0, 2.0]]}, **k),
    "accuracy_per_norm": lambda **k: plotting.accuracy_per_norm({"a": [1.0, 2.0]}, **k),
    "poincare_disc": lambda **k: plotting.poincare_disc(torch.zeros(1, 2), **k),
    "sphere": lambda **k: plotting.sphere(torch.eye(3), **k),
    "spd_cone": lambda **k: plotting.spd_cone(torch.eye(2)[None], **k),
    "spd_ellipses": lambda **k: plotting.spd_ellipses(torch.eye(2)[None], **k),
}


def test_the_list_of_pictures_is_complete() -> None:
    assert set(DRAW) | {"before_and_after", "statistics"} == set(plotting.__all__)


@pytest.mark.parametrize("name", DRAW)
def test_axes_that_are_given_are_drawn_on(name: str, tmp_path: Any) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert DRAW[name](ax=right, title="here") is figure
    assert right.get_title() == "here"
    assert right.has_data()
    assert not left.has_data()
    figure.savefig(tmp_path / "picture.png")


def test_pictures_of_several_panels_take_several_axes() -> None:
    layer, x = mn.nn.GyroBatchNorm(mn.PoincareBall(2)), mn.PoincareBall(2).random_point(6)
    with mn.nn.watch_statistics(layer) as watch:
        layer(x)
    panels = Figure().subplots(1, 2)
    assert plotting.before_and_after(layer, x, ax=panels) is panels[0].figure
    assert plotting.statistics(watch.history(), ax=Figure().subplots(1, 2)).axes[0].lines
    with pytest.raises(ValueError, match="ax must be 2 axes here, got 3"):
        plotting.before_and_after(layer, x, ax=Figure().subplots(1, 3))


def test_nothing_outside_of_the_figure_changes() -> None:
    settings = dict(mpl.rcParams)
    for draw in DRAW.values():
        draw()
    assert dict(mpl.rcParams) == settings


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_matplotlib_is_imported_when_something_is_drawn_and_pyplot_never() -> None:
    code = (
        "import sys, torch, manifoldnorm as mn\n"
        "mn.plotting.poincare_disc\n"
        "print('matplotlib' in sys.modules)\n"
        "mn.plotting.spd_ellipses(torch.eye(2)[None])\n"
        "mn.plotting.before_and_after(mn.nn.GyroBatchNorm(mn.Sphere(2)), torch.eye(3))\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    assert _run(code).split() == ["False", "True", "False"]


def test_a_missing_matplotlib_names_the_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import torch, manifoldnorm as mn\n"
        "try:\n"
        "    mn.plotting.sphere(torch.eye(3))\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert "manifoldnorm[plot]" in _run(code)


# ---- what is refused

EYE, COMPLEX = torch.eye(2)[None], torch.eye(2, dtype=torch.complex64)[None]
POINTS = torch.zeros(3, 2)
SINGULAR = torch.diag(torch.tensor([1.0, 0.0]))[None]
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: plotting.poincare_disc(POINTS, manifold=mn.PoincareBall(3)), ValueError, r"must be PoincareBall\(2\)"),
    (lambda: plotting.poincare_disc(POINTS, manifold=mn.ProjectedSphere(2)), ValueError, r"must be PoincareBall\(2\)"),
    (lambda: plotting.poincare_disc(torch.zeros(4, 3)), ValueError, r"expected .*\(4, 3\)"),
    (lambda: plotting.poincare_disc(torch.zeros(2)), ValueError, r"one point as x\[None\]"),
    (lambda: plotting.poincare_disc(torch.zeros(0, 2)), ValueError, "there are no points"),
    (lambda: plotting.poincare_disc(POINTS / 0), ValueError, "sample 0 has a NaN"),
    (lambda: plotting.poincare_disc(POINTS + 1), ValueError, "sample 0 is not on the manifold"),
    (lambda: plotting.sphere(2 * torch.eye(3)), ValueError, "sample 0 is not on the manifold"),
    (lambda: plotting.poincare_disc([[0.0, 0.0]]), TypeError, "points must be a tensor"),  # type: ignore[arg-type]
    (lambda: plotting.poincare_disc(POINTS, geodesics=[(0, 3)]), ValueError, "between 0 and 2"),
    (lambda: plotting.poincare_disc(POINTS, geodesics=[(-1, 0)]), ValueError, "between 0 and 2"),
    (lambda: plotting.poincare_disc(POINTS, geodesics=torch.zeros(3, 2)), ValueError, "pairs"),
    (lambda: plotting.poincare_disc(POINTS, groups=[1]), ValueError, "3 points, got 1"),
    (lambda: plotting.poincare_disc(POINTS, labels={7: "x"}), ValueError, "no point 7"),
    (lambda: plotting.sphere(torch.eye(3), manifold=mn.Sphere(3)), ValueError, r"must be Sphere\(2\)"),
    (lambda: plotting.sphere(POINTS), ValueError, "d \\+ 1 coordinates"),
    (lambda: plotting.spd_cone(torch.eye(3)[None]), ValueError, r"expected shape \(\.\.\., 2, 2\)"),
    (lambda: plotting.spd_cone(COMPLEX), TypeError, "complex"),
    (lambda: plotting.spd_cone(-EYE), ValueError, "not positive definite"),
    (lambda: plotting.spd_cone(EYE, manifold=mn.AffineInvariant(3)), ValueError, "metrics of real 2 x 2"),
    (lambda: plotting.spd_cone(EYE, manifold=mn.LogEuclidean(2, field="complex")), ValueError, "real 2 x 2"),
    (lambda: plotting.spd_cone(EYE, manifold=mn.Rotations(2)), ValueError, "metrics of real 2 x 2"),
    (lambda: plotting.spd_ellipses(torch.eye(3)[None]), ValueError, r"expected shape \(\.\.\., 2, 2\)"),
    (lambda: plotting.spd_ellipses(COMPLEX), TypeError, "complex"),
    (lambda: plotting.spd_ellipses(SINGULAR), ValueError, "singular"),
    (lambda: plotting.spd_ellipses(EYE, centres=[(0, 0), (1, 1)]), ValueError, r"centres must be \(1, 2\)"),
    (lambda: plotting.before_and_after(torch.nn.ReLU(), EYE), TypeError, "norm layer of this package, got ReLU"),
    (lambda: plotting.before_and_after(mn.nn.LieBatchNorm(mn.LogEuclidean(3)), EYE), ValueError, "no picture of LogE"),
    (
        lambda: plotting.before_and_after(mn.nn.GyroBatchNorm(mn.PoincareBall(2), channels=2), torch.zeros(3, 2, 2)),
        ValueError,
        "one channel at a time",
    ),
    (lambda: plotting.statistics({}), ValueError, "no batch has been recorded"),
    (lambda: plotting.learning_curves({}), ValueError, "curves is empty"),
    (lambda: plotting.learning_curves({"a": [[]]}), ValueError, "without values"),
    (lambda: plotting.accuracy_per_norm({"a": []}), ValueError, "no run"),
]


@pytest.mark.parametrize(("draw", "kind", "message"), REFUSED)
def test_refused(draw: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        draw()
