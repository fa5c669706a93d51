"""Throttles that take the place of REST framework's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings
from rest_framework import throttling
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from tests.django.conftest import User, codes
from tests.django.test_django_drf import TokenAuthentication
from tollway import Limiter, Policy
from tollway.django import checks, rate_limit
from tollway.django.throttles import (
    AnonRateThrottle,
    ScopedRateThrottle,
    SimpleRateThrottle,
    UserRateThrottle,
)
from tollway.testing import ManualClock

RATES = {"anon": "3/min", "user": "5/min", "burst": "2/sec", "day": "100/day", "uploads": "1/hour"}


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> Any:
    settings = {"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []}
    monkeypatch.setattr(SimpleRateThrottle, "THROTTLE_RATES", RATES)
    with override_settings(REST_FRAMEWORK=settings):
        yield


def view_of(*classes: Any, **attributes: Any) -> Any:
    def get(self: Any, request: Any) -> Response:
        return Response({"left": request.rate_limit.remaining})

    body = {
        "authentication_classes": [TokenAuthentication],
        "throttle_classes": list(classes),
        "get": get,
        **attributes,
    }
    return type("Items", (APIView,), body).as_view()


def test_a_project_changes_its_setting_only(rf: RequestFactory, clock: ManualClock) -> None:
    stated = {
        "DEFAULT_THROTTLE_CLASSES": ["tollway.django.throttles.AnonRateThrottle"],
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_AUTHENTICATION_CLASSES": [],
    }
    with override_settings(REST_FRAMEWORK=stated):
        view = view_of()
        classes = api_settings.DEFAULT_THROTTLE_CLASSES
        assert classes == [AnonRateThrottle]
        view = view_of(*classes)
    answers = [view(rf.get("/")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].data["detail"].startswith("Request was throttled. Expected available in 20")
    assert answers[-1]["Retry-After"] == "20"
    assert answers[0]["X-RateLimit-Remaining"] == "2"
    assert answers[-1]["RateLimit-Policy"] == '"throttle/anon";q=3;w=60'
    clock.advance(20)
    assert view(rf.get("/")).status_code == 200


def test_users_and_those_who_are_not_logged_in(rf: RequestFactory) -> None:
    view = view_of(AnonRateThrottle, UserRateThrottle)
    known = [rf.get("/", headers={"X-Token": "1"}) for _ in range(6)]
    assert codes(view, known) == [200] * 5 + [429]
    assert codes(view, [rf.get("/", headers={"X-Token": "2"})]) == [200]
    assert codes(view, [rf.get("/") for _ in range(4)]) == [200] * 3 + [429]


def test_scopes(rf: RequestFactory) -> None:
    upload = view_of(ScopedRateThrottle, throttle_scope="uploads")
    plain = view_of(ScopedRateThrottle, get=lambda self, request: Response())
    assert codes(upload, [rf.get("/") for _ in range(2)]) == [200, 429]
    assert codes(plain, [rf.get("/") for _ in range(9)]) == [200] * 9
    with pytest.raises(ImproperlyConfigured, match="nowhere"):
        view_of(ScopedRateThrottle, throttle_scope="nowhere")(rf.get("/"))


class Burst(UserRateThrottle):
    scope = "burst"


class Day(UserRateThrottle):
    scope = "day"


@pytest.mark.parametrize("order", [(Burst, Day), (Day, Burst)])
def test_several_throttles_are_one_check(
    rf: RequestFactory, limiter: Limiter, clock: ManualClock, order: Any
) -> None:
    view = view_of(*order)
    answers = [view(rf.get("/")) for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 18
    assert answers[0]["RateLimit-Policy"].count("q=") == 2
    clock.advance(0.5)
    # Had the 18 refusals been charged, fewer than 98 were left of the day.
    assert view(rf.get("/")).data == {"left": 0}
    day = Policy("throttle/day", ["100/d"])
    assert limiter.peek(day, "throttle_day_127.0.0.1", 0).remaining == 97


def test_one_round_trip(rf: RequestFactory) -> None:
    class Watched:
        url, fail_mode = "memory://", "local"
        inner = Limiter("memory://")
        asked: list[int] = []

        def acheck(self, *charge: Any) -> Any:
            raise AssertionError("REST framework is sync")

        check = acheck

        def check_all(self, charges: Any) -> Any:
            self.asked.append(len(charges))
            return self.inner.check_all(charges)

    with override_settings(RATELIMIT_BACKEND=Watched()):
        assert codes(view_of(Burst, Day, AnonRateThrottle), [rf.get("/")]) == [200]
    assert Watched.asked == [3]


def test_two_hundred_requests_at_once_admit_exactly_the_limit(rf: RequestFactory) -> None:
    with override_settings(RATELIMIT_BACKEND="memory://"):
        view = view_of(Day, get=lambda self, request: Response())
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda _: view(rf.get("/")).status_code, range(200)))
    assert (seen.count(200), seen.count(429)) == (100, 100)


class Lenient(UserRateThrottle):
    """A throttle whose ``allow_request`` lets some pass unasked, as people write them."""

    scope = "uploads"

    def allow_request(self, request: Any, view: Any) -> bool:
        return request.user == "staff" or super().allow_request(request, view)


def test_an_allow_request_of_their_own_is_respected(rf: RequestFactory, limiter: Limiter) -> None:
    class Staff(TokenAuthentication):
        def authenticate(self, request: Any) -> Any:
            return ("staff", None) if request.META.get("HTTP_X_STAFF") else None

    class Ident(Day):
        def get_cache_key(self, request: Any, view: Any) -> str:
            return "everybody"

    ok = lambda self, request: Response()  # noqa: E731
    view = view_of(Ident, Lenient, authentication_classes=[Staff], get=ok)
    staff = {"X-Staff": "1"}
    assert codes(view, [rf.get("/", headers=staff) for _ in range(3)]) == [200] * 3
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 429, 429]
    day = Policy("throttle/day", ["100/d"])
    assert limiter.peek(day, "everybody", 0).remaining == 94  # it was asked for itself


class HalfHours(SimpleRateThrottle):
    """The usual recipe for periods that REST framework does not read."""

    rate = "2/30-min"

    def parse_rate(self, rate: Any) -> Any:
        number, period = rate.split("/")
        return int(number), int(period.split("-")[0]) * 60

    def get_cache_key(self, request: Any, view: Any) -> str:
        return self.get_ident(request)


def test_a_parse_rate_of_their_own_is_respected(rf: RequestFactory) -> None:
    answers = [view_of(HalfHours)(rf.get("/")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1]["Retry-After"] == "900"


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("60/min", (60, 60)),
        ("10/day", (10, 86400)),
        ("5/second", (5, 1)),
        ("7/h", (7, 3600)),
        ("2/30s", (2, 30)),
        ("10/s; 1000/h", (10, 1)),
        (None, (None, None)),
    ],
)
def test_rates_read(rate: Any, expected: Any) -> None:
    throttle = AnonRateThrottle()
    assert throttle.parse_rate(rate) == expected
    assert isinstance(throttle, throttling.AnonRateThrottle)


def test_a_rate_of_none_and_a_rate_of_nothing(rf: RequestFactory) -> None:
    free = type("Free", (AnonRateThrottle,), {"THROTTLE_RATES": {"anon": None}})
    shut = type("Shut", (AnonRateThrottle,), {"THROTTLE_RATES": {"anon": "0/s"}})
    ok = lambda self, request: Response()  # noqa: E731
    assert codes(view_of(free, get=ok), [rf.get("/") for _ in range(9)]) == [200] * 9
    answer = view_of(shut, Day, get=ok)(rf.get("/"))
    assert answer.status_code == 429
    assert "Retry-After" not in answer


def test_a_bad_rate_is_a_configuration_error() -> None:
    bad = type("Bad", (AnonRateThrottle,), {"rate": "60/30-min"})
    with pytest.raises(ImproperlyConfigured, match="30-min"):
        bad()
    stated = {
        "DEFAULT_THROTTLE_CLASSES": ["tollway.django.throttles.AnonRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"anon": "5/lightyear", "user": "5/min"},
    }
    with override_settings(REST_FRAMEWORK=stated):
        (message,) = checks.throttle_rates(None)
    assert message.id == "tollway.E004"
    assert "'anon'" in message.msg
    assert "lightyear" in message.msg


def forwarded(rf: RequestFactory, *addresses: str) -> Any:
    return rf.get("/", headers={"X-Forwarded-For": ", ".join(addresses)})


def test_a_header_changes_nobody(rf: RequestFactory) -> None:
    view = view_of(AnonRateThrottle)
    seen = codes(view, [forwarded(rf, f"203.0.113.{n}") for n in range(9)])
    assert seen == [200] * 3 + [429] * 6


def test_num_proxies(rf: RequestFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = AnonRateThrottle()
    request = forwarded(rf, "198.51.100.1", "203.0.113.2")
    for proxies, expected in ((None, "127.0.0.1"), (0, "127.0.0.1"), (1, "203.0.113.2")):
        monkeypatch.setattr(api_settings, "NUM_PROXIES", proxies, raising=False)
        assert throttle.get_ident(request) == expected
    monkeypatch.setattr(api_settings, "NUM_PROXIES", 2, raising=False)
    assert throttle.get_ident(request) == "198.51.100.1"
    monkeypatch.setattr(api_settings, "NUM_PROXIES", None, raising=False)
    with override_settings(RATELIMIT_PROXY_HOPS=1):
        assert throttle.get_ident(request) == "203.0.113.2"
    six = rf.get("/", REMOTE_ADDR="2001:db8::1")
    assert throttle.get_ident(six) == throttle.get_ident(rf.get("/", REMOTE_ADDR="2001:db8::2"))


@override_settings(MIDDLEWARE=["tollway.django.middleware.RateLimitMiddleware"])
def test_with_the_decorator_there_is_one_set_of_headers(rf: RequestFactory) -> None:
    class Both(ViewSet):
        authentication_classes: list[Any] = []
        throttle_classes = [AnonRateThrottle]

        @rate_limit(rate="2/h")
        def list(self, request: Any) -> Response:
            return Response([])

    view = Both.as_view({"get": "list"})
    answers = [view(rf.get("/")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert [answer["X-RateLimit-Limit"] for answer in answers] == ["2", "2", "2", "3"]


def test_switched_off(rf: RequestFactory) -> None:
    with override_settings(RATELIMIT_ENABLE=False):
        view = view_of(AnonRateThrottle, get=lambda self, request: Response())
        assert codes(view, [rf.get("/") for _ in range(9)]) == [200] * 9


def test_one_request_object_may_be_used_again(rf: RequestFactory, clock: ManualClock) -> None:
    view, request = view_of(AnonRateThrottle), rf.get("/")
    assert codes(view, [request] * 4) == [200] * 3 + [429]
    clock.advance(60)
    assert view(request)["X-RateLimit-Remaining"] == "2"


def test_asked_by_hand(rf: RequestFactory) -> None:
    request: Any = rf.get("/")
    request.user = User(1)
    throttle = UserRateThrottle()
    assert [throttle.allow_request(request, None) for _ in range(6)] == [True] * 5 + [False]
    assert throttle.wait() == pytest.approx(12)


@pytest.mark.parametrize(
    ("fail_mode", "expected"),
    [("closed", [503] * 5), ("open", [200] * 5), ("local", [200] * 3 + [429] * 2)],
)
def test_a_dead_store(
    rf: RequestFactory, dead_store: str, fail_mode: str, expected: list[int]
) -> None:
    with override_settings(RATELIMIT_BACKEND=dead_store, RATELIMIT_FAIL_MODE=fail_mode):
        view = view_of(AnonRateThrottle, get=lambda self, request: Response())
        answers = [view(rf.get("/")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == expected
    if fail_mode == "closed":
        assert answers[0]["Retry-After"] == "1"
