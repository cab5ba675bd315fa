"""What a norm does: to a batch, and what its statistics do during training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.nn import StatisticsHistory
from manifoldnorm.plotting import _points
from manifoldnorm.plotting._canvas import colour, new_figure, row_of
from manifoldnorm.plotting.cone import is_cone, spd_cone
from manifoldnorm.plotting.disc import is_plane, poincare_disc
from manifoldnorm.plotting.globe import is_sphere, sphere

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURES: tuple[tuple[Callable[[Manifold], bool], Callable[..., Figure]], ...] = (
    (is_plane, poincare_disc),
    (is_sphere, sphere),
    (is_cone, spd_cone),
)


@torch.no_grad()
def before_and_after(norm: nn.Module, x: Tensor, *inputs: Any, ax: Any = None, **options: Any) -> Figure:
    """Draw a batch before and after a norm, each with its Frechet mean and the origin.

    The picture is that of the norm's geometry: `poincare_disc`, `sphere` or `spd_cone`. A copy of the norm is run, in
    training or evaluation as the norm is; the norm stays as it is.

    Parameters
    ----------
    norm : Module
        A norm on a hyperbolic plane, a two-dimensional sphere or positive-definite 2 x 2 matrices.
    x : Tensor
        Points (N, *point_shape).
    *inputs
        What else its ``forward`` takes, such as domains.
    ax : sequence of two Axes, optional
        Where to draw.
    **options
        Of the picture: ``groups``, ``geodesics``, ``labels``, ``view``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If ``norm`` has no geometry.
    ValueError
        If there is no picture of that geometry.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> disc = mn.PoincareBall(2)
    >>> x = disc.random_point(20, generator=torch.Generator().manual_seed(0))
    >>> figure = mn.plotting.before_and_after(mn.nn.GyroBatchNorm(disc), x)
    >>> [axes.get_title() for axes in figure.axes]
    ['before', 'after GyroBatchNorm']
    """
    norm = copy.deepcopy(norm).cpu()
    manifold: Any = getattr(norm, "manifold", None)
    if not isinstance(manifold, Manifold):
        raise TypeError(f"before_and_after: norm must be a norm layer of this package, got {type(norm).__name__}.")
    picture = _picture(manifold)
    x = _points.checked(manifold, x, "before_and_after").to(x.dtype)
    y = norm(x, *(value.cpu() if isinstance(value, Tensor) else value for value in inputs))
    if picture is spd_cone:  # one scale for both
        options.setdefault("height", 0.55 * float(torch.cat([x, y]).diagonal(dim1=-2, dim2=-1).sum(-1).max()))
    panels = list(new_figure(9.0, 3.6 if picture is spd_cone else 5.2).subplots(1, 2)) if ax is None else row_of(ax, 2)
    after = f"after {type(getattr(norm, 'norm', norm)).__name__}"
    for batch, title, panel in zip((x, y), ("before", after), panels, strict=True):
        marks = {"mean": manifold.frechet_mean(batch.double()), "origin": manifold.origin(dtype=torch.float64)}
        figure = picture(batch, manifold=manifold, marks=marks, title=title, ax=panel, **options)
    return figure


def _picture(manifold: Manifold) -> Callable[..., Figure]:
    for fits, picture in _PICTURES:
        if fits(manifold):
            return picture
    raise ValueError(
        f"before_and_after: no picture of {manifold}. There is one of hyperbolic planes, of spheres of dimension 2 and "
        f"of real positive-definite 2 x 2 matrices."
    )


def statistics(history: Mapping[str, StatisticsHistory], *, title: str = "", ax: Any = None) -> Figure:
    """Draw the statistics of norms during training: one row for each layer.

    On the left the distance of the batch mean from the running mean, on the right the variance of the batches and the
    running one. Where a layer has several statistics (channels, domains, factors) the line is their mean, and their
    range is shaded.

    Parameters
    ----------
    history : mapping of str to StatisticsHistory
        From ``manifoldnorm.nn.watch_statistics(model).history()``. Layers without a batch are left out.
    title : str
        Above the picture.
    ax : sequence of Axes, optional
        Two for each layer that is drawn.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no batch has been recorded.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.LieBatchNorm(mn.LogEuclidean(2))
    >>> with mn.nn.watch_statistics(layer) as watch:
    ...     for _ in range(5):
    ...         _ = layer(mn.LogEuclidean(2).random_point(20))
    >>> figure = mn.plotting.statistics(watch.history())
    >>> [len(axes.lines) for axes in figure.axes]
    [1, 2]
    """
    layers = {name: seen for name, seen in history.items() if len(seen.step)}
    if not layers:
        raise ValueError(
            "statistics: no batch has been recorded. A forward pass is, where the norm is in training, not frozen, and "
            "runs uncompiled."
        )
    if ax is None:
        figure = new_figure(9.0, 0.8 + 1.6 * len(layers))
        ax = figure.subplots(len(layers), 2, sharex="col", squeeze=False)
        if title:
            figure.suptitle(title)
    panels = row_of(ax, 2 * len(layers))
    for row, (name, seen) in enumerate(layers.items()):
        left, right = panels[2 * row : 2 * row + 2]
        _line(left, seen.step, seen.distance, 0, None)
        _line(right, seen.step, seen.variance, 1, "batch")
        _line(right, seen.step, seen.running_variance, 0, "running")
        left.set_title(name, loc="left", fontsize=10)
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("distance of the means", fontsize=10, loc="right")
    panels[1].set_title("variance", fontsize=10, loc="right")
    panels[1].legend(fontsize=8, frameon=False)
    for axes in panels[-2:]:
        axes.set_xlabel("training batch")
    return panels[0].figure


def _line(axes: Any, step: Tensor, values: Tensor, style: int, label: str | None) -> None:
    """Draw one statistic over the batches: the mean over all groups, and their range."""
    values = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    look = {"color": colour(style), "linewidth": 1.6 if style == 0 else 1.0}
    axes.plot(step.numpy(), values.nanmean(1).numpy(), label=label, **look)
    if values.shape[1] > 1:
        low, high = values.nan_to_num(torch.inf).amin(1), values.nan_to_num(-torch.inf).amax(1)
        some = (low <= high).numpy()
        axes.fill_between(
            step.numpy(), low.numpy(), high.numpy(), where=some, color=colour(style), alpha=0.15, linewidth=0
        )
