"""@rate_limit on functions, methods and classes, sync and async, with time as a value."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import django
import pytest
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import RequestFactory, override_settings
from django.utils.decorators import method_decorator
from django.views import View

from tests.django.conftest import User, acodes, codes
from tollway import ConfigError, Limiter, Policy, Rate
from tollway.django import rate_limit, ratelimit
from tollway.testing import ManualClock


def ok(request: HttpRequest, *arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


async def aok(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def test_five_of_seven_pass_and_after_the_wait_one_more(
    rf: RequestFactory, clock: ManualClock
) -> None:
    view = rate_limit(key="ip", rate="5/10s")(ok)
    answers = [view(rf.get("/")) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == list("4321000")
    assert answers[-1]["Retry-After"] == "2"
    assert "Retry-After" not in answers[0]
    name = "tests.django.test_django_decorator.ok/ip/5/10s"
    assert answers[0]["RateLimit-Policy"] == f'"{name}";q=5;w=10'
    clock.advance(0.001)
    assert view(rf.get("/"))["Retry-After"] == "2"
    clock.advance(1.999)
    assert codes(view, [rf.get("/"), rf.get("/")]) == [200, 429]


async def test_async_views_are_awaited(rf: RequestFactory) -> None:
    view = rate_limit(key="ip", rate="2/h")(aok)
    assert asyncio.iscoroutinefunction(view)
    assert await acodes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]


def test_one_request_object_may_be_used_again(rf: RequestFactory, clock: ManualClock) -> None:
    view = rate_limit(rate="2/10s")(ok)
    request = rf.get("/")
    assert codes(view, [request] * 3) == [200, 200, 429]
    clock.advance(10)
    answer = view(request)
    assert (answer.status_code, answer["X-RateLimit-Remaining"]) == (200, "1")
    assert not request.rate_limit_exceeded  # type: ignore[attr-defined]


def test_the_view_sees_the_decision(rf: RequestFactory) -> None:
    @ratelimit(rate="2/h")
    def view(request: Any) -> HttpResponse:
        return HttpResponse(str(request.rate_limit.remaining))

    assert [view(rf.get("/")).content for _ in range(2)] == [b"1", b"0"]
    request: Any = rf.get("/")
    view(request)
    assert not request.rate_limit.allowed
    assert request.rate_limit_exceeded


def test_two_views_and_two_rates_do_not_share(rf: RequestFactory) -> None:
    def other(request: HttpRequest) -> HttpResponse:
        return HttpResponse("other")

    views = [rate_limit(rate="1/h")(ok), rate_limit(rate="1/h")(other), rate_limit(rate="2/h")(ok)]
    for view in views:
        assert view(rf.get("/")).status_code == 200
    assert codes(views[0], [rf.get("/")]) == [429]


def test_a_group_is_shared_on_purpose(rf: RequestFactory) -> None:
    def other(request: HttpRequest) -> HttpResponse:
        return HttpResponse("other")

    views = [rate_limit(rate="1/h", group="api: search")(view) for view in (ok, other)]
    assert [view(rf.get("/")).status_code for view in views] == [200, 429]


def stack(view: Any) -> Any:
    return rate_limit(rate="100/d")(rate_limit(rate="2/10s")(view))


@pytest.mark.parametrize("between", [None, login_required])
def test_stacked_limits_are_all_or_nothing(
    rf: RequestFactory, limiter: Limiter, between: Any
) -> None:
    inner = rate_limit(rate="2/10s")(ok)
    view = rate_limit(rate="100/d")(inner if between is None else between(inner))
    answers = []
    for _ in range(20):
        request: Any = rf.get("/")
        request.user = User(1)
        answers.append(view(request))
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 18
    path = "tests.django.test_django_decorator.ok/ip"
    assert answers[-1]["RateLimit-Policy"] == (
        f'"{path}/100/d";q=100;w=86400, "{path}/2/10s";q=2;w=10'
    )
    daily = Policy(f"{path}/100/d", ["100/d"])
    assert limiter.check(daily, "127.0.0.1", 98).allowed
    assert not limiter.check(daily, "127.0.0.1").allowed


async def test_stacked_async_limits_are_all_or_nothing(
    rf: RequestFactory, limiter: Limiter
) -> None:
    view = stack(aok)
    assert await acodes(view, [rf.get("/") for _ in range(5)]) == [200] * 2 + [429] * 3
    daily = Policy("tests.django.test_django_decorator.aok/ip/100/d", ["100/d"])
    assert limiter.check(daily, "127.0.0.1", 98).allowed


def test_a_limit_stated_twice_is_charged_once(rf: RequestFactory) -> None:
    view = rate_limit(rate="2/h", group="api")(rate_limit(rate="2/h", group="api")(ok))
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]


@method_decorator(rate_limit(rate="3/h"), name="dispatch")
class Shop(View):
    @method_decorator(rate_limit(rate="2/h"))
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("get")

    @rate_limit(rate="2/h")
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("post")


class Corner(Shop):
    pass


def test_class_and_method_limits_are_one_check(rf: RequestFactory, limiter: Limiter) -> None:
    view = Shop.as_view()
    assert codes(view, [rf.get("/") for _ in range(9)]) == [200, 200] + [429] * 7
    assert codes(view, [rf.post("/") for _ in range(2)]) == [200, 429]
    name = "tests.django.test_django_decorator.Shop"
    refused = view(rf.post("/"))
    assert f'"{name}/ip/3/h"' in refused["RateLimit-Policy"]
    assert f'"{name}.post/ip/2/h"' in refused["RateLimit-Policy"]
    # The class' own limit refused the second post, so the method's was not charged for it.
    assert limiter.check(Policy(f"{name}.post/ip/2/h", ["2/h"]), "127.0.0.1").allowed


def test_a_subclass_counts_for_itself(rf: RequestFactory) -> None:
    assert codes(Shop.as_view(), [rf.get("/") for _ in range(3)]) == [200, 200, 429]
    assert codes(Corner.as_view(), [rf.get("/") for _ in range(3)]) == [200, 200, 429]


def test_head_is_counted_as_get(rf: RequestFactory) -> None:
    view = Shop.as_view()
    assert codes(view, [rf.get("/"), rf.head("/"), rf.head("/")]) == [200, 200, 429]


class AsyncShop(View):
    @method_decorator(rate_limit(rate="100/d"))
    @method_decorator(rate_limit(rate="2/h"))
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("get")


@rate_limit(rate="2/h")
class AsyncWhole(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("get")


class AsyncDirect(View):
    @rate_limit(rate="2/h")
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("get")


class Plain(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("get")


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(
            AsyncShop.as_view(),
            marks=pytest.mark.skipif(
                django.VERSION < (5,),
                reason="method_decorator() of Django 4.2 makes a sync function of an async method",
            ),
        ),
        AsyncWhole.as_view(),
        AsyncDirect.as_view(),
        rate_limit(rate="2/h")(Plain.as_view()),
    ],
)
async def test_async_class_views(rf: RequestFactory, view: Any) -> None:
    answers = [await view(rf.get("/")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[0]["X-RateLimit-Limit"] == "2"


async def test_an_async_class_never_blocks_on_the_store(rf: RequestFactory) -> None:
    class Watched:
        """A limiter whose blocking face must stay unused."""

        url, fail_mode = "memory://", "local"
        inner = Limiter("memory://")

        async def acheck(self, *charge: Any) -> Any:
            return await self.inner.acheck(*charge)

        def check(self, *charge: Any) -> Any:
            raise AssertionError("blocked the event loop")

    view = method_decorator(rate_limit(rate="2/h", backend=Watched()), name="dispatch")(  # type: ignore[arg-type]
        type("Whole", (Plain,), {})
    ).as_view()
    with override_settings(RATELIMIT_BACKEND="memory://"):
        assert await acodes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]


def test_block_false_marks_and_lets_pass(rf: RequestFactory) -> None:
    @rate_limit(rate="1/h", block=False)
    def view(request: Any) -> HttpResponse:
        return HttpResponse(str(request.rate_limit_exceeded))

    answers = [view(rf.get("/")) for _ in range(2)]
    assert [answer.content for answer in answers] == [b"False", b"True"]
    assert answers[1].status_code == 200
    assert answers[1]["X-RateLimit-Remaining"] == "0"
    assert "Retry-After" not in answers[1]


def test_a_soft_limit_does_not_shelter_from_a_hard_one(rf: RequestFactory) -> None:
    soft = rate_limit(rate="1/h", block=False)
    view = soft(rate_limit(rate="3/h")(ok))
    requests: list[Any] = [rf.get("/") for _ in range(5)]
    assert codes(view, requests) == [200, 200, 200, 429, 429]
    assert [request.rate_limit_exceeded for request in requests] == [False] + [True] * 4


def test_methods(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h", method=["POST", "put"])(ok)
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200] * 3
    assert codes(view, [rf.post("/"), rf.put("/")]) == [200, 429]


def test_cost(rf: RequestFactory) -> None:
    view = rate_limit(rate="5/h", cost=lambda request: int(request.GET.get("n", 1)))(ok)
    assert codes(view, [rf.get("/?n=4"), rf.get("/?n=2"), rf.get("/"), rf.get("/")]) == [
        200,
        429,
        200,
        429,
    ]
    never = view(rf.get("/?n=6"))
    assert never.status_code == 429
    assert "Retry-After" not in never
    with pytest.raises(ConfigError, match="returned -1"):
        view(rf.get("/?n=-1"))


def test_skip_if(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h", skip_if=lambda request: "staff" in request.GET)(ok)
    assert codes(view, [rf.get("/?staff") for _ in range(3)]) == [200] * 3
    assert codes(view, [rf.get("/"), rf.get("/")]) == [200, 429]


def test_response_callback(rf: RequestFactory) -> None:
    def slow_down(request: Any) -> HttpResponse:
        return JsonResponse({"wait": request.rate_limit.retry_after_seconds}, status=429)

    view = rate_limit(rate="1/h", response_callback=slow_down)(ok)
    view(rf.get("/"))
    answer = view(rf.get("/"))
    assert answer.content == b'{"wait": 3600}'
    assert answer["Retry-After"] == "3600"


async def test_functions_may_be_async_in_async_views(rf: RequestFactory) -> None:
    async def key(request: HttpRequest) -> str:
        return request.GET["who"]

    async def skip(request: HttpRequest) -> bool:
        return "skip" in request.GET

    async def say(request: HttpRequest) -> HttpResponse:
        return HttpResponse("no", status=429)

    view = rate_limit(key=key, rate="1/h", skip_if=skip, response_callback=say)(aok)
    paths = ["/?who=a", "/?who=a", "/?who=b", "/?who=a&skip"]
    assert await acodes(view, [rf.get(path) for path in paths]) == [200, 429, 200, 200]
    with pytest.raises(ConfigError, match="async, but the view is not"):
        rate_limit(key=key, rate="1/h")(ok)(rf.get("/?who=a"))


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("header:X-Key", {"headers": {"X-Key": "a"}}, {"headers": {"X-Key": "b"}}),
        ("param:who", {"QUERY_STRING": "who=a"}, {"QUERY_STRING": "who=b"}),
        ("cookie:sid", {"headers": {"Cookie": "sid=a"}}, {"headers": {"Cookie": "sid=b"}}),
        ("post:name", {"data": {"name": "a"}}, {"data": {"name": "b"}}),
        (lambda request: request.META["REMOTE_PORT"], {"REMOTE_PORT": 1}, {"REMOTE_PORT": 2}),
    ],
)
def test_keys(rf: RequestFactory, key: Any, first: Any, second: Any) -> None:
    view = rate_limit(key=key, rate="1/h")(ok)
    for options in (first, second, {"REMOTE_PORT": None}):
        # The last has nothing that was asked for: its address is counted instead.
        assert codes(view, [rf.post("/", **options) for _ in range(2)]) == [200, 429]


def test_users(rf: RequestFactory) -> None:
    def asked(user: Any) -> Any:
        request: Any = rf.get("/")
        request.user = user
        return request

    for key in ("user", "user_or_ip"):
        view = rate_limit(key=key, rate="1/h")(ok)
        for pk in (1, 2):
            assert codes(view, [asked(User(pk)) for _ in range(2)]) == [200, 429]
        assert codes(view, [asked(User(9, authenticated=False)) for _ in range(2)]) == [200, 429]
    with pytest.raises(ConfigError, match="AuthenticationMiddleware"):
        rate_limit(key="user", rate="1/h")(ok)(rf.get("/"))


async def test_an_async_user_is_awaited(rf: RequestFactory) -> None:
    async def auser() -> User:
        return User(7)

    requests: list[Any] = [rf.get("/") for _ in range(2)]
    for request in requests:
        request.auser = auser
    assert await acodes(rate_limit(key="user", rate="1/h")(aok), requests) == [200, 429]


def test_global_is_one_count_for_everybody(rf: RequestFactory) -> None:
    view = rate_limit(key="global", rate="1/h")(ok)
    requests = [rf.get("/", REMOTE_ADDR=f"192.0.2.{n}") for n in (1, 2)]
    assert codes(view, requests) == [200, 429]


def test_an_ipv6_network_is_one_client(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h")(ok)
    seen = [
        rf.get("/", REMOTE_ADDR=f"2001:db8:0:{net}::{n}") for net, n in ((1, 1), (1, 2), (2, 1))
    ]
    assert codes(view, seen) == [200, 429, 200]


def test_forwarded_headers_count_from_trusted_proxies_only(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h")(ok)

    def through(n: int) -> Any:
        return rf.get("/", headers={"X-Forwarded-For": f"203.0.113.{n}"})

    assert codes(view, [through(1), through(2)]) == [200, 429]
    with override_settings(RATELIMIT_TRUSTED_PROXIES=["127.0.0.1"]):
        assert codes(view, [through(1), through(2), through(1)]) == [200, 200, 429]


def test_rates_as_objects_and_several_in_one_text(rf: RequestFactory) -> None:
    view = rate_limit(rate=[Rate(3, "1h"), "2/s"])(ok)
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]
    view = rate_limit(rate="2/s; 3/h", algorithm="fixed_window")(ok)
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]


def test_another_backend(rf: RequestFactory, clock: ManualClock) -> None:
    view = rate_limit(rate="1/h", backend="logins")(ok)
    with override_settings(RATELIMIT_BACKENDS={"logins": Limiter("memory://", clock=clock)}):
        assert codes(view, [rf.get("/"), rf.get("/")]) == [200, 429]
        assert codes(rate_limit(rate="1/h")(ok), [rf.get("/")]) == [200]
    with pytest.raises(ConfigError, match="unknown backend 'logins'"):
        view(rf.get("/"))


def test_a_view_that_raises_runs_once(rf: RequestFactory) -> None:
    calls = []

    @rate_limit(rate="5/h")
    def view(request: HttpRequest) -> HttpResponse:
        calls.append(request)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        view(rf.get("/"))
    assert len(calls) == 1


def test_it_can_be_switched_off(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h")(ok)
    with override_settings(RATELIMIT_ENABLE=False):
        request: Any = rf.get("/")
        assert codes(view, [request] * 3) == [200] * 3
        assert request.rate_limit is None
        assert request.rate_limit_exceeded is False


def test_the_default_rate_and_algorithm_come_from_settings(rf: RequestFactory) -> None:
    view = rate_limit()(ok)
    with pytest.raises(ConfigError, match="RATELIMIT_DEFAULT_LIMIT"):
        view(rf.get("/"))
    with override_settings(RATELIMIT_DEFAULT_LIMIT="1/h", RATELIMIT_ALGORITHM="token_bucket"):
        answer = view(rf.get("/"))
        assert answer["X-RateLimit-Bucket-Size"] == "1"
        assert codes(view, [rf.get("/")]) == [429]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rate": "5/q"}, "5/q"),
        ({"rate": 5}, "5 is no rate"),
        ({"rate": "5/s", "key": "ipp"}, 'Did you mean "ip"'),
        ({"rate": "5/s", "key": "header:"}, "lacks a name"),
        ({"rate": "5/s", "algorithm": "gcraa"}, "gcra"),
        ({"rate": "5/s", "method": "PSOT"}, "did you mean 'POST'"),
        ({"rate": "5/s", "cost": 0}, "cost=0"),
        ({"rate": "5/s", "group": ""}, "group=''"),
        ({"rate": "5/s", "skip_if": True}, "skip_if=True"),
        ({"rate": "5/s", "backend": 5}, "5 is no backend"),
    ],
)
def test_what_cannot_work_is_named_where_it_is_written(options: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        rate_limit(**options)


def test_misplaced_decorators_are_explained(rf: RequestFactory) -> None:
    with pytest.raises(ConfigError, match="parentheses"):
        rate_limit(rate="1/h")(lambda *_: HttpResponse())(1)
    with pytest.raises(ConfigError, match="no dispatch"):
        rate_limit(rate="1/h")(type("Model", (), {}))
    lambdas = [functools.partial(rate_limit, key=lambda _: "a", rate="1/h")() for _ in range(2)]
    with pytest.raises(ConfigError, match="group="):
        lambdas[0](lambdas[1](ok))


@pytest.mark.parametrize(
    ("fail_mode", "expected"),
    [("closed", [503] * 7), ("open", [200] * 7), ("local", [200] * 5 + [429] * 2)],
)
async def test_a_dead_store(
    rf: RequestFactory, dead_store: str, fail_mode: str, expected: list[int]
) -> None:
    with override_settings(RATELIMIT_BACKEND=dead_store, RATELIMIT_FAIL_MODE=fail_mode):
        requests: list[Any] = [rf.get("/") for _ in range(7)]
        assert codes(rate_limit(rate="5/h")(ok), requests) == expected
        assert await acodes(rate_limit(rate="5/h")(aok), requests) == expected
        if fail_mode == "closed":
            answer = rate_limit(rate="5/h")(ok)(rf.get("/"))
            assert answer["Retry-After"] == "1"
            soft = rate_limit(rate="5/h", block=False)(ok)
            assert codes(soft, requests[:1]) == [200]
            assert requests[0].rate_limit_exceeded
        else:
            assert requests[0].rate_limit.degraded
