"""The Python face of the engine, in memory: sync and async agree with each other and the clock."""

from __future__ import annotations

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tollway import ConfigError, Limiter, Policy, Rate, RateError, StoreUnavailable
from tollway.testing import ManualClock


def test_five_pass_and_the_sixth_is_told_when(limiter: Limiter, clock: ManualClock) -> None:
    login = Policy("login", "5/10s")
    assert [limiter.check(login, "a").remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    refused = limiter.check(login, "a")
    assert not refused
    assert (refused.allowed, refused.limit, refused.remaining, refused.cost) == (False, 5, 0, 1)
    assert (refused.policy, refused.mode, refused.reason) == ("login", "enforced", "rate_limited")
    assert (refused.retry_after, refused.retry_after_ns, refused.retry_after_seconds) == (
        2.0,
        2_000_000_000,
        2,
    )
    assert refused.reset_after == 10.0
    clock.advance(1.999999)
    assert not limiter.check(login, "a")
    clock.advance(0.000001)
    assert limiter.check(login, "a")


def test_headers_and_problem_of_a_refusal(limiter: Limiter) -> None:
    policy = Policy("login", ["5/10s", "100/h"])
    for _ in range(5):
        limiter.check(policy, "a")
    refused = limiter.check(policy, "a")
    headers = dict(refused.headers())
    assert headers["RateLimit"] == '"login 5/10s";r=0;t=10'
    assert headers["RateLimit-Policy"] == '"login 5/10s";q=5;w=10, "login 100/h";q=100;w=3600'
    assert headers["Retry-After"] == "2"
    assert headers["X-RateLimit-Limit"] == "5"
    assert set(dict(refused.headers(x_ratelimit=False))) == {
        "RateLimit",
        "RateLimit-Policy",
        "Retry-After",
    }
    problem = json.loads(refused.problem())
    assert problem["status"] == 429
    assert problem["retry_after_ms"] == 2000
    assert problem["violated-policies"] == ["login 5/10s"]
    assert "2 seconds" in refused.text()


async def test_async_gives_the_same_answers(limiter: Limiter) -> None:
    policy = Policy("p", "3/m")
    assert (await limiter.acheck(policy, "a")).remaining == 2
    assert limiter.check(policy, "a").remaining == 1
    assert (await limiter.apeek(policy, "a")).remaining == 0
    both = await asyncio.gather(limiter.acheck(policy, "a"), limiter.acheck(policy, "a"))
    assert [decision.allowed for decision in both] == [True, False]
    await limiter.areset(policy, "a")
    assert limiter.check(policy, "a").remaining == 2
    await limiter.aping()


def test_several_policies_pass_together_or_not_at_all(limiter: Limiter) -> None:
    user, org = Policy("user", "2/m"), Policy("org", "100/m")
    passed = [limiter.check_all([(user, "u"), (org, "o", 5)]).allowed for _ in range(5)]
    assert passed == [True, True, False, False, False]
    assert limiter.peek(org, "o", 0).remaining == 90
    refused = limiter.check_all([(user, "u"), (org, "o", 5)])
    assert refused.policy == "user"


def test_peek_and_reset(limiter: Limiter) -> None:
    policy = Policy("p", "1/m")
    assert limiter.peek(policy, "a")
    assert limiter.check(policy, "a")
    assert not limiter.peek(policy, "a")
    limiter.reset(policy, "a")
    assert limiter.check(policy, "a")


async def test_many_are_decided_each_for_itself(limiter: Limiter) -> None:
    policy = Policy("p", "2/m")
    charges = [(policy, "a"), (policy, "b", 2), (policy, "a"), (policy, "a")]
    assert [bool(decision) for decision in limiter.check_many(charges)] == [True, True, True, False]
    again = await limiter.acheck_many([(policy, "c"), (policy, "b")])
    assert [bool(decision) for decision in again] == [True, False]
    assert limiter.check_many([]) == []


async def test_waiting_for_a_permit() -> None:
    limiter, policy = Limiter(), Policy("p", "1/30ms")
    assert limiter.acquire(policy, "a", timeout=5)
    assert limiter.acquire(policy, "a", timeout=5)
    waits = [limiter.aacquire(policy, "a", timeout=5) for _ in range(3)]
    assert all(await asyncio.gather(*waits))
    assert not limiter.acquire(Policy("slow", "1/h"), "a", 2, timeout=5)
    with pytest.raises(ConfigError, match="timeout"):
        limiter.acquire(policy, "a", timeout=-1)


def test_a_cost_above_the_limit_never_passes(limiter: Limiter) -> None:
    decision = limiter.check(Policy("p", "5/m"), "a", 6)
    assert decision.reason == "cost_above_limit"
    assert math.isinf(decision.retry_after)
    assert "Retry-After" not in dict(decision.headers())
    assert "retry_after_ms" not in json.loads(decision.problem())


def test_threads_together_get_the_limit() -> None:
    limiter, policy = Limiter("memory://"), Policy("p", "100/h")
    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(lambda _: limiter.check(policy, "k").allowed, range(2000)))
    assert passed == 100


async def test_a_limiter_is_a_context(clock: ManualClock) -> None:
    policy = Policy("p", "2/m")
    with Limiter(clock=clock) as limiter:
        assert limiter.check(policy, "a")
    async with limiter as again:
        assert again is limiter
        assert (await again.acheck(policy, "a")).remaining == 0


def test_rates() -> None:
    assert str(Rate(100, "1m", burst=20)) == "100/m burst 20"
    assert Rate("100/m burst 20") == Rate(100, "60s", burst=20)
    assert Rate(100, "1m", burst=20).capacity == 120
    assert Rate(100, "1m", burst=20, smooth=True).capacity == 21
    assert Rate(2000, "1s").permits == 2000
    assert [str(rate) for rate in Rate.parse("10/s; 1000/h")] == ["10/s", "1000/h"]
    assert len({Rate("5/s"), Rate(5, "1s")}) == 1
    assert Rate("5/1h30m").period == 5400.0


def test_a_fast_rate_is_not_unlimited(limiter: Limiter) -> None:
    policy = Policy("p", Rate(2000, "1s"))
    assert sum(limiter.check(policy, "a").allowed for _ in range(3000)) == 2000


def test_smooth_spaces_from_the_first(limiter: Limiter, clock: ManualClock) -> None:
    policy = Policy("p", Rate(100, "1m", smooth=True))
    assert limiter.check(policy, "a")
    assert limiter.check(policy, "a").retry_after == 0.6
    clock.advance(0.6)
    assert limiter.check(policy, "a")


def test_a_leaky_bucket_meters_or_queues(limiter: Limiter) -> None:
    meter = Policy("meter", "10/s burst 2", algorithm="leaky_bucket")
    assert sum(limiter.check(meter, "a").allowed for _ in range(20)) == 12
    queue = Policy("queue", "10/s", algorithm="leaky_bucket:queue")
    decisions = [limiter.check(queue, "a") for _ in range(12)]
    assert [decision.allowed for decision in decisions] == [True] * 10 + [False] * 2
    assert [decision.delay for decision in decisions[:3]] == [0.0, 0.1, 0.2]
    assert decisions[-1].delay == 0.0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Rate("5/fortnight"), RateError, ["'5/fortnight'", "position 2", "unit"]),
        (lambda: Policy("p", "0/s"), RateError, ["position 0", "1 to 1000000000"]),
        (lambda: Policy("p"), ConfigError, ["no rates"]),
        (lambda: Policy("p", []), ConfigError, ["0 rates"]),
        (lambda: Policy("p", 5), ConfigError, ["100/m"]),
        (lambda: Policy("p", "5/m", algorithm="gcraa"), ConfigError, ["gcraa", "sliding_window"]),
        (lambda: Policy("a{b}", "5/m"), ConfigError, ["policy name"]),
        (lambda: Rate(5), ConfigError, ["period"]),
        (lambda: Rate(-5, "1s"), ConfigError, ["-5"]),
        (lambda: Limiter("rediss//x"), ConfigError, ["scheme"]),
        (lambda: Limiter("redi://:secret@h/0"), ConfigError, ["redi", "Did you mean redis://?"]),
        (lambda: Limiter(fail_mode="maybe"), ConfigError, ["maybe", "open, closed or local"]),
        (lambda: Limiter(command_timeout=0), ConfigError, ["command_timeout"]),
        (lambda: Limiter(queue=0), ConfigError, ["queue", "1 or more"]),
        (lambda: Limiter(prefix="a{b"), ConfigError, ["prefix"]),
        (lambda: Limiter("redis://h", clock=ManualClock()), ConfigError, ["memory://"]),
        (lambda: Limiter().check(Policy("p", "1/s"), "k", -1), ConfigError, ["cost"]),
        (lambda: Limiter().check_all([]), ConfigError, ["without a charge"]),
    ],
)
def test_bad_input_names_the_thing(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word.replace("'", '"') in str(caught.value), str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unreachable_redis_is_named() -> None:
    limiter = Limiter("redis://:hunter2@127.0.0.1:1/0", fail_mode="closed")
    with pytest.raises(StoreUnavailable) as caught:
        limiter.ping()
    message = str(caught.value)
    assert "127.0.0.1:1" in message
    assert "cannot be reached" in message
    assert "hunter2" not in message + repr(limiter) + limiter.url
    with pytest.raises(StoreUnavailable):
        limiter.check(Policy("p", "5/m"), "a")


def test_a_dead_redis_degrades_as_configured(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy("p", "3/h")
    local = Limiter("redis://127.0.0.1:1/0")
    decisions = [local.check(policy, "a") for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
    assert all(decision.degraded for decision in decisions)
    assert len([record for record in caplog.records if record.name == "tollway"]) == 1
    opened = Limiter("redis://127.0.0.1:1/0", fail_mode="open")
    assert all(opened.check(policy, "a").allowed for _ in range(5))
