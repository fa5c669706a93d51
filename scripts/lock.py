"""Rewrite requirements/*.txt: every package that requirements/*.in leads to, exactly pinned.

All lists are resolved together first, so that one package never has two versions.
Names of lists as arguments resolve only those.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Resolved on its own, by a newer Python: `python3.12 scripts/lock.py peers`.
ALONE = {"peers"}
FOLDER = Path(__file__).resolve().parent.parent / "requirements"


def resolve(sources: list[Path], constraints: Path | None = None) -> dict[str, str]:
    """Ask pip what it would install for `sources`: name to version."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report)]
        for source in sources:
            command += ["--requirement", str(source)]
        if constraints is not None:
            command += ["--constraint", str(constraints)]
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    return {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in found}


def markers(source: Path) -> dict[str, str]:
    """Where a package is wanted at all, of those in a list that say so."""
    lines = (line.partition(";") for line in source.read_text().splitlines())
    return {name.strip(): marker.strip() for name, _, marker in lines if marker}


def pins(versions: dict[str, str], where: dict[str, str]) -> str:
    lines = (
        f"{name}=={version}" + (f"; {where[name]}" if name in where else "")
        for name, version in versions.items()
    )
    return "\n".join(sorted(lines, key=lambda line: re.sub(r"[-_.]+", "-", line.lower()))) + "\n"


def main() -> None:
    named = set(sys.argv[1:])
    sources = [
        source
        for source in sorted(FOLDER.glob("*.in"))
        if (source.stem in named if named else source.stem not in ALONE)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        together = Path(scratch) / "constraints.txt"
        together.write_text(pins(resolve(sources), {}))
        for source in sources:
            target = source.with_suffix(".txt")
            header = (
                f"# Written by scripts/lock.py from {source.name}: edit that, then `make lock`.\n"
            )
            found = resolve([source], together)
            target.write_text(header + pins(found, markers(source)))
            print(f"{target.relative_to(FOLDER.parent)}: {len(found)} packages")


if __name__ == "__main__":
    main()
