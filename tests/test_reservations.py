"""Costs that are known only afterwards, on every kind of backend."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.servers import RedisServer, redis_server
from tests.test_stores import Dictionary
from tollway import ConfigError, Limiter, Policy

TOKENS = Policy("tokens", "1000/w; 5000/365d")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["dictionary", "memory", "redis"])
def limiter(request: pytest.FixtureRequest, server: RedisServer) -> Limiter:
    if request.param == "redis":
        server.ask("FLUSHALL")
        return Limiter(server.url, fail_mode="closed", command_timeout=5)
    backend = Dictionary() if request.param == "dictionary" else "memory://"
    return Limiter(backend, fail_mode="closed")


def left(limiter: Limiter) -> int:
    return limiter.peek(TOKENS, "k", 0).remaining


def test_what_was_not_used_is_given_back(limiter: Limiter) -> None:
    with limiter.reserve(TOKENS, "k", cost=500) as reservation:
        assert reservation.allowed
        assert left(limiter) == 500
        assert reservation.commit(actual=137).remaining == 863
    assert left(limiter) == 863
    with pytest.raises(ConfigError, match="settled already"):
        reservation.commit(1)


def test_an_exception_gives_everything_back(limiter: Limiter) -> None:
    with pytest.raises(KeyError), limiter.reserve(TOKENS, "k", 500):
        raise KeyError("handler failed")
    assert left(limiter) == 1000
    with limiter.reserve(TOKENS, "k", 500):
        pass
    assert left(limiter) == 500, "who does not tell pays what was reserved"


def test_what_was_used_beyond_is_owed(limiter: Limiter) -> None:
    limiter.reserve(TOKENS, "k", 900).commit(1_200)
    refused = limiter.check(TOKENS, "k")
    assert not refused
    # 201 permits at 1000 a week, less the moment that has passed.
    assert refused.retry_after == pytest.approx(201 * 604.8, abs=5)
    limiter.refund(TOKENS, "k", 700)
    assert left(limiter) == 500


def test_a_refused_reservation_holds_nothing(limiter: Limiter) -> None:
    limiter.check(TOKENS, "k", 800)
    refused = limiter.reserve(TOKENS, "k", 500)
    assert not refused
    refused.cancel()
    assert left(limiter) == 200


def test_a_refund_opens_the_door_at_once(limiter: Limiter) -> None:
    limiter.check(TOKENS, "k", 1000)
    assert not limiter.check(TOKENS, "k")
    assert not limiter.check(TOKENS, "k")
    assert limiter.refund(TOKENS, "k", 5000).remaining == 1000
    assert limiter.check(TOKENS, "k").remaining == 999


async def test_async_totals_are_exact(limiter: Limiter) -> None:
    async def call(number: int) -> int:
        async with await limiter.areserve(TOKENS, "k", 20) as reservation:
            await asyncio.sleep(0)
            await reservation.acommit(number % 13)
        return number % 13

    used = sum(await asyncio.gather(*(call(number) for number in range(40))))
    assert left(limiter) == 1000 - used
    await limiter.arefund(TOKENS, "k", used)
    assert left(limiter) == 1000
