"""Code written for django-ratelimit, with changed imports: what its documentation says holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from tests.django.conftest import User
from tollway import Limiter
from tollway.compat.django_ratelimit import (
    ALL,
    UNSAFE,
    Ratelimited,
    core,
    get_usage,
    get_usage_extended,
    is_ratelimited,
)
from tollway.compat.django_ratelimit.decorators import ratelimit
from tollway.django import checks
from tollway.testing import ManualClock


def ok(request: Any) -> HttpResponse:
    return HttpResponse(str(getattr(request, "limited", "unset")))


async def aok(request: Any) -> HttpResponse:
    return HttpResponse(str(request.limited))


def outcomes(view: Any, requests: Any) -> list[str]:
    """What a view does with requests: passes, or raises Ratelimited."""
    found = []
    for request in requests:
        try:
            found.append(view(request).content.decode())
        except Ratelimited:
            found.append("limited")
    return found


def test_over_the_limit_it_raises(rf: RequestFactory, clock: ManualClock) -> None:
    view = ratelimit(key="ip", rate="2/m")(ok)
    assert outcomes(view, [rf.get("/") for _ in range(3)]) == ["False", "False", "limited"]
    assert issubclass(Ratelimited, PermissionDenied)
    clock.advance(60)
    assert outcomes(view, [rf.get("/")]) == ["False"]


def test_without_blocking_it_annotates(rf: RequestFactory) -> None:
    view = ratelimit(key="ip", rate="1/m", block=False)(ok)
    assert outcomes(view, [rf.get("/") for _ in range(3)]) == ["False", "True", "True"]


async def test_async_views(rf: RequestFactory) -> None:
    view = ratelimit(key="ip", rate="1/m")(aok)
    assert (await view(rf.get("/"))).content == b"False"
    with pytest.raises(Ratelimited) as caught:
        await view(rf.get("/"))
    assert caught.value.usage.retry_after_seconds == 60


def test_methods(rf: RequestFactory) -> None:
    for n, method in enumerate(("POST", ["POST", "PUT"], ratelimit.UNSAFE, UNSAFE)):
        view = ratelimit(key="ip", rate="1/m", method=method, group=f"group {n}")(ok)
        assert outcomes(view, [rf.get("/") for _ in range(2)]) == ["False"] * 2
        assert outcomes(view, [rf.post("/") for _ in range(2)]) == ["False", "limited"]
    view = ratelimit(key="ip", rate="1/m", method=ratelimit.ALL)(ok)
    assert outcomes(view, [rf.get("/"), rf.delete("/")]) == ["False", "limited"]
    assert ratelimit.ALL is ALL


def test_stacked_limits_charge_nothing_when_one_refuses(
    rf: RequestFactory, clock: ManualClock
) -> None:
    view = ratelimit(key="ip", rate="5/h")(ratelimit(key="ip", rate="1/m")(ok))
    assert outcomes(view, [rf.get("/") for _ in range(9)]) == ["False"] + ["limited"] * 8
    for _ in range(4):
        clock.advance(60)
        assert outcomes(view, [rf.get("/")]) == ["False"]
    clock.advance(60)
    assert outcomes(view, [rf.get("/")]) == ["limited"]


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("get:q", {"QUERY_STRING": "q=a"}, {"QUERY_STRING": "q=b"}),
        ("post:q", {"data": {"q": "a"}}, {"data": {"q": "b"}}),
        ("field:q", {"data": {"q": "a"}}, {"data": {"q": "b"}}),
        ("header:x-key", {"headers": {"X-Key": "a"}}, {"headers": {"X-Key": "b"}}),
        ("ip", {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}),
        (f"{__name__}.by_port", {"REMOTE_PORT": "1"}, {"REMOTE_PORT": "2"}),
        (
            lambda group, request: request.META["REMOTE_PORT"],
            {"REMOTE_PORT": "1"},
            {"REMOTE_PORT": "2"},
        ),
    ],
)
def test_keys(rf: RequestFactory, key: Any, first: Any, second: Any) -> None:
    view = ratelimit(key=key, rate="1/m")(ok)
    for options in (first, second):
        assert outcomes(view, [rf.post("/", **options) for _ in range(2)]) == ["False", "limited"]


def by_port(group: str, request: Any) -> str:
    assert group == f"{__name__}.ok"
    return str(request.META["REMOTE_PORT"])


def test_users(rf: RequestFactory) -> None:
    def asked(pk: int, authenticated: bool = True) -> Any:
        request: Any = rf.get("/")
        request.user = User(pk, authenticated=authenticated)
        return request

    for key in ("user", "user_or_ip"):
        view = ratelimit(key=key, rate="1/m", group=key)(ok)
        assert outcomes(view, [asked(1), asked(1), asked(2)]) == ["False", "limited", "False"]
    assert outcomes(view, [asked(3, False), asked(4, False)]) == ["False", "limited"]


def test_get_and_post_of_one_name_are_one_limit(rf: RequestFactory) -> None:
    view = ratelimit(key="get:q", rate="2/m")(ratelimit(key="post:q", rate="2/m")(ok))
    requests = [rf.get("/", {"q": "x"}), rf.post("/", {"q": "x"}), rf.get("/", {"q": "x"})]
    for request in requests:
        request.META["REMOTE_ADDR"] = f"192.0.2.{requests.index(request)}"
    assert outcomes(view, requests) == ["False", "False", "limited"]


def plans(group: str, request: Any) -> Any:
    return {"none": None, "text": "1/m", "pair": (2, 60), "shut": "0/s"}[request.GET["plan"]]


@pytest.mark.parametrize("rate", [plans, f"{__name__}.plans"])
def test_rates_may_be_functions(rf: RequestFactory, rate: Any) -> None:
    view = ratelimit(key="get:plan", rate=rate)(ok)
    for plan, expected in (
        ("none", ["False"] * 3),
        ("text", ["False", "limited", "limited"]),
        ("pair", ["False", "False", "limited"]),
        ("shut", ["limited"] * 3),
    ):
        assert outcomes(view, [rf.get("/", {"plan": plan}) for _ in range(3)]) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("5/s", (5, 1)),
        ("100/5m", (100, 300)),
        ("100/300s", (100, 300)),
        ("100/300", (100, 300)),
        ("4/h", (4, 3600)),
        ("1/2d", (1, 172_800)),
        ((7, 60), (7, 60)),
    ],
)
def test_rates_read(rate: Any, expected: tuple[int, int]) -> None:
    parsed: Any = core.parse_rate(rate)
    assert (parsed.permits, parsed.period) == expected


def test_what_cannot_work_is_named(rf: RequestFactory) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs a key"):
        ratelimit(rate="5/m")
    with pytest.raises(ImproperlyConfigured, match="'5/q' does not read"):
        ratelimit(key="ip", rate="5/q")
    with pytest.raises(ImproperlyConfigured, match="'ipp'"):
        ratelimit(key="ipp", rate="5/m")
    with pytest.raises(ImproperlyConfigured, match="group= or fn="):
        get_usage(rf.get("/"), key="ip", rate="5/m")
    with pytest.raises(ImproperlyConfigured, match="pass key="):
        get_usage(rf.get("/"), group="a", rate="5/m")


def test_groups_are_shared(rf: RequestFactory) -> None:
    views = [ratelimit(group="a", key="ip", rate="1/m")(view) for view in (ok, lambda r: ok(r))]
    assert [outcomes(view, [rf.get("/")])[0] for view in views] == ["False", "limited"]
    alone = ratelimit(group="a", key="ip", rate="1/m", method="GET")(ok)
    assert outcomes(alone, [rf.get("/")]) == ["False"]


def test_usage(rf: RequestFactory, clock: ManualClock) -> None:
    def usage(increment: bool) -> Any:
        return get_usage(rf.get("/"), group="a", key="ip", rate="2/m", increment=increment)

    assert usage(False) == {"count": 0, "limit": 2, "should_limit": False, "time_left": 60}
    assert usage(True) == {"count": 1, "limit": 2, "should_limit": False, "time_left": 60}
    clock.advance(15)
    assert usage(True) == {"count": 2, "limit": 2, "should_limit": False, "time_left": 45}
    assert usage(False) == {"count": 2, "limit": 2, "should_limit": True, "time_left": 45}
    assert usage(True) == {"count": 3, "limit": 2, "should_limit": True, "time_left": 45}
    clock.advance(45)
    assert usage(True)["count"] == 1


def test_looking_first_and_counting_later_does_not_let_two_through(rf: RequestFactory) -> None:
    """What people do to count failures only: one failure an hour must be one."""

    def log_in(right: bool) -> str:
        request = rf.post("/")
        if is_ratelimited(request, group="login", key="ip", rate="1/h"):
            return "limited"
        if not right:
            is_ratelimited(request, group="login", key="ip", rate="1/h", increment=True)
        return "tried"

    assert [log_in(True) for _ in range(3)] == ["tried"] * 3
    assert [log_in(False) for _ in range(3)] == ["tried", "limited", "limited"]


def test_the_helper_and_the_decorator_share_a_view(rf: RequestFactory) -> None:
    view = ratelimit(key="ip", rate="2/m")(ok)
    assert outcomes(view, [rf.get("/")]) == ["False"]
    usage = get_usage_extended(rf.get("/"), fn=view, key="ip", rate="2/m")
    assert usage is not None
    assert (usage["count"], usage["group"]) == (1, f"{__name__}.ok")


def test_where_a_limit_does_not_apply(rf: RequestFactory) -> None:
    assert get_usage(rf.get("/"), group="a", key="ip", rate=None) is None
    assert get_usage(rf.get("/"), group="a", key="ip", rate="1/m", method="POST") is None
    request: Any = rf.get("/")
    assert not is_ratelimited(request, group="a", key="ip", rate=None)
    assert request.limited is False
    with override_settings(RATELIMIT_ENABLE=False):
        assert get_usage(rf.get("/"), group="a", key="ip", rate="1/m") is None
        view = ratelimit(key="ip", rate="1/m")(ok)
        assert outcomes(view, [rf.get("/") for _ in range(3)]) == ["False"] * 3


class Shop(View):
    @method_decorator(ratelimit(key="ip", rate="1/m", method="GET"))
    def get(self, request: Any) -> HttpResponse:
        return HttpResponse("get")

    @method_decorator(ratelimit(key="ip", rate="9/h"))
    @method_decorator(ratelimit(key="ip", rate="2/m"))
    def post(self, request: Any) -> HttpResponse:
        return HttpResponse("post")


def test_class_views(rf: RequestFactory, clock: ManualClock) -> None:
    view = Shop.as_view()
    assert outcomes(view, [rf.get("/") for _ in range(2)]) == ["get", "limited"]
    assert outcomes(view, [rf.post("/") for _ in range(9)]) == ["post"] * 2 + ["limited"] * 7
    clock.advance(60)
    assert outcomes(view, [rf.post("/") for _ in range(3)]) == ["post"] * 2 + ["limited"]
    whole = ratelimit(key="ip", rate="1/m", method="PUT")(Shop.as_view())
    assert whole(rf.put("/")).status_code == 405
    with pytest.raises(Ratelimited):
        whole(rf.put("/"))


def limited_view(request: Any, exception: Exception) -> HttpResponse:
    assert request.limited
    return HttpResponse(type(exception).__name__, status=429)


async def alimited_view(request: Any, exception: Exception) -> HttpResponse:
    return limited_view(request, exception)


urlpatterns = [
    path("ok/", ratelimit(key="ip", rate="1/m")(ok)),
    path("aok/", ratelimit(key="ip", rate="1/m")(aok)),
]


class TestMiddleware:
    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        with override_settings(
            ROOT_URLCONF=__name__,
            MIDDLEWARE=["tollway.compat.django_ratelimit.middleware.RatelimitMiddleware"],
            RATELIMIT_VIEW=f"{__name__}.limited_view",
        ):
            yield

    def test_a_view_of_the_projects_own(self) -> None:
        answers = [Client().get("/ok/") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].content == b"Ratelimited"
        assert answers[1]["Retry-After"] == "60"
        assert answers[0]["X-RateLimit-Limit"] == "1"

    async def test_async(self) -> None:
        with override_settings(RATELIMIT_VIEW=f"{__name__}.alimited_view"):
            answers = [await AsyncClient().get("/aok/") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]

    def test_without_it_django_answers_403(self) -> None:
        with override_settings(MIDDLEWARE=[]):
            assert [Client().get("/ok/").status_code for _ in range(2)] == [200, 403]

    def test_the_view_must_be_named(self) -> None:
        with override_settings(RATELIMIT_VIEW=None):
            Client().get("/ok/")
            with pytest.raises(ImproperlyConfigured, match="RATELIMIT_VIEW"):
                Client().get("/ok/")


def addresses(rf: RequestFactory, *found: str, **options: Any) -> list[Any]:
    return [rf.get("/", REMOTE_ADDR=address, **options) for address in found]


def test_addresses_and_masks(rf: RequestFactory) -> None:
    view = ratelimit(key="ip", rate="1/m")(ok)
    six = addresses(rf, "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    assert outcomes(view, six) == ["False", "limited", "False"]
    with override_settings(RATELIMIT_IPV4_MASK=24, RATELIMIT_IPV6_MASK=32):
        four = addresses(rf, "192.0.2.1", "192.0.2.2", "192.0.3.1")
        assert outcomes(view, four) == ["False", "limited", "False"]
        assert outcomes(view, six) == ["False", "limited", "limited"]
    for n, source in enumerate(("HTTP_X_REAL_IP", f"{__name__}.real_ip", real_ip)):
        view = ratelimit(key="ip", rate="1/m", group=f"group {n}")(ok)
        with override_settings(RATELIMIT_IP_META_KEY=source):
            said = [rf.get("/", headers={"X-Real-IP": f"198.51.100.{n}"}) for n in (1, 1, 2)]
            assert outcomes(view, said) == ["False", "limited", "False"]
            nonsense = [rf.get("/", headers={"X-Real-IP": "<>"}) for _ in range(2)]
            assert outcomes(view, nonsense) == ["False", "limited"]


def test_two_projects_in_one_store(rf: RequestFactory, redis_url: str) -> None:
    view = ratelimit(key="ip", rate="1/m", group=redis_url)(ok)
    with override_settings(RATELIMIT_BACKEND=redis_url, RATELIMIT_COMMAND_TIMEOUT=5.0):
        for prefix in ("one:", "two:"):
            with override_settings(RATELIMIT_CACHE_PREFIX=prefix):
                assert outcomes(view, [rf.get("/") for _ in range(2)]) == ["False", "limited"]


def real_ip(request: Any) -> str:
    return str(request.META["HTTP_X_REAL_IP"])


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ({"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, "memory://"),
        (
            {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": ["redis://127.0.0.1:1/3", "redis://127.0.0.1:2/3"],
            },
            "redis://127.0.0.1:1/3",
        ),
        (
            {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://h:1/2"},
            "redis://h:1/2",
        ),
        ({"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "t"}, None),
    ],
)
def test_the_cache_says_where_counts_are_kept(
    monkeypatch: pytest.MonkeyPatch, cache: Any, expected: str | None
) -> None:
    with override_settings(CACHES={"limits": cache}, RATELIMIT_USE_CACHE="limits"):
        from django.conf import settings

        with override_settings():
            del settings.RATELIMIT_BACKEND
            if expected is None:
                with pytest.raises(ImproperlyConfigured, match="set RATELIMIT_BACKEND"):
                    core.limiter()
            else:
                assert core.limiter().url == expected


@pytest.mark.parametrize(("fail_open", "expected"), [(True, [200] * 3), (False, [503] * 3)])
def test_when_the_store_is_away(
    rf: RequestFactory, dead_store: str, fail_open: bool, expected: list[int]
) -> None:
    with override_settings(RATELIMIT_BACKEND=dead_store, RATELIMIT_FAIL_OPEN=fail_open):
        view = ratelimit(key="ip", rate="1/m")(ok)
        assert [view(rf.get("/")).status_code for _ in range(3)] == expected
        limited = is_ratelimited(rf.get("/"), group="a", key="ip", rate="1/m", increment=True)
        assert limited is not fail_open


def test_its_settings_are_known_to_the_checks() -> None:
    assert "tollway.compat.django_ratelimit.core" in sys.modules
    with override_settings(RATELIMIT_VIEW="x", RATELIMIT_USE_CACHE="y", RATELIMIT_VEW="z"):
        (message,) = checks.unknown_settings(None)
    assert "RATELIMIT_VEW" in message.msg


def test_eight_times_at_once_admits_the_limit(rf: RequestFactory) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with override_settings(RATELIMIT_BACKEND=Limiter("memory://")):
        view = ratelimit(key="ip", rate="100/h")(ok)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: outcomes(view, [rf.get("/")])[0], range(300)))
    assert found.count("limited") == 200
