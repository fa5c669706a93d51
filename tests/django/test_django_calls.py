"""What code around views asks for by hand."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from tollway import ConfigError, Limiter
from tollway.counter import COUNT_MAX, Counter
from tollway.django import (
    add_rate_limit_headers,
    add_token_bucket_headers,
    get_backend,
    parse_rate,
    rate_limit,
    validate_rate_config,
)
from tollway.testing import ManualClock


@pytest.fixture(params=["memory", "redis"])
def counter(request: pytest.FixtureRequest) -> Counter:
    """A counter on memory and on a real Redis."""
    if request.param == "memory":
        return Counter(Limiter())
    url = request.getfixturevalue("redis_url")
    return Counter(Limiter(url, prefix=f"calls{time.monotonic_ns()}", command_timeout=5.0))


async def test_counts(counter: Counter) -> None:
    assert counter.get_count("a") == 0
    assert counter.get_reset_time("a") is None
    assert [counter.incr("a") for _ in range(3)] == [1, 2, 3]
    assert await counter.aincr("a", 60, 4) == 7
    assert counter.incr("a", 3600) == 1  # another period is another count
    assert counter.get_count("a") == await counter.aget_count("a") == 7
    ends = counter.get_reset_time("a")
    assert ends is not None
    assert 0 < ends - time.time() <= 60
    again = await counter.aget_reset_time("a")
    assert again == pytest.approx(ends, abs=5)
    assert counter.incr_many(["a", "b", "b"]) == [8, 1, 2]
    assert await counter.aincr_many(["b"]) == [3]
    counter.reset("a")
    await counter.areset("b")
    assert counter.get_count("a") == counter.get_count("b") == 0
    assert counter.get_count("a", 3600) == 1


async def test_buckets(counter: Counter) -> None:
    allowed, told = counter.token_bucket_check("sms", 3, 0.01)
    assert allowed
    assert (told["tokens_remaining"], told["bucket_size"], told["retry_after"]) == (2, 3, 0.0)
    assert (await counter.atoken_bucket_check("sms", 3, 0.01, tokens_requested=3))[0] is False
    refused, told = counter.token_bucket_check("sms", 3, 0.01, tokens_requested=4)
    assert (refused, told["retry_after"]) == (False, None)
    assert counter.leaky_bucket_check("mail", 2, 0.01, cost=2)[0]
    full, told = await counter.aleaky_bucket_check("mail", 2, 0.01)
    assert not full
    assert told["level"] == told["capacity"] == 2
    assert told["retry_after"] == pytest.approx(100, abs=5)


def test_a_bucket_may_begin_half_full() -> None:
    counter = Counter(Limiter(clock=ManualClock()))
    taken = [counter.token_bucket_check("sms", 3, 1, initial_tokens=2)[0] for _ in range(3)]
    assert taken == [True, True, False]


def test_periods_that_are_nearly_the_same_are_two() -> None:
    counter = Counter(Limiter())
    assert [counter.incr("a", 1_234_567), counter.incr("a", 1_234_568)] == [1, 1]
    assert [counter.incr("b", 60), counter.incr("b", 60.0)] == [1, 2]


def test_a_period_ends_as_a_whole() -> None:
    clock = ManualClock()
    counter = Counter(Limiter(clock=clock))
    assert counter.incr("a", 10, 5) == 5
    clock.advance(9.999)
    assert counter.incr("a", 10) == 6
    clock.advance(0.001)
    assert counter.incr("a", 10) == 1
    assert counter.incr("a", 10, COUNT_MAX) == 1  # more than a period holds is not counted


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda counter: counter.incr("a", 0), "period=0"),
        (lambda counter: counter.incr("a", -1), "period=-1"),
        (lambda counter: counter.token_bucket_check("a", 0, 1), "a bucket of 0"),
        (lambda counter: counter.leaky_bucket_check("a", 5, 0), "0 is not a number of permits"),
        (lambda counter: counter.incr("a", math.inf), "period=inf"),
        (lambda counter: counter.incr("a", math.nan), "period=nan"),
        (lambda counter: counter.incr("a", 60, 10**30), "not 10000"),
        (lambda counter: counter.leaky_bucket_check("a", 5, 1, 10**30), "not 10000"),
        (lambda counter: counter.token_bucket_check("a", 5, math.inf), "inf is not a number of pe"),
        (lambda counter: counter.token_bucket_check("a", 10**30, 1), "a bucket of 10000"),
        (lambda counter: counter.token_bucket_check("a", 5, 1, None, 10**30), "not 10000"),
    ],
)
def test_numbers_that_cannot_be_meant(call: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        call(Counter(Limiter()))


def test_a_backend_by_name(clock: ManualClock) -> None:
    jobs = Limiter("memory://", clock=clock)
    with override_settings(RATELIMIT_BACKENDS={"jobs": jobs}):
        assert get_backend("jobs").incr("a") == 1
        assert get_backend().incr("a") == 1
        assert get_backend("jobs").limiter is jobs
        with pytest.raises(ConfigError, match="did you mean 'jobs'"):
            get_backend("job")


def test_rates_by_hand() -> None:
    assert parse_rate("5/10s") == (5, 10.0)
    for text, part in (("5/q", "expected a unit"), ("1/s; 2/m", "Rate.parse"), ("9/month", "Rate")):
        with pytest.raises(ConfigError, match=part):
            parse_rate(text)
    validate_rate_config("5/m", "token_bucket", {"bucket_size": 9}, key="ip")
    for options in (
        {"rate": "5/q"},
        {"rate": "5/m", "algorithm": "magic"},
        {"rate": "5/m", "algorithm": "token_bucket", "algorithm_config": {"bucket": 9}},
        {"algorithm": "token_bucket", "algorithm_config": {"bucket_size": 9, "refill_rate": 1e999}},
        {"rate": "5/m", "algorithm": "token_bucket", "algorithm_config": {"bucket_size": 10**30}},
        {"rate": "5/m", "key": "ipp"},
    ):
        with pytest.raises(ConfigError):
            validate_rate_config(**options)  # type: ignore[arg-type]


def test_headers_by_hand(rf: RequestFactory) -> None:
    request: Any = rf.get("/")
    rate_limit(rate="5/10s", algorithm="token_bucket")(lambda _: HttpResponse())(request)
    answer = add_rate_limit_headers(HttpResponse(), request.rate_limit)
    assert answer["X-RateLimit-Remaining"] == "4"
    assert "RateLimit" in answer
    answer = add_token_bucket_headers(HttpResponse(), request.rate_limit)
    assert answer["X-RateLimit-Bucket-Remaining"] == "4"
    answer = add_rate_limit_headers(HttpResponse(), limit=5, remaining=-1, reset_after=10)
    assert (answer["X-RateLimit-Limit"], answer["X-RateLimit-Remaining"]) == ("5", "0")
    assert int(answer["X-RateLimit-Reset"]) == pytest.approx(time.time() + 10, abs=5)
    told = get_backend().token_bucket_check("a", 5, 1)[1]
    answer = add_token_bucket_headers(HttpResponse(), told)
    assert answer["X-RateLimit-Bucket-Size"] == "5"


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (
            True,
            {"RateLimit-Policy": '"api/ip/5/10s";q=5;w=10', "RateLimit": '"api/ip/5/10s";r=4;t=2'},
        ),
        ("draft-10", {"RateLimit": '"api/ip/5/10s";r=4;t=2'}),
        (
            "draft-07",
            {"RateLimit-Policy": "5;w=10", "RateLimit": "limit=5, remaining=4, reset=2"},
        ),
        (
            "draft-06",
            {"RateLimit-Limit": "5", "RateLimit-Remaining": "4", "RateLimit-Reset": "2"},
        ),
        (False, {}),
    ],
)
def test_drafts_of_the_headers(rf: RequestFactory, draft: Any, expected: dict[str, str]) -> None:
    view = rate_limit(rate="5/10s", group="api")(lambda _: HttpResponse())
    with override_settings(RATELIMIT_IETF_HEADERS=draft):
        answer = view(rf.get("/"))
    found = {name: value for name, value in answer.headers.items() if name.startswith("RateLimit")}
    assert expected.items() <= found.items()
    assert bool(found) is bool(draft)
    assert answer["X-RateLimit-Limit"] == "5"
