"""Files of the geomstats distribution, found without importing the package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

_REMEDY = "Install it with `pip install geomstats --no-deps` or `pip install 'manifoldnorm[demo]'`."


def find_file(name: str, what: str) -> Path:
    """Return the path of a file inside the installed distribution; ``what`` is in it, for the message."""
    try:
        files = importlib.metadata.files("geomstats") or []
    except importlib.metadata.PackageNotFoundError as error:
        message = f"{what} a file of the geomstats distribution, which is not installed. {_REMEDY}"
        raise ModuleNotFoundError(message, name="geomstats") from error
    found = [Path(str(file.locate())) for file in files if file.name == name]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"the installed geomstats distribution has no file {name}. {_REMEDY}")
    return found[0]
