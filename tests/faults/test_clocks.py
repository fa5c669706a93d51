"""Clocks that are wrong: the server's is the one that counts, whoever asks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.faults.calling import ask, patient
from tests.servers import (
    RedisServer,
    SkewedServer,
    redis_server,
    set_clock,
    skewed_environment,
    skewed_server,
)
from tests.waiting import wait
from tollway import Policy

SKEWS = (61, -3600)
ALGORITHMS = (
    "gcra",
    "token_bucket",
    "leaky_bucket",
    "fixed_window",
    "fixed_window:first",
    "sliding_window",
)


@pytest.fixture(scope="module")
def one_skewed() -> Iterator[SkewedServer]:
    with skewed_server() as server:
        yield server


@pytest.fixture
def skewed(one_skewed: SkewedServer) -> SkewedServer:
    """Empty, and with the right time for now."""
    one_skewed.shift(0)
    one_skewed.ask("FLUSHALL")
    return one_skewed


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Host:
    """A process of its own, on a host whose clock is wrong."""

    PROGRAM = """
        import sys, time
        from tollway import Limiter, Policy

        limiter = Limiter(sys.argv[1], fail_mode="closed", **eval(sys.argv[2]))
        for line in sys.stdin:
            algorithm, rates, times = line.split(",")
            policy = Policy("shared-" + algorithm.replace(":", "-"), rates, algorithm=algorithm)
            passed = sum(limiter.check(policy, "k").allowed for _ in range(int(times)))
            print(passed, time.time(), flush=True)
    """

    def __init__(self, folder: Path, url: str, **options: float) -> None:
        self.clock = folder / f"clock-{url.partition(':')[0]}"
        set_clock(self.clock, 0)
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.PROGRAM), url, repr(options)],
            env=skewed_environment(self.clock),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def check(self, algorithm: str, rates: str, times: int, skew: float) -> int:
        """How many of so many checks pass there, while its clock is off by `skew`."""
        set_clock(self.clock, skew)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{algorithm},{rates},{times}\n")
        self.process.stdin.flush()
        passed, told = self.process.stdout.readline().split()
        assert abs(float(told) - time.time() - skew) < 30, "its clock is not wrong"
        return int(passed)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_client_with_a_wrong_clock_gets_nothing_more(
    server: RedisServer, tmp_path: Path, algorithm: str
) -> None:
    server.ask("FLUSHALL")
    url = f"redis://127.0.0.1:{server.port}"
    host = Host(tmp_path, url, near_cache=0, command_timeout=10, connect_timeout=10)
    here = patient(url)
    policy = Policy("shared-" + algorithm.replace(":", "-"), "100/52w", algorithm=algorithm)
    try:
        passed = ask(here, policy, 60).admitted
        # Host after host takes its turn; each is wrong in another way.
        for skew in (61, 0, -3600, 3600, 61):
            passed += host.check(algorithm, "100/52w", 20, skew)
            passed += ask(here, policy, 5).admitted
        assert passed == 100
    finally:
        host.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_memory_does_not_look_at_the_wall(tmp_path: Path, algorithm: str) -> None:
    host = Host(tmp_path, "memory://")
    try:
        passed = [host.check(algorithm, "50/52w", 40, skew) for skew in (0, 61, -3600, 864_000)]
        assert sum(passed) == 50
    finally:
        host.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("skew", SKEWS)
def test_a_server_whose_clock_is_set_frees_what_its_clock_says(
    skewed: SkewedServer, algorithm: str, skew: float
) -> None:
    limiter = patient(skewed.url)
    # In 61 s two of these come back, and no window ends: it is a year long.
    policy = Policy("p", "1000000/52w", algorithm=algorithm)
    few = Policy("few", "100/52w", algorithm=algorithm)
    assert ask(limiter, few, 150).admitted == 100
    limiter.check(policy, "k", 1_000_000)
    skewed.shift(skew)
    assert ask(limiter, few, 50).admitted == 0
    back = ask(limiter, policy, 50).admitted
    assert back <= (4 if skew > 0 else 1), "a million a year is two in 61 seconds"
    skewed.shift(0)
    after = ask(limiter, few, 50), ask(limiter, policy, 50)
    assert [(seen.admitted, seen.errors) for seen in after] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("skew", SKEWS)
def test_a_server_whose_clock_is_set_stays_within_the_bound(
    skewed: SkewedServer, algorithm: str, skew: float
) -> None:
    limiter, rate, period = patient(skewed.url), 40, 0.3
    policy = Policy("p", f"{rate}/300ms", algorithm=algorithm)
    started = time.monotonic()
    passed = ask(limiter, policy, rate + 5).admitted
    assert passed >= rate
    skewed.shift(skew)
    # Set back, it frees nobody; set ahead, at most what is full again.
    passed += ask(limiter, policy, rate + 5).admitted
    spent = time.monotonic() - started
    most = rate * (2 if skew < 0 else 3) + spent / period * rate
    assert passed <= most, "one limit for each window of the server's clock"
    # And it locks nobody out: what is owed is owed for two periods at most.
    wait("no clock locks anybody out", lambda: limiter.check(policy, "k"), 2 * period + 20)
    refused = limiter.peek(policy, "k", rate)
    assert refused.retry_after <= 2 * period + 0.1
    # From here on it is as if nothing had happened.
    limiter.reset(policy, "k")
    assert ask(limiter, policy, rate).admitted == rate


def test_a_jump_back_costs_a_refused_client_a_period_at_most(skewed: SkewedServer) -> None:
    limiter = patient(skewed.url)
    policy = Policy("p", "100/m")
    assert ask(limiter, policy, 110).admitted >= 100
    skewed.shift(-3600)
    after = limiter.peek(policy, "k")
    assert not after
    # All that can be owed is two capacities: one permit comes back when one and a bit are paid.
    assert after.reset_after <= 120
    assert after.retry_after <= 60 + 0.6


def next_period(rates: str, now: float) -> float:
    """When the calendar period that holds `now` is over."""
    unit, _, zone = rates.removeprefix("5/").partition(" ")
    here = datetime.fromtimestamp(now, ZoneInfo(zone or "UTC"))
    day = here.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "day":
        return (day + timedelta(days=1)).timestamp()
    if unit == "year":
        return day.replace(year=day.year + 1, month=1, day=1).timestamp()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


@pytest.mark.parametrize("rates", ["5/month", "5/day Asia/Kathmandu", "5/year Europe/Berlin"])
def test_a_calendar_is_the_servers_however_far_its_clock_is_off(
    skewed: SkewedServer, rates: str
) -> None:
    limiter, day = patient(skewed.url), 86_400
    policy = Policy("quota", rates)
    # Neither this host's day nor month nor year.
    for days in (800, 1600, -800):
        skewed.shift(days * day)
        limiter.reset(policy, "k")
        assert ask(limiter, policy, 8).admitted == 5
        refused = limiter.peek(policy, "k")
        there = time.time() + days * day
        assert abs(there + refused.retry_after - next_period(rates, there)) < 30
        limiter.refund(policy, "k", 2)
        assert ask(limiter, policy, 8).admitted == 2
    # Set back by more than a period it frees nobody; when it goes on, the next period begins.
    skewed.shift(-1600 * day)
    assert ask(limiter, policy, 8).admitted == 0
    skewed.shift(-1200 * day)
    assert ask(limiter, policy, 8).admitted == 5


@pytest.mark.parametrize("algorithm", ["sliding_log", "concurrency"])
def test_a_log_counts_from_now_on_what_a_clock_set_back_left_ahead(
    skewed: SkewedServer, algorithm: str
) -> None:
    limiter = patient(skewed.url)
    policy = Policy("p", "500/1h", algorithm=algorithm)
    assert ask(limiter, policy, 600).admitted == 500
    skewed.shift(-86_400)
    assert ask(limiter, policy, 10).admitted == 0
    assert limiter.peek(policy, "k").retry_after <= 3600
    skewed.shift(3600 - 86_400 + 5)
    assert ask(limiter, policy, 600).admitted == 500
