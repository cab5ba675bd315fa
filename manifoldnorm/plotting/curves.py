"""Pictures of training runs: curves over the epochs, and the results of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manifoldnorm.plotting._canvas import canvas, colour, dashes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    ylabel: str = "validation accuracy (%)",
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw one curve per name: the mean over its runs, with the range of the runs shaded.

    Parameters
    ----------
    curves : mapping of str to sequence of sequences of float
        Per name one sequence of values per run (seed), one value per epoch. Runs may differ in length, as early
        stopping makes them: a run that has ended keeps its last value.
    ylabel, title : str
        Labels.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    ValueError
        If there is no curve or a run has no epoch.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from manifoldnorm import plotting
    >>> figure = plotting.learning_curves({"no norm": [[60.0, 70.0], [62.0, 71.0, 72.0]]})
    >>> len(figure.axes[0].lines)
    1
    """
    _check("curves", curves)
    axes = canvas(ax, 7.0, 4.5)
    for k, (name, runs) in enumerate(curves.items()):
        longest = max(len(run) for run in runs)
        values = np.array([[*run, *[run[-1]] * (longest - len(run))] for run in runs], dtype=float)
        epochs = np.arange(1, longest + 1)
        axes.plot(epochs, values.mean(0), label=name, color=colour(k), linestyle=dashes(k))
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour(k), alpha=0.12, linewidth=0)
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return axes.figure


def accuracy_per_norm(
    accuracies: Mapping[str, Sequence[float]],
    *,
    xlabel: str = "test accuracy (%)",
    title: str = "",
    ax: Any = None,
) -> Figure:
    """Draw one row per name: every run (seed) as a dot, their mean as a bar with the standard deviation.

    Parameters
    ----------
    accuracies : mapping of str to sequence of float
        Accuracies of the runs per name.
    xlabel, title : str
        Labels.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no name or a name has no run.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from manifoldnorm import plotting
    >>> figure = plotting.accuracy_per_norm({"no norm": [70.0, 72.0], "Lie, log-Euclidean": [73.0, 74.0]})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['no norm', 'Lie, log-Euclidean']
    """
    _check("accuracies", accuracies)
    axes = canvas(ax, 8.0, 1.2 + 0.35 * len(accuracies))
    for row, runs in enumerate(accuracies.values()):
        spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0
        axes.errorbar(np.mean(runs), row, xerr=spread, fmt="|", color=colour(row), markersize=14, capsize=4)
        axes.plot(runs, [row] * len(runs), "o", color=colour(row), alpha=0.5, markersize=4)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set_ylim(len(accuracies) - 0.5, -0.5)
    axes.set(xlabel=xlabel, title=title)
    axes.grid(axis="x", alpha=0.3)
    return axes.figure


def _check(argument: str, values: Mapping[str, Sequence[object]]) -> None:
    if not values:
        raise ValueError(f"{argument} is empty: give at least one name with its runs.")
    for name, runs in values.items():
        if not runs or any(isinstance(run, Sequence) and not run for run in runs):
            raise ValueError(f"{argument}[{name!r}] has no run, or a run without values.")
