"""Faults that limiters of this field are known for, each once: none of them is here."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject

from tests.django.conftest import codes
from tollway import Limiter, Policy
from tollway.django import rate_limit
from tollway.testing import ManualClock


def ok(request: Any, *arguments: Any, **named: Any) -> HttpResponse:
    return HttpResponse("ok")


def test_a_client_that_keeps_knocking_is_served_at_its_fair_rate(
    rf: RequestFactory, clock: ManualClock
) -> None:
    """Five per three seconds, asked each fifth of a second for twelve: a fair share is 20."""
    for algorithm in ("gcra", "token_bucket", "fixed_window", "sliding_window"):
        view = rate_limit(rate="5/3s", algorithm=algorithm)(ok)
        seen = []
        for _ in range(60):
            seen += codes(view, [rf.get("/")])
            clock.advance(0.2)
        assert seen.count(200) >= 19, algorithm
        clock.advance(60)


def test_retry_after_of_a_bucket_is_its_real_wait(rf: RequestFactory, clock: ManualClock) -> None:
    view = rate_limit(rate="5/m", algorithm="token_bucket")(ok)
    answers = [view(rf.get("/")) for _ in range(6)]
    assert answers[-1]["Retry-After"] == "12"
    clock.advance(11.9)
    assert codes(view, [rf.get("/")]) == [429]
    clock.advance(0.1)
    assert codes(view, [rf.get("/")]) == [200]


def test_algorithms_of_two_views_do_not_meet(rf: RequestFactory, clock: ManualClock) -> None:
    window = rate_limit(rate="2/10s", algorithm="fixed_window:first", group="window")(ok)
    bucket = rate_limit(rate="2/10s", algorithm="token_bucket", group="bucket")(ok)
    for view in (window, bucket, window, bucket):
        assert codes(view, [rf.get("/")]) == [200]
    clock.advance(5)
    assert codes(window, [rf.get("/")]) == [429]
    assert codes(bucket, [rf.get("/")]) == [200]


class Watched:
    """A limiter that counts how often it is asked."""

    url, fail_mode = "memory://", "local"

    def __init__(self) -> None:
        self.inner, self.asked = Limiter("memory://"), 0

    async def acheck(self, *charge: Any) -> Any:
        raise AssertionError("this view is sync")

    def check(self, *charge: Any) -> Any:
        self.asked += 1
        return self.inner.check(*charge)


def test_a_cost_of_ten_is_one_round_trip_and_all_or_nothing(rf: RequestFactory) -> None:
    watched: Any = Watched()
    view = rate_limit(rate="25/h", cost=10, backend=watched, group="dear")(ok)
    assert codes(view, [rf.get("/") for _ in range(4)]) == [200, 200, 429, 429]
    assert watched.asked == 4
    policy = Policy("dear/ip/25/h", ["25/h"])
    assert watched.inner.peek(policy, "127.0.0.1", 0).remaining == 5


def untouched() -> Any:
    raise AssertionError("nobody asked for the user")


@pytest.mark.parametrize("key", ["ip", "header:X-Key", "param:q", "{ip}/{route}"])
def test_nobody_asks_the_database_who_the_user_is(rf: RequestFactory, key: str) -> None:
    request: Any = rf.get("/")
    request.user = SimpleLazyObject(untouched)
    assert rate_limit(key, "1/h", deny_list=["192.0.2.1"])(ok)(request).status_code == 200
    with override_settings(RATELIMIT_RULES={"deny": ["192.0.2.0/24"]}):
        assert rate_limit(key, "9/h")(ok)(request).status_code == 200


urlpatterns = [path("items/<int:item>/", rate_limit(rate="2/h")(ok))]


@override_settings(ROOT_URLCONF=__name__)
def test_path_parameters_do_not_split_a_limit() -> None:
    assert [Client().get(f"/items/{n}/").status_code for n in range(3)] == [200, 200, 429]


def test_requests_without_an_identity_do_not_share_a_bucket(rf: RequestFactory) -> None:
    for key in ("header:X-API-Key", "api_key", "param:who", "cookie:sid", "post:name"):
        view = rate_limit(key, "1/h", group=key)(ok)
        seen = codes(view, [rf.get("/", REMOTE_ADDR=f"192.0.2.{n}") for n in range(5)])
        assert seen == [200] * 5


def test_window_edges_do_not_double_the_rate(rf: RequestFactory, clock: ManualClock) -> None:
    view = rate_limit(rate="10/2s", algorithm="sliding_log")(ok)
    times: list[float] = []
    for _ in range(200):
        if codes(view, [rf.get("/")]) == [200]:
            times.append(clock.now)
        clock.advance(0.05)
    most = max(sum(1 for other in times if start <= other < start + 2) for start in times)
    assert most == 10
