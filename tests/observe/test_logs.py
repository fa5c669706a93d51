"""A flood of refusals is not a flood of logs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tollway import ConfigError, Limiter, Policy
from tollway.observe import logs
from tollway.observe.beat import Beat


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Beat]:
    """Logs that are written when a test says so."""
    caplog.set_level(logging.WARNING, "tollway")
    beat = logs.start(every=3_600)
    yield beat
    beat.stop()


def records(caplog: pytest.LogCaptureFixture, logger: str, name: str) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == logger and name in r.getMessage()]


def test_refusals_are_one_line_for_each_policy_and_interval(
    told: Beat, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    limiter, policy, quiet = Limiter(), Policy(name, "3/h"), Policy(f"quiet-{name}", "9999/h")
    for _ in range(1_000):
        limiter.check(policy, "k")
        limiter.check(quiet, "k")
    told.now()
    limiter.check(policy, "k")
    told.now()
    told.now()
    first, second = records(caplog, "tollway.refused", name)
    assert first.getMessage().startswith(f"policy {name}: 997 refused in ")
    fields = {field: vars(first)[field] for field in ("policy", "refused", "denied", "failed")}
    assert json.loads(json.dumps(fields)) == {
        "policy": name,
        "refused": 997,
        "denied": 0,
        "failed": 0,
    }
    assert vars(second)["refused"] == 1


def test_what_goes_wrong_with_a_backend_is_a_line(
    told: Beat, name: str, dead_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Limiter(dead_store) as limiter:
        for _ in range(50):
            limiter.check(Policy(name, "9/h"), "k")
        told.now()
        [line] = records(caplog, "tollway.stores", limiter.url)
    fields = vars(line)
    assert (fields["store"], fields["breaker"]) == (limiter.url, "open")
    assert sum(fields["errors"].values()) + fields["skipped"] == 50
    assert "breaker open" in line.getMessage()


def test_the_last_refusals_are_told_at_exit() -> None:
    code = """
        import logging
        from tollway import Limiter, Policy
        from tollway.observe import logs
        logging.basicConfig(format="%(name)s %(message)s")
        logs.start(every=3600)
        limiter, policy = Limiter(), Policy("p", "1/h")
        for _ in range(5):
            limiter.check(policy, "k")
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "tollway.refused policy p: 4 refused in 0 s\n"


def test_a_forked_child_tells_of_its_own() -> None:
    code = """
        import logging, os
        from tollway import Limiter, Policy
        from tollway.observe import logs
        logging.basicConfig(format="%(name)s %(message)s")
        beat = logs.start(every=3600)
        limiter, policy = Limiter(), Policy("p", "1/h")
        for _ in range(2):
            limiter.check(policy, "k")
        beat.now()
        if os.fork() == 0:
            for _ in range(3):
                limiter.check(policy, "k")
            beat.stop()
            os._exit(0)
        os.wait()
    """
    # From Python 3.12 on a fork with threads about is warned of, which is what this is about.
    knowing = ["-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *knowing, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [f"tollway.refused policy p: {count} refused in 0 s" for count in (1, 3)]
    assert done.stderr.splitlines() == told


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf")])
def test_an_interval_is_a_time(every: float) -> None:
    with pytest.raises(ConfigError, match="every is a number of seconds above 0"):
        logs.start(every)
