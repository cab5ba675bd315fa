"""Pictures of training runs; matplotlib (extra ``plot``) is imported inside the functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[float]]], *, ylabel: str = "validation accuracy (%)", title: str = ""
) -> Figure:
    """Draw one curve per name: the mean over its runs, with the range of the runs shaded.

    Parameters
    ----------
    curves : mapping of str to sequence of sequences of float
        Per name one sequence of values per run (seed), one value per epoch. Runs may differ in length, as early
        stopping makes them: a run that has ended keeps its last value.
    ylabel, title : str
        Labels.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    ValueError
        If there is no curve or a run has no epoch.
    ModuleNotFoundError
        If matplotlib is not installed.

    Examples
    --------
    >>> from manifoldnorm import plotting
    >>> figure = plotting.learning_curves({"no norm": [[60.0, 70.0], [62.0, 71.0, 72.0]]})
    >>> len(figure.axes[0].lines)
    1
    """
    _check("curves", curves)
    figure = _figure(7.0, 4.5)
    axes = figure.add_subplot()
    for name, runs in curves.items():
        longest = max(len(run) for run in runs)
        values = np.array([[*run, *[run[-1]] * (longest - len(run))] for run in runs], dtype=float)
        epochs = np.arange(1, longest + 1)
        (line,) = axes.plot(epochs, values.mean(0), label=name)
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def accuracy_per_norm(
    accuracies: Mapping[str, Sequence[float]], *, xlabel: str = "test accuracy (%)", title: str = ""
) -> Figure:
    """Draw one row per name: every run (seed) as a dot, their mean as a bar with the standard deviation.

    Parameters
    ----------
    accuracies : mapping of str to sequence of float
        Accuracies of the runs per name.
    xlabel, title : str
        Labels.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no name or a name has no run.
    ModuleNotFoundError
        If matplotlib is not installed.

    Examples
    --------
    >>> from manifoldnorm import plotting
    >>> figure = plotting.accuracy_per_norm({"no norm": [70.0, 72.0], "Lie, log-Euclidean": [73.0, 74.0]})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['no norm', 'Lie, log-Euclidean']
    """
    _check("accuracies", accuracies)
    figure = _figure(8.0, 1.2 + 0.35 * len(accuracies))
    axes = figure.add_subplot()
    for row, runs in enumerate(accuracies.values()):
        spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0
        bar = axes.errorbar(np.mean(runs), row, xerr=spread, fmt="|", markersize=14, capsize=4)
        axes.plot(runs, [row] * len(runs), "o", color=bar[0].get_color(), alpha=0.5, markersize=4)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _check(argument: str, values: Mapping[str, Sequence[object]]) -> None:
    if not values:
        raise ValueError(f"{argument} is empty: give at least one name with its runs.")
    for name, runs in values.items():
        if not runs or any(isinstance(run, Sequence) and not run for run in runs):
            raise ValueError(f"{argument}[{name!r}] has no run, or a run without values.")


def _figure(width: float, height: float) -> Figure:
    """Return a figure outside pyplot, which keeps no global state and needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)
