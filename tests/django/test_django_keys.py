"""Who is counted: every kind of key, alone and together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from tests.django.conftest import User, codes
from tollway import ConfigError
from tollway.django import agenerate_key, generate_key, rate_limit


def ok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


def asked(rf: RequestFactory, user: Any = None, **options: Any) -> Any:
    request: Any = rf.post("/shop/?team=red", **options)
    request.user = user or User(0, authenticated=False)
    return request


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("ip", "127.0.0.1"),
        ("global", "global"),
        ("user", "user:7"),
        ("user_or_ip", "user:7"),
        ("param:team", "param:team:red"),
        ("get:team", "param:team:red"),
        ("post:name", "post:name:Ada"),
        ("composite(user, ip)", "user:7|127.0.0.1"),
        ("composite(post:name, composite(param:team, ip))", None),
        ("{user}/{method}", "user:7|/|POST"),
        ("{ip} {route}", "127.0.0.1| |unmatched"),
        ("{ip}@{host}", "127.0.0.1|@|testserver"),
    ],
)
def test_what_is_counted(rf: RequestFactory, key: str, expected: str | None) -> None:
    found = generate_key(asked(rf, User(7), data={"name": "Ada"}), key)
    if expected is None:
        expected = "post:name:Ada|param:team:red%7C127.0.0.1"
    assert found == expected


def test_secrets_are_not_kept_in_clear(rf: RequestFactory) -> None:
    request = asked(rf, headers={"X-API-Key": "sk-live", "Cookie": "sid=sk-live"})
    for key in ("api_key", "header:X-API-Key", "cookie:sid"):
        found = generate_key(request, key)
        assert found.startswith(key.lower())
        assert "sk-live" not in found
    with override_settings(RATELIMIT_API_KEY_HEADER="X-Token"):
        assert generate_key(request, "api_key") == "127.0.0.1"


def test_parts_cannot_be_mistaken_for_each_other(rf: RequestFactory) -> None:
    key = "composite(param:a, param:b)"
    first = generate_key(rf.get("/", {"a": "x|param:b:y", "b": "z"}), key)
    second = generate_key(rf.get("/", {"a": "x", "b": "y|param:b:z"}), key)
    assert first != second


def test_a_part_that_is_missing_is_the_address(rf: RequestFactory) -> None:
    view = rate_limit("composite(post:name, ip)", "1/h")(ok)
    one, two = {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}
    assert codes(view, [rf.post("/", **one), rf.post("/", **two), rf.post("/", **one)]) == [
        200,
        200,
        429,
    ]


def org_of(request: Any) -> Any:
    return request.META.get("HTTP_X_ORG")


async def aorg_of(request: Any) -> Any:
    return SimpleNamespace(pk=9)


async def test_organisations(rf: RequestFactory) -> None:
    request = asked(rf, headers={"X-Org": "acme"})
    with pytest.raises(ConfigError, match="RATELIMIT_ORG"):
        generate_key(request, "org")
    with override_settings(RATELIMIT_ORG=org_of):
        assert generate_key(request, "org") == "org:acme"
        assert generate_key(request, "tenant") == "org:acme"
        assert generate_key(asked(rf), "org") == "127.0.0.1"
    with override_settings(RATELIMIT_ORG=f"{__name__}.aorg_of"):
        assert await agenerate_key(request, "org") == "org:9"
    request.tenant = SimpleNamespace(pk=3)
    assert generate_key(request, "org") == "org:3"


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("composite(ip)", "two parts"),
        ("composite(user, ipp)", 'Did you mean "ip"'),
        ("composit(user, ip)", "not known"),
        ("{user", "brace too many"),
        ("{usr}/{route}", 'Did you mean "user"'),
        ("{route}", "says of nobody"),
        ("everybody {method}", "says of nobody"),
        ("jwt", "lacks a name"),
        ("route", "not known"),
        ("{ip}" * 300, "at most"),
    ],
)
def test_a_mistyped_key_is_a_configuration_error(key: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        rate_limit(key, "1/h")
