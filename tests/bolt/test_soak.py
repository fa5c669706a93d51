"""The short form of `make soak`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.soak import BOUND, Run


def soak(*arguments: str) -> tuple[int, dict[str, object]]:
    told = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert told.stdout, told.stderr
    return told.returncode, json.loads(told.stdout)


@pytest.mark.timeout(300)
def test_memory_is_flat_over_some_thousand_requests() -> None:
    code, told = soak("--requests", "20000", "--reloads", "1", "--bound", "12")
    assert (code, told["passed"]) == (0, True), told
    plain, encrypted = told["runs"]  # type: ignore[misc]
    assert plain["requests"] >= 18_000
    assert encrypted["requests"] >= 2000
    assert len(plain["kinds"]) == 22
    assert told["reloads"]["lost"] == []  # type: ignore[index]


def test_growth_is_seen() -> None:
    """A warm-up is none, a leak is one, however slow."""
    warm = [30.0 + min(done, 10) for done in range(60)]
    assert Run("", list(enumerate(warm))).growth == 0
    leak = [size + done * BOUND / 40 for done, size in enumerate(warm)]
    assert Run("", list(enumerate(leak))).growth > BOUND
