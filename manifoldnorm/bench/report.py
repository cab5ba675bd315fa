"""Tables in Markdown and a picture."""

from __future__ import annotations

from pathlib import Path

from manifoldnorm.bench.eigh import Row

COLOURS = {"float64": "tab:blue", "float32": "tab:orange", "complex128": "tab:green", "complex64": "tab:red"}


def rule(header: str) -> str:
    """Return the line below a table's header."""
    return "|" + "---|" * (header.count("|") - 1)


def picture(found: list[tuple[str, Row]], path: Path) -> str:
    """Draw how many times faster than torch we are, by size, batch and threads; return what was done."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed (pip install matplotlib)"
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (varied, label) in enumerate((("n", "size n"), ("batch", "batch B"), ("threads", "threads"))):
        axes, across = figure.add_subplot(1, 3, place + 1), []
        for dtype, colour in COLOURS.items():
            chosen = [row for kind, row in found if kind == varied and row.dtype == dtype]
            if chosen:
                across = [getattr(row, varied) for row in chosen]
                axes.plot(across, [row.ratio for row in chosen], "o-", color=colour, label=dtype)
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        axes.set(xlabel=label, xscale="log")
        axes.set_ylim(bottom=0)
        axes.set_xticks(across, [str(tick) for tick in across], rotation=45 if varied == "batch" else 0)
        axes.minorticks_off()
        if place == 0:
            axes.set_ylabel("times faster than torch.linalg.eigh")
            axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    return f"picture: {path}"
