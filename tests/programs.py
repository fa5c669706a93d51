"""The programs of the system that tests run. `scripts/wants.sh test` brings them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def program(name: str, package: str) -> str:
    """A program on the path, or where Debian keeps it.

    Raises RuntimeError with the line to install it when it is absent.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise RuntimeError(f"{name} is not installed: run `apt-get install -y {package}`")
    return found
