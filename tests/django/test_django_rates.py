"""Rates as functions, costs known afterwards, and one check for all limits of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.views import View

from tests.django.conftest import acodes, codes
from tollway import ConfigError, Limiter, Policy, Rate
from tollway.django import conf, rate_limit
from tollway.testing import ManualClock

MIDDLEWARE = "tollway.django.middleware.RateLimitMiddleware"


def ok(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


async def aok(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def by_plan(request: HttpRequest) -> Any:
    plans: dict[str, Any] = {"free": "1/h", "pro": [Rate(3, "1h"), "10/d"], "staff": None}
    return plans[request.GET["plan"]]


def test_a_rate_may_be_a_function(rf: RequestFactory) -> None:
    view = rate_limit("param:who", by_plan)(ok)
    for who, plan, expected in (
        ("a", "free", [200, 429, 429, 429]),
        ("b", "pro", [200, 200, 200, 429]),
        ("c", "staff", [200] * 4),
    ):
        requests = [rf.get("/", {"who": who, "plan": plan}) for _ in range(4)]
        assert codes(view, requests) == expected


def test_who_changes_the_plan_keeps_what_was_spent(rf: RequestFactory) -> None:
    view = rate_limit("param:who", by_plan, algorithm="fixed_window")(ok)
    spend = [rf.get("/", {"who": "a", "plan": "pro"}) for _ in range(3)]
    assert codes(view, spend) == [200] * 3
    assert codes(view, [rf.get("/", {"who": "a", "plan": "free"})]) == [429]


async def test_an_async_rate(rf: RequestFactory) -> None:
    async def rate(request: HttpRequest) -> str:
        return "1/h"

    assert await acodes(rate_limit(rate=rate)(aok), [rf.get("/"), rf.get("/")]) == [200, 429]
    with pytest.raises(ConfigError, match="async, but the view is not"):
        rate_limit(rate=rate)(ok)(rf.get("/"))


def test_a_bad_answer_of_a_rate_function_is_named(rf: RequestFactory) -> None:
    for answer, part in (("5/q", "5/q"), (5, "5 is no rate")):
        view = rate_limit(rate=lambda _, answer=answer: answer)(ok)
        with pytest.raises(ConfigError, match=part):
            view(rf.get("/"))


def test_many_rates_do_not_pile_up(rf: RequestFactory) -> None:
    view = rate_limit(rate=lambda request: f"{request.GET['n']}/h")(ok)
    for n in range(1, conf.POLICIES_MAX + 50):
        view(rf.get("/", {"n": n}))
    setup = conf.current()
    assert len(setup._policies) <= conf.POLICIES_MAX


def weigh(request: HttpRequest, response: HttpResponse | None) -> int:
    """Ten permits are put aside; the answer says what it was."""
    return 10 if response is None else int(response["X-Cost"])


def weighed(request: HttpRequest) -> HttpResponse:
    return HttpResponse("done", headers={"X-Cost": request.GET["n"]})


async def aweighed(request: HttpRequest) -> HttpResponse:
    return weighed(request)


def left(limiter: Limiter, name: str) -> int:
    return limiter.peek(Policy(f"{__name__}.{name}/ip/20/h", ["20/h"]), "127.0.0.1", 0).remaining


@pytest.mark.parametrize(("actual", "expected"), [(3, 17), (10, 10), (12, 8), (0, 20)])
async def test_the_difference_is_settled_after_the_answer(
    rf: RequestFactory, limiter: Limiter, actual: int, expected: int
) -> None:
    rate_limit(rate="20/h", cost=weigh)(weighed)(rf.get("/", {"n": actual}))
    assert left(limiter, "weighed") == expected
    await rate_limit(rate="20/h", cost=weigh)(aweighed)(rf.get("/", {"n": actual}))
    assert left(limiter, "aweighed") == expected


def test_a_refused_request_is_not_settled(rf: RequestFactory, limiter: Limiter) -> None:
    view = rate_limit(rate="20/h", cost=weigh)(weighed)
    assert codes(view, [rf.get("/", {"n": 10}) for _ in range(3)]) == [200, 200, 429]
    assert left(limiter, "weighed") == 0


def test_a_view_that_raises_keeps_the_estimate(rf: RequestFactory, limiter: Limiter) -> None:
    with pytest.raises(KeyError):
        rate_limit(rate="20/h", cost=weigh)(weighed)(rf.get("/"))
    assert left(limiter, "weighed") == 10


def test_a_refusal_of_one_backend_is_given_back_on_the_others(
    rf: RequestFactory, clock: ManualClock, limiter: Limiter
) -> None:
    other = Limiter("memory://", clock=clock)
    view = rate_limit(rate="20/h")(rate_limit(rate="1/h", backend=other)(ok))
    assert codes(view, [rf.get("/") for _ in range(5)]) == [200] + [429] * 4
    assert left(limiter, "ok") == 19


async def everybody(request: HttpRequest) -> str:
    return "everybody"


class Orders(View):
    @rate_limit(rate="1/h", method="POST")
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ordered")

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("orders")


urlpatterns = [
    path("tight/", rate_limit(rate="1/h")(ok)),
    path("atight/", rate_limit(rate="1/h")(aok)),
    path("orders/", Orders.as_view()),
    path("weighed/", rate_limit(rate="20/h", cost=weigh)(weighed)),
    path("items/<int:item>/", lambda request, item: HttpResponse("item")),
    path("plain/", ok),
]


class TestTogether:
    """The middleware and the decorator on one request are one check."""

    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        with override_settings(
            ROOT_URLCONF=__name__, MIDDLEWARE=[MIDDLEWARE], RATELIMIT_DEFAULT_LIMIT="4/h"
        ):
            yield

    def site(self, limiter: Limiter) -> int:
        return limiter.peek(Policy("middleware/ip/default", ["4/h"]), "127.0.0.1", 0).remaining

    def test_what_the_view_refuses_the_site_is_not_charged_for(self, limiter: Limiter) -> None:
        answers = [Client().get("/tight/") for _ in range(9)]
        assert [answer.status_code for answer in answers] == [200] + [429] * 8
        assert self.site(limiter) == 3
        assert answers[-1]["RateLimit-Policy"].count("q=") == 2

    async def test_async(self, limiter: Limiter) -> None:
        answers = [await AsyncClient().get("/atight/") for _ in range(9)]
        assert [answer.status_code for answer in answers] == [200] + [429] * 8
        assert self.site(limiter) == 3

    async def test_an_async_key_of_the_middleware_before_a_sync_view(
        self, limiter: Limiter
    ) -> None:
        with override_settings(RATELIMIT_MIDDLEWARE={"KEY": everybody}):
            answers = [await AsyncClient().get("/tight/") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]

    def test_the_other_way_round(self, limiter: Limiter) -> None:
        assert [Client().get("/plain/").status_code for _ in range(5)] == [200] * 4 + [429]
        assert Client().get("/tight/").status_code == 429
        policy = Policy(f"{__name__}.ok/ip/1/h", ["1/h"])
        assert limiter.peek(policy, "127.0.0.1", 0).remaining == 1

    def test_a_limited_method(self, limiter: Limiter) -> None:
        assert [Client().post("/orders/").status_code for _ in range(3)] == [200, 429, 429]
        assert self.site(limiter) == 3
        assert Client().get("/orders/").status_code == 200
        assert self.site(limiter) == 2

    def test_what_no_view_answers_counts_too(self) -> None:
        answers = [Client().get("/nowhere/") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [404] * 4 + [429] * 2
        assert answers[-1]["Retry-After"]

    def test_costs_are_settled_by_the_middleware(self, limiter: Limiter) -> None:
        assert Client().get("/weighed/?n=3").status_code == 200
        assert left(limiter, "weighed") == 17

    def test_a_path_or_a_route_as_scope(self, limiter: Limiter) -> None:
        rules = {"RATE_LIMITS": {"/": {"rate": "2/h", "scope": "route"}}}
        with override_settings(RATELIMIT_MIDDLEWARE=rules):
            seen = [Client().get(f"/items/{item}/").status_code for item in range(3)]
            assert seen == [200, 200, 429]
            answer = Client().get("/plain/")
        assert answer.status_code == 200
        assert "plain" in answer["RateLimit-Policy"]


def test_adaptive_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"adaptive=.*pass rate= a function"):
        rate_limit(rate="5/m", adaptive="cpu")
