"""Backends that go away and come back: what is admitted, what it costs, what health says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers import RedisServer, redis_server
from tests.waiting import wait
from tollway import Breaker, ConfigError, Limiter, Policy, StoreUnavailable


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def second() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def locked() -> Iterator[RedisServer]:
    with redis_server("--requirepass", "hunter2") as server:
        yield server


def test_health_of_a_backend_that_lives_dies_and_comes_back(locked: RedisServer) -> None:
    server = locked
    limiter = Limiter(f"redis://:hunter2@127.0.0.1:{server.port}")
    health = limiter.health()
    assert health and health.status == "healthy"
    (backend,) = health.backends
    assert backend and backend.up and backend.breaker == "closed" and backend.waiting == 0
    assert backend.name == f"redis://:***@127.0.0.1:{server.port}"
    assert backend.latency is not None and 0 < backend.latency < 1
    assert backend.error is None and backend.last_error is None and backend.last_error_at is None

    server.kill()
    assert limiter.check(Policy("p", "5/h"), "k").degraded
    health = limiter.health()
    assert not health and health.status == "down"
    (backend,) = health.backends
    assert not backend and backend.latency is None and backend.breaker == "open"
    assert backend.error is not None and "nothing listens" in backend.error
    assert backend.last_error_at is not None and abs(time.time() - backend.last_error_at) < 5
    dictionary = health.as_dict()
    assert dictionary["status"] == "down" and dictionary["backends"][0]["up"] is False
    assert "hunter2" not in json.dumps(dictionary) + repr(health)

    server.restart()
    wait("it is found again", lambda: bool(limiter.health()))
    assert limiter.health().backends[0].last_error is not None
    wait("it is used again", lambda: not limiter.check(Policy("p", "5/h"), "k").degraded)


async def test_health_of_a_hung_backend_is_bounded(server: RedisServer) -> None:
    limiter = Limiter([server.url, "redis://127.0.0.1:1"], command_timeout=5)
    assert (await limiter.ahealth()).status == "degraded"
    server.freeze()
    try:
        started = time.monotonic()
        health = await limiter.ahealth(timeout=0.2)
        assert time.monotonic() - started < 2
        assert health.status == "down"
        assert "200 ms" in str(health.backends[0].error)
        assert not limiter.health(0.05)
    finally:
        server.thaw()
    wait("it is found again", lambda: limiter.health().backends[0].up)


def test_memory_is_healthy() -> None:
    health = Limiter().health()
    assert health and health.backends[0].breaker is None
    with pytest.raises(ConfigError, match="timeout"):
        Limiter().health(timeout=-1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Breaker(0), "failures .* from 1"),
        (lambda: Breaker(-3), "-3"),
        (lambda: Breaker(failure_rate=0), "failure_rate .* not 0"),
        (lambda: Breaker(failure_rate=1.5), "1.5"),
        (lambda: Breaker(window=65), "window .* 64"),
        (lambda: Breaker(pause=0), "pause"),
        (lambda: Breaker(pause=2, max_pause=1), "longest pause"),
        (lambda: Breaker(probes=0), "probes"),
    ],
)
def test_a_breaker_that_cannot_work_is_named(make: Callable[[], Breaker], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_breaker_is_a_value() -> None:
    assert Breaker() == Breaker(1) != Breaker(2)
    assert hash(Breaker(3)) == hash(Breaker(3))
    rate = Breaker(failure_rate=0.5, window=10)
    assert (rate.failures, rate.failure_rate, rate.window, rate.probes) == (None, 0.5, 10, 1)
    assert repr(Breaker(2, pause=0.25)).startswith("Breaker(failures=2, failure_rate=None")


def test_as_many_failures_open_it_as_it_was_told(server: RedisServer) -> None:
    breaker = Breaker(3, pause=60, max_pause=60)
    limiter = Limiter(server.url, breaker=breaker, fail_mode="closed", command_timeout=0.05)
    policy = Policy("p", "100/h")
    limiter.ping()
    server.freeze()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                limiter.check(policy, "k")
            assert limiter.health(0.02).backends[0].breaker == "closed"
        with pytest.raises(StoreUnavailable):
            limiter.check(policy, "k")
        assert limiter.health(0.02).backends[0].breaker == "open"
        for call in (limiter.check, limiter.peek, limiter.refund, limiter.reset):
            with pytest.raises(StoreUnavailable, match="asked again in"):
                call(policy, "k")
    finally:
        server.thaw()


def test_a_hung_backend_costs_one_time_out_and_none_while_it_is_watched(
    server: RedisServer,
) -> None:
    # A time-out that a busy machine does not reach by itself.
    limiter, policy = Limiter(server.url, command_timeout=0.5), Policy("p", "100000/h")
    assert not limiter.check(policy, "k").degraded
    slow = 0
    server.freeze()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            started = time.perf_counter()
            assert limiter.check(policy, "k").degraded
            slow += time.perf_counter() - started > 0.45
            time.sleep(0.002)
    finally:
        server.thaw()
    assert slow <= 1, "requests never find out by a time-out of their own"
    # The longest pause after three seconds is 3.2 s.
    assert wait("back", lambda: not limiter.check(policy, "k").degraded) < 8


@pytest.mark.parametrize("strategy", ["first_healthy", "priority", "round_robin"])
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_failover_admits_at_most_the_limit_of_each_backend(
    server: RedisServer, second: RedisServer, strategy: str, fault: str
) -> None:
    limiter = Limiter([server.url, second.url], strategy=strategy, fail_mode="closed", near_cache=0)
    limiter.ping()
    policy, keys = Policy("p", "10/h"), [f"key-{number}" for number in range(20)]
    passed = dict.fromkeys(keys, 0)

    def ask_all(times: int) -> None:
        for key in keys:
            passed[key] += sum(limiter.check(policy, key).allowed for _ in range(times))

    ask_all(15)
    assert set(passed.values()) == {10}, "two backends, one limit"
    getattr(server, fault)()
    try:
        ask_all(15)
        assert all(10 <= count <= 20 for count in passed.values()), passed
    finally:
        server.thaw() if fault == "freeze" else server.restart()
    wait("it is found again", lambda: bool(limiter.health()))
    ask_all(15)
    # A backend that was restarted is empty: it counts as one more.
    most = 20 if fault == "freeze" else 30
    assert all(count <= most for count in passed.values()), passed
    second_was_used = second.ask("DBSIZE") != b":0"
    assert second_was_used


def test_a_backend_that_is_back_is_found_without_traffic(
    server: RedisServer, second: RedisServer
) -> None:
    limiter = Limiter([server.url, second.url], strategy="priority", fail_mode="closed")
    policy = Policy("p", "1000/h")
    assert limiter.check(policy, "k").remaining == 999
    server.kill()
    assert limiter.check(policy, "k").remaining == 999, "the second counts"
    server.restart()

    # Nobody asks; the first request after that goes to the first backend at once.
    script = "return tonumber(redis.call('INFO', 'clients'):match('connected_clients:(%d+)'))"
    wait("a ping connects", lambda: server.ask("EVAL", script, "0") == b":2")
    wait("it is counted", lambda: limiter.health(0).backends[0].breaker != "open")
    limiter.check(policy, "k")
    assert server.ask("EXISTS", "tollway:p:{k}") == b":1"


async def test_a_full_queue_is_answered_at_once_by_the_fail_mode(server: RedisServer) -> None:
    limiter = Limiter(server.url, queue=4, command_timeout=2, near_cache=0)
    policy = Policy("p", "100/h")
    assert not (await limiter.acheck(policy, "k")).degraded
    server.freeze()
    try:
        calls = [asyncio.ensure_future(limiter.acheck(policy, "k")) for _ in range(200)]
        started = time.monotonic()
        done, waiting = await asyncio.wait(calls, timeout=1)
        assert time.monotonic() - started < 1.5
        assert len(done) >= 100 and waiting, (len(done), len(waiting))
        assert all(call.result().degraded for call in done)
        assert sum(call.result().allowed for call in done) <= 100, "the local limit holds"
        assert limiter.health(0.05).backends[0].breaker == "closed", "a full queue is no failure"
    finally:
        server.thaw()
    await asyncio.gather(*waiting)
    refusing = Limiter(server.url, queue=1, fail_mode="closed")
    await refusing.aping()
    answers = await asyncio.gather(
        *(refusing.acheck(policy, "k2") for _ in range(400)), return_exceptions=True
    )
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(error, StoreUnavailable) for error in errors), errors


def test_a_policy_may_have_its_own_answer() -> None:
    limiter = Limiter("redis://127.0.0.1:1", fail_mode="closed")
    passes = Policy("page", "3/h", fail_mode="open")
    assert passes.fail_mode == "open" and Policy("p", "3/h").fail_mode is None
    assert all(limiter.check(passes, "k").allowed for _ in range(10))
    counts = Policy("search", "3/h", fail_mode="local")
    assert sum(limiter.check(counts, "k").allowed for _ in range(10)) == 3
    with pytest.raises(StoreUnavailable):
        limiter.check(Policy("login", "3/h"), "k")
    with pytest.raises(StoreUnavailable):
        limiter.check_all([(passes, "k"), (Policy("login", "3/h"), "k")])
    with pytest.raises(ConfigError, match="open, closed or local"):
        Policy("p", "3/h", fail_mode="deny")


def test_processes_with_a_share_admit_the_limit_together() -> None:
    policy = Policy("p", "100/h")
    four = [Limiter("redis://127.0.0.1:1", local_share=0.25) for _ in range(4)]
    assert sum(process.check(policy, "k").allowed for process in four for _ in range(200)) == 100
    decision = four[0].check(policy, "other")
    assert decision.limit == 25 and decision.remaining == 24 and decision.degraded
    for wrong in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="local_share"):
            Limiter("redis://127.0.0.1:1", local_share=wrong)
