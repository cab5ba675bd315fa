"""Figures without pyplot, and colours that everybody can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color universal design", without the yellow, which is too pale for white paper
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP<"
DASHES = ("-", "--", ":", "-.")
RIM = "0.55"  # the boundary of a space


def colour(k: int) -> str:
    """Return the k-th colour."""
    return PALETTE[k % len(PALETTE)]


def dashes(k: int) -> str:
    """Return the k-th line's style, another one each time the colours start anew."""
    return DASHES[k // len(PALETTE) % len(DASHES)]


def new_figure(width: float, height: float) -> Figure:
    """Return a figure outside pyplot, which keeps no global state and needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "manifoldnorm.plotting needs matplotlib, its extra 'plot': pip install 'manifoldnorm[plot]'."
        ) from error

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def canvas(ax: Any, width: float, height: float) -> Any:
    """Return the axes to draw on: those given, or new ones."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def row_of(axes: Any, count: int) -> list[Any]:
    """Return the axes given as a list, or raise if they are not as many as are needed."""
    found = list(axes.flat) if hasattr(axes, "flat") else list(axes)
    if len(found) != count:
        raise ValueError(f"ax must be {count} axes here, got {len(found)}.")
    return found
