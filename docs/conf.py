"""Sphinx configuration; `make docs` builds the site and treats every warning as an error."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import figures

project = "manifoldnorm"
author = "The manifoldnorm developers"
copyright = author
version = release = installed_version(project)

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "numpydoc", "myst_parser"]
exclude_patterns = ["_build"]
default_role = "py:obj"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
mathjax3_config = {
    "tex": {
        "macros": {
            "tr": r"\operatorname{tr}",
            "Exp": r"\operatorname{Exp}",
            "Log": r"\operatorname{Log}",
            "Chol": r"\operatorname{Chol}",
            "sym": r"\operatorname{sym}",
            "D": r"\mathbb{D}",
            "T": r"{\mathsf{T}}",
            "lower": [r"\lfloor #1 \rfloor", 1],
            "norm": [r"\left\lVert #1 \right\rVert", 1],
            "inner": [r"\left\langle #1, #2 \right\rangle", 2],
        }
    }
}

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"manifoldnorm {release}"

STARRED_SHAPE = re.compile(r"(?<=[(,\s])\*(?=\w+[,)])")


def escape_starred_shapes(app, what, name, obj, options, lines):
    """Keep the star of shapes like (*batch, n, n) from opening an emphasis; literals in backquotes need no help."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            pieces = line.split("``")
            pieces[::2] = [STARRED_SHAPE.sub(r"\\*", piece) for piece in pieces[::2]]
            lines[i] = "``".join(pieces)


def setup(app):
    """Draw the pictures first; register the docstring hook after numpydoc's own (priority 500)."""
    app.connect("builder-inited", figures.draw_all)
    app.connect("autodoc-process-docstring", escape_starred_shapes, priority=900)
