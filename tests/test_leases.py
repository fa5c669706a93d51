"""Permits taken in advance, over a real Redis."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import RedisServer, redis_server
from tollway import ConfigError, Limiter, Policy


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def leasing(url: str, lease: int = 20, **options: float) -> Limiter:
    return Limiter(url, fail_mode="closed", command_timeout=5, lease=lease, **options)


def left(url: str, policy: Policy) -> int:
    with Limiter(url, fail_mode="closed", command_timeout=5) as limiter:
        return limiter.peek(policy, "k", 0).remaining


def test_four_limiters_share_one_limit(server: RedisServer) -> None:
    policy = Policy("p", "1000/w")
    limiters = [leasing(server.url, lease_time=60) for _ in range(4)]

    def ask(limiter: Limiter) -> int:
        return sum(limiter.check(policy, "k").allowed for _ in range(1_000))

    with ThreadPoolExecutor(4) as pool:
        passed = sum(pool.map(ask, limiters))
    assert passed <= 1_000
    held = 1_000 - passed
    assert held <= 4 * 20, "what is held unused"
    for limiter in limiters:
        limiter.close()
    assert left(server.url, policy) == held, "what was held is there again"


def _hammer(url: str, start: float) -> tuple[list[float], float]:
    """When permits were handed out in a process of its own, and when it began."""
    policy, passed = Policy("hammered", "300/3s"), []
    with leasing(url, 10, lease_time=0.2) as limiter:
        limiter.ping()
        time.sleep(max(0.0, start - time.time()))
        began = time.time()
        while time.time() < start + 3:
            if limiter.check(policy, "k").allowed:
                passed.append(time.time())
    return passed, began


def test_four_processes_keep_the_stated_bound(server: RedisServer) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        rows = pool.starmap(_hammer, [(server.url, time.time() + 2)] * 4)
    passed = sorted(at for row in rows for at in row[0])
    capacity, rate, held = 300, 100, 4 * 10
    assert len(passed) >= capacity, "and no less than what is there"
    for first in range(0, len(passed), 7):
        for last in range(first, len(passed), 7):
            span = passed[last] - passed[first]
            # A clock is read after the permit was handed out: allow for 50 ms of a busy machine.
            assert last - first + 1 <= capacity + rate * (span + 0.05) + held


def test_a_hot_key_is_seldom_asked_for(server: RedisServer) -> None:
    policy = Policy("p", "100000/h")
    limiter = leasing(server.url, 100, lease_time=60)
    limiter.ping()
    before = calls(server)
    remaining = [limiter.check(policy, "k").remaining for _ in range(2_000)]
    assert remaining == sorted(remaining, reverse=True)
    assert calls(server) - before <= 2_000 / 100 + 5


def calls(server: RedisServer) -> int:
    """How many scripts the server ran."""
    script = "return tonumber(redis.call('INFO','commandstats'):match('evalsha:calls=(%d+)') or 0)"
    return int(server.ask("EVAL", script, "0").removeprefix(b":"))


def test_what_is_not_handed_out_is_given_back_in_time(server: RedisServer) -> None:
    policy = Policy("p", "1000/w")
    limiter = leasing(server.url, lease_time=0.3)
    for _ in range(3):
        assert limiter.check(policy, "k")
    started = time.monotonic()
    assert left(server.url, policy) < 997, "some are held"
    while left(server.url, policy) < 997:
        assert time.monotonic() < started + 10
        time.sleep(0.005)
    assert time.monotonic() - started < 2, "0.3 s, a quarter more, and a busy machine"


async def test_closing_gives_back(server: RedisServer) -> None:
    policy = Policy("p", "1000/w")
    async with leasing(server.url, lease_time=60) as limiter:
        await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(3)))
        for _ in range(3):
            assert await limiter.acheck(policy, "k")
        assert left(server.url, policy) < 994
    assert left(server.url, policy) == 994
    assert await limiter.acheck(policy, "k"), "and it can be used again"


def test_a_reset_forgets_what_is_held(server: RedisServer) -> None:
    policy = Policy("p", "1000/w")
    limiter = leasing(server.url, lease_time=60)
    for _ in range(5):
        assert limiter.check(policy, "k")
    limiter.reset(policy, "k")
    assert limiter.check(policy, "k").remaining == 999
    limiter.close()
    assert left(server.url, policy) == 999


def test_a_killed_process_frees_nothing(server: RedisServer) -> None:
    policy = Policy("p", "1000/w")
    child = os.fork()
    if child == 0:  # pragma: no cover - the child
        limiter = leasing(server.url, lease_time=60)
        for _ in range(5):
            limiter.check(policy, "k")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert 1_000 - 5 - 20 <= left(server.url, policy) < 1_000 - 5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"lease": 1}, "at least 2"), ({"lease": -5}, "-5"), ({"lease_time": 0}, "lease_time")],
)
def test_a_lease_that_cannot_work_is_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limiter("redis://127.0.0.1:1", **options)  # type: ignore[arg-type]
