"""Run the Python blocks of Markdown files: a page's ```python blocks share one namespace, top to bottom.

Usage: python docs/snippets.py FILE_OR_FOLDER ...
A block that needs data or hours is marked ```py: it is shown, not run.
"""

import re
import sys
import traceback
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages(arguments):
    """Every Markdown file among the arguments, folders searched, build output left out."""
    for argument in map(Path, arguments):
        found = sorted(argument.rglob("*.md")) if argument.is_dir() else [argument]
        yield from (page for page in found if "_build" not in page.parts)


def run(page):
    """Run one page's blocks; the number run. Line numbers in a traceback are the page's own."""
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "__snippets__"}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        padding = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(padding + block[1], str(page), "exec"), namespace)
    return len(blocks)


def main(arguments):
    """Run all pages; 1 if a block failed, and where."""
    failed = 0
    for page in pages(arguments):
        try:
            count = run(page)
        except Exception:  # noqa: BLE001 - every failure of a page is reported, then the next page runs
            traceback.print_exc()
            failed += 1
        else:
            if count:
                print(f"{page}: {count} blocks ran")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
