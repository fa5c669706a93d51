"""The measurements that are written in Rust: bench/rust, built into the same target folder."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from bench.results import Row, Section

TOP = Path(__file__).resolve().parent.parent
CHECKS = 1_000_000


@cache
def program(name: str) -> Path:
    """A binary of bench/rust, compiled when it is not there."""
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--bin", name],
        cwd=TOP / "bench" / "rust",
        env=os.environ | {"CARGO_TARGET_DIR": str(TOP / "target")},
        check=True,
    )
    return TOP / "target" / "release" / name


def measure(rounds: int) -> Section:
    section = Section("A keyed check from Rust, in memory", "ns")
    told = subprocess.run(
        [program("limiters"), str(rounds), str(CHECKS)], check=True, capture_output=True, text=True
    )
    for case, contenders in json.loads(told.stdout).items():
        section.rows += [Row(case, name, found) for name, found in contenders.items()]
    return section
