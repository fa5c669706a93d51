"""Run every test and close with how many there were: what `make test` does after the build.

`--rust` or `--python` runs one half. What follows `--` goes to pytest.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# The native module links against the interpreter that loads it: its tests are Python's.
WORKSPACE = ("--workspace", "--exclude", "tollway-python", "--all-features", "--locked")


@dataclass(frozen=True)
class Tally:
    """What one runner said of itself in its closing lines."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def number(pattern: str, text: str) -> int:
    """The sum of the first groups of `pattern` in `text`."""
    return sum(int(found) for found in re.findall(pattern, text))


def cargo_tally(text: str) -> Tally:
    closing = "\n".join(re.findall(r"^test result: .*$", text, re.MULTILINE))
    return Tally(
        number(r"(\d+) passed", closing),
        number(r"(\d+) failed", closing),
        number(r"(\d+) ignored", closing),
    )


def nextest_tally(text: str) -> Tally:
    closing = "\n".join(re.findall(r"^\s*Summary .*$", text, re.MULTILINE))
    return Tally(
        number(r"(\d+) passed", closing),
        number(r"(\d+) (?:failed|timed out)", closing),
        number(r"(\d+) skipped", closing),
    )


def pytest_tally(text: str) -> Tally:
    closing = next(
        (line for line in reversed(text.splitlines()) if re.search(r"\d+ .* in [\d.]+s", line)), ""
    )
    return Tally(
        number(r"(\d+) passed", closing),
        number(r"(\d+) (?:failed|error)", closing),
        number(r"(\d+) (?:skipped|xfailed)", closing),
    )


def redis_servers() -> str:
    """The servers beside `redis-server` that the Rust tests run on; ends when one is missing."""
    command = [sys.executable, "-m", "tests.editions"]
    told = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, text=True)
    if told.returncode != 0:
        sys.exit(told.returncode)
    return told.stdout.strip()


def run(title: str, command: Sequence[str], tally: Callable[[str], Tally]) -> Tally:
    """Run `command`, passing its output on as it comes; a bad exit counts as a failure."""
    print(f"\n=== {title}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    kept: list[str] = []
    with subprocess.Popen(
        command,
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            kept.append(re.sub(r"\x1b\[[0-9;]*m", "", line))
    result = tally("".join(kept))
    if child.returncode != 0 and result.failed == 0:
        result += Tally(failed=1)
    print(f"=== {title}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
    return result


def rust() -> Tally:
    os.environ.setdefault("TOLLWAY_REDIS_SERVERS", redis_servers())
    if shutil.which("cargo-nextest"):
        units = run(
            "Rust tests",
            ["cargo", "nextest", "run", *WORKSPACE, "--no-fail-fast", "--status-level", "fail"],
            nextest_tally,
        )
    else:
        units = run(
            "Rust tests",
            ["cargo", "test", *WORKSPACE, "--lib", "--bins", "--tests", "--no-fail-fast"],
            cargo_tally,
        )
    examples = run("Rust doc tests", ["cargo", "test", *WORKSPACE, "--doc"], cargo_tally)
    return units + examples


def python(arguments: Sequence[str]) -> Tally:
    return run("Python tests", [sys.executable, "-m", "pytest", *arguments], pytest_tally)


def matrix() -> Tally:
    """The Django door under the other Djangos; what is not here is said, not counted."""
    return run("Django and Python versions", [sys.executable, "scripts/matrix.py"], pytest_tally)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--rust", action="store_true", help="only the Rust tests")
    half.add_argument("--python", action="store_true", help="only the Python tests")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    options = parser.parse_args()
    whole = not (options.rust or options.python)
    tallies: dict[str, Tally] = {}
    if whole or options.rust:
        tallies["Rust"] = rust()
    if whole or options.python:
        tallies["Python"] = python(options.pytest)
    if whole:
        tallies["Versions"] = matrix()
    total = sum(tallies.values(), Tally())
    print()
    for name, tally in tallies.items():
        print(f"{name} tests: {tally}")
    print(f"Tollway: {total}", flush=True)
    return 1 if total.failed or not all(tally.passed for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
