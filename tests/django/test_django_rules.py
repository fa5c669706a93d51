"""Access lists, tiers, overrides, schedules, levels and shadows behind the Django door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from tests.django.conftest import User, acodes, codes
from tollway import ConfigError, Limiter, Policy
from tollway.django import conf, rate_limit
from tollway.rules import AccessList, Rules
from tollway.testing import ManualClock


def ok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


async def aok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


def asked(rf: RequestFactory, user: int | None = None, **options: Any) -> Any:
    request: Any = rf.get("/", **options)
    request.user = User(user or 0, authenticated=user is not None)
    return request


def test_a_denied_client_gets_403_and_is_not_counted(rf: RequestFactory) -> None:
    view = rate_limit(rate="2/h", deny_list=["192.0.2.0/24", "user:7"])(ok)
    answer = view(rf.get("/", REMOTE_ADDR="192.0.2.9"))
    assert answer.status_code == 403
    assert b"Forbidden" in answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert "Retry-After" not in answer
    with override_settings(RATELIMIT_RULES={"deny": ["user:8"]}):
        assert codes(view, [asked(rf, 7), asked(rf, 8), asked(rf, 9)]) == [403, 403, 200]


def test_a_client_on_the_allow_list_is_not_counted(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h", allow_list=["10.0.0.0/8"])(ok)
    assert codes(view, [rf.get("/", REMOTE_ADDR="10.1.1.1") for _ in range(4)]) == [200] * 4
    assert codes(view, [rf.get("/") for _ in range(2)]) == [200, 429]


async def test_lists_of_async_views_may_change(rf: RequestFactory) -> None:
    blocked = AccessList()
    view = rate_limit(rate="9/h", deny_list=blocked)(aok)
    assert await acodes(view, [rf.get("/")]) == [200]
    blocked.add("127.0.0.1")
    assert await acodes(view, [rf.get("/")]) == [403]


def test_a_forged_address_is_not_on_the_allow_list(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h", allow_list=["10.0.0.0/8"])(ok)
    forged = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
    assert codes(view, [rf.get("/", headers=forged) for _ in range(2)]) == [200, 429]


def test_a_shadow_refuses_nobody(rf: RequestFactory) -> None:
    view = rate_limit(rate="1/h", shadow=True)(ok)
    requests: list[Any] = [rf.get("/") for _ in range(3)]
    answers = [view(request) for request in requests]
    assert [answer.status_code for answer in answers] == [200] * 3
    decision = requests[-1].rate_limit
    assert (decision.mode, decision.allowed) == ("shadow", True)
    assert decision.shadow.retry_after > 0
    assert "RateLimit" not in answers[-1]
    assert conf.current().ruling.rules.shadows()["shadow"] == (3, 2)


def test_a_shadow_beside_a_limit(rf: RequestFactory, limiter: Limiter) -> None:
    view = rate_limit(rate="1/h", shadow=True)(rate_limit(rate="3/h")(ok))
    answers = [view(rf.get("/")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429]
    assert [answer["X-RateLimit-Limit"] for answer in answers] == ["3"] * 4


RULES = {
    "deny": ["203.0.113.0/24"],
    "allow": ["10.0.0.0/8"],
    "limits": {
        f"{__name__}.ok": {
            "tiers": {"pro": "3/h"},
            "levels": [{"by": "org", "rate": "4/h"}],
        }
    },
    "overrides": [{"who": "user:42", "rate": "5/h"}],
}


def tier_of(request: Any) -> str | None:
    return request.META.get("HTTP_X_TIER")


@override_settings(
    RATELIMIT_RULES=RULES, RATELIMIT_TIER=tier_of, RATELIMIT_ORG=f"{__name__}.org_of"
)
def test_rules_of_the_settings(rf: RequestFactory) -> None:
    view = rate_limit("user_or_ip", "1/h")(ok)
    pro = {"X-Tier": "pro"}
    assert codes(view, [asked(rf, 1) for _ in range(2)]) == [200, 429]
    assert codes(view, [asked(rf, 2, headers=pro) for _ in range(4)]) == [200] * 3 + [429]
    assert codes(view, [asked(rf, 42) for _ in range(6)]) == [200] * 5 + [429]
    assert codes(view, [asked(rf, 3, REMOTE_ADDR="203.0.113.1")]) == [403]
    assert codes(view, [asked(rf, 4, REMOTE_ADDR="10.0.0.1") for _ in range(5)]) == [200] * 5
    acme = [asked(rf, user, headers={"X-Org": "acme"}) for user in range(10, 16)]
    assert codes(view, acme) == [200] * 4 + [429] * 2


@override_settings(RATELIMIT_RULES=RULES, RATELIMIT_ORG=lambda _: SimpleNamespace(pk=None))
def test_an_organisation_that_has_no_name_is_none(rf: RequestFactory) -> None:
    """Such as a tenant that was never saved: its users are not one organisation."""
    view = rate_limit("user_or_ip", "9/h")(ok)
    assert codes(view, [asked(rf, user) for user in range(6)]) == [200] * 6


def org_of(request: Any) -> Any:
    org = request.META.get("HTTP_X_ORG")
    return SimpleNamespace(pk=org) if org else None


def test_rules_are_followed_from_a_file(rf: RequestFactory, tmp_path: Path) -> None:
    rules, blocked = tmp_path / "rules.toml", tmp_path / "blocked.txt"
    rules.write_text('deny = ["192.0.2.1"]\n')
    blocked.write_text("192.0.2.2\n")
    view = rate_limit(rate="9/h")(ok)
    with override_settings(RATELIMIT_RULES=str(rules), RATELIMIT_ACCESS_LISTS=[str(blocked)]):
        seen = [rf.get("/", REMOTE_ADDR=f"192.0.2.{n}") for n in (1, 2, 3)]
        assert codes(view, seen) == [403, 403, 200]
        other = tmp_path / "other"
        other.write_text('deny = ["192.0.2.3"]\n')
        other.rename(rules)
        following = conf.current().ruling.following
        assert following is not None
        following._turn()
        assert codes(view, seen) == [200, 403, 403]


def test_rules_made_elsewhere(rf: RequestFactory) -> None:
    rules = Rules({"deny": ["192.0.2.1"]})
    with override_settings(RATELIMIT_RULES=rules):
        view = rate_limit(rate="9/h")(ok)
        assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.1")]) == [403]
        rules.replace({})
        assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.1")]) == [200]
        with pytest.raises(ConfigError, match="shadow=True"):
            rate_limit(rate="1/h", shadow=True)(ok)(rf.get("/"))


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"RATELIMIT_RULES": {"deny": ["nobody"]}}, "RATELIMIT_RULES: deny"),
        ({"RATELIMIT_RULES": {"dny": []}}, "RATELIMIT_RULES: .*dny"),
        ({"RATELIMIT_RULES": 5}, "RATELIMIT_RULES: 5 is no rules"),
        ({"RATELIMIT_RULES": "no.where"}, "cannot be imported"),
        ({"RATELIMIT_ACCESS_LISTS": ["/no/where.txt"]}, "cannot be read"),
        ({"RATELIMIT_ACCESS_LISTS": "x"}, "not a list"),
    ],
)
def test_bad_rules_are_named(rf: RequestFactory, settings: Any, part: str) -> None:
    with override_settings(**settings), pytest.raises(ConfigError, match=part):
        rate_limit(rate="1/h")(ok)(rf.get("/"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"allow_list": ["nobody"]}, "allow_list: .*nobody"),
        ({"deny_list": "10.0.0.0/8"}, "deny_list='10.0.0.0/8' is not a list"),
        ({"shadow": "yes"}, "shadow='yes'"),
        ({"algorithm_config": {"bucket_size": 5}}, "None has no options"),
        ({"algorithm": "gcra", "algorithm_config": {}}, "'gcra' has no options"),
        ({"algorithm": "token_bucket", "algorithm_config": {"size": 5}}, "unknown option 'size'"),
        (
            {"algorithm": "token_bucket", "algorithm_config": {"bucket_size": 0}},
            "bucket_size=0",
        ),
        (
            {"algorithm": "token_bucket", "algorithm_config": {"refill_rate": -1}},
            "refill_rate=-1",
        ),
        (
            {"algorithm": "token_bucket", "algorithm_config": {"initial_tokens": 11}},
            "cannot begin with 11",
        ),
    ],
)
def test_what_cannot_work_is_named_where_it_is_written(options: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        rate_limit(rate="10/h", **options)


def admitted(view: Any, rf: RequestFactory, times: int = 30) -> int:
    return codes(view, [rf.get("/") for _ in range(times)]).count(200)


def test_the_options_of_a_bucket(rf: RequestFactory, clock: ManualClock) -> None:
    def bucket(rate: Any = "60/m", **config: Any) -> Any:
        return rate_limit(
            rate=rate,
            algorithm="token_bucket",
            algorithm_config=config,
            group="-".join(f"{name}.{value}" for name, value in config.items()),
        )(ok)

    assert admitted(bucket(bucket_size=7), rf) == 7
    slow = bucket(bucket_size=2, refill_rate=0.5)
    assert admitted(slow, rf) == 2
    clock.advance(1)
    assert admitted(slow, rf) == 0
    clock.advance(1)
    assert admitted(slow, rf) == 1
    alone = bucket(rate=None, bucket_size=3, refill_rate=1)
    assert admitted(alone, rf) == 3
    assert alone(rf.get("/"))["X-RateLimit-Bucket-Size"] == "3"
    assert admitted(bucket(bucket_size=9, initial_tokens=4), rf) == 4
    assert admitted(bucket(bucket_size=9, tokens_per_request=3), rf) == 3
    leaky = rate_limit(
        rate="60/m", algorithm="leaky_bucket", algorithm_config={"capacity": 4, "leak_rate": 1}
    )(ok)
    assert admitted(leaky, rf) == 4


CALLS: list[str] = []


def counted(request: Any) -> HttpResponse:
    CALLS.append(request.path)
    return HttpResponse("ok")


urlpatterns = [
    path("api/", rate_limit(rate="9/h")(counted)),
    path("aapi/", rate_limit(rate="9/h")(aok)),
    path("static/x", rate_limit(rate="1/h")(counted)),
    path("plain/", counted),
]


class TestMiddleware:
    """With the middleware, rules hold for every request, and count by path once."""

    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        rules = {
            "deny": ["203.0.113.0/24"],
            "skip": ["/static/"],
            "limits": {"api": {"paths": ["/api/"], "by": "ip", "rate": "2/h"}},
        }
        with override_settings(
            ROOT_URLCONF=__name__,
            MIDDLEWARE=["tollway.django.middleware.RateLimitMiddleware"],
            RATELIMIT_RULES=rules,
        ):
            CALLS.clear()
            yield

    def test_denied_everywhere(self) -> None:
        for place in ("/plain/", "/api/", "/nowhere/"):
            assert Client(REMOTE_ADDR="203.0.113.5").get(place).status_code == 403
        assert CALLS == []

    def test_by_path(self, limiter: Limiter) -> None:
        answers = [Client().get("/api/") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert '"api";q=2' in answers[-1]["RateLimit-Policy"]
        own = Policy(f"{__name__}.counted/ip/9/h", ["9/h"])
        assert limiter.peek(own, "127.0.0.1", 0).remaining == 7

    def test_skipped(self) -> None:
        assert [Client().get("/static/x").status_code for _ in range(3)] == [200] * 3

    async def test_async(self) -> None:
        assert (await AsyncClient().get("/aapi/")).status_code == 200
        with override_settings(RATELIMIT_RULES={"deny": ["127.0.0.1"]}):
            assert (await AsyncClient().get("/aapi/")).status_code == 403

    def test_lists_of_the_middleware(self) -> None:
        stated = {"DENY_LIST": ["192.0.2.1"], "ALLOW_LIST": ["192.0.2.2"]}
        with override_settings(RATELIMIT_MIDDLEWARE=stated, RATELIMIT_DEFAULT_LIMIT="1/h"):
            for address, expected in (("192.0.2.1", [403] * 2), ("192.0.2.2", [200] * 2)):
                client = Client(REMOTE_ADDR=address)
                assert [client.get("/plain/").status_code for _ in range(2)] == expected

    def test_a_shadow_of_the_whole_site(self) -> None:
        with override_settings(
            RATELIMIT_MIDDLEWARE={"SHADOW": True}, RATELIMIT_DEFAULT_LIMIT="1/h"
        ):
            assert [Client().get("/plain/").status_code for _ in range(3)] == [200] * 3
            assert conf.current().ruling.rules.shadows()["shadow"] == (3, 2)


def test_throttles_go_by_the_rules(rf: RequestFactory) -> None:
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from tollway.django.throttles import SimpleRateThrottle

    class Whole(SimpleRateThrottle):
        rate, scope = "1/h", "whole"

        def get_cache_key(self, request: Any, view: Any) -> str:
            return "all"

    class Items(APIView):
        throttle_classes = [Whole]
        authentication_classes: list[Any] = []

        def get(self, request: Any) -> Response:
            return Response([])

    rules = {"deny": ["192.0.2.1"], "allow": ["192.0.2.2"]}
    rules_ = {**rules, "limits": {"throttle/whole": {"rate": "2/h"}}}
    with override_settings(
        RATELIMIT_RULES=rules_,
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
    ):
        view = Items.as_view()
        assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.1")]) == [403]
        assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.2") for _ in range(4)]) == [200] * 4
        assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]
