"""Draws the pictures of a page by the page's own code: the figure that a block makes is the picture below it."""

import re
from pathlib import Path

from snippets import BLOCK

PAGES = ("pictures.md",)
PICTURE = re.compile(r"\s*!\[[^\]]*\]\(_figures/([\w.]+)\)")


def draw_all(folder):
    """Draw every picture into a folder."""
    for page in PAGES:
        text = (Path(__file__).parent / page).read_text(encoding="utf-8")
        namespace = {"__name__": "__figures__"}
        for block in BLOCK.finditer(text):
            exec(compile(block[1], page, "exec"), namespace)
            picture = PICTURE.match(text, block.end())
            if picture:
                namespace["figure"].savefig(folder / picture[1])
