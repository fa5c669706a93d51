"""`make bench`: prints the ratios; `--json` prints one document for a machine."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from bench import checks, crate, databases, door, observers, remote, servers, web
from bench.charts import chart
from bench.progress import Progress
from bench.results import Section, show

# Wide enough for the widest table, where there is no terminal to fit.
WIDTH = 110
TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "performance.md"
CHARTS = TOP / "docs" / "charts"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
SECTION = re.compile(r"<!-- section: (\w+) -->\n")
SECTIONS = {
    "checks": checks.measure,
    "observers": observers.measure,
    "crate": crate.measure,
    "layers": crate.layers,
    "shm": crate.share,
    "tokens": crate.tokens,
    "redis": remote.measure,
    "postgres": databases.measure,
    "django": door.measure,
    "web": web.measure,
    "servers": servers.measure,
}


def machine() -> dict[str, object]:
    """What these figures were measured on."""
    text = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def write(machine: str, found: Mapping[str, Section]) -> None:
    """Replace the figures and charts of these sections in the manual's page on performance."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    held, _, after = rest.partition(END)
    parts = SECTION.split(held)
    pages = dict(zip(parts[1::2], parts[2::2], strict=True))
    CHARTS.mkdir(exist_ok=True)
    for name, section in found.items():
        (CHARTS / f"{name}.svg").write_text(chart(section))
        pages[name] = f"{section.page(f'charts/{name}.svg')}\n{machine}\n\n"
    figures = [f"<!-- section: {name} -->\n{pages[name]}" for name in SECTIONS if name in pages]
    PAGE.write_text("".join([before, BEGIN, "\n", *figures, END, after]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument(
        "--only", choices=SECTIONS, action="append", help="a section; may be given several times"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"put what is measured into {PAGE.relative_to(TOP)}, with charts",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one is needed")
    told = machine()
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console = Console(stderr=options.json, width=WIDTH)
    sentence = (
        f"{told['cpu']}, {told['cores']} cores, Linux {told['kernel']}, "
        f"Python {told['python']}, load {told['load']:.1f}; "
        f"medians of {options.rounds} interleaved rounds"
    )
    console.print(sentence, highlight=False, soft_wrap=True)
    found: dict[str, Section] = {}
    failed: list[str] = []
    with Progress() as progress:
        for name, measure in SECTIONS.items():
            if options.only and name not in options.only:
                continue
            try:
                found[name] = measure(options.rounds, progress)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"bench: {name} could not be measured: {error}", file=sys.stderr)
                failed.append(name)
                continue
            show(found[name], console)
    if options.write:
        write(f"{sentence}.", found)
    if options.json:
        sections = {name: section.document() for name, section in found.items()}
        print(json.dumps({"machine": told, "rounds": options.rounds, "sections": sections}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
