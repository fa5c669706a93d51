"""Claims of tokens: only those that verify say who is counted."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from django.test import RequestFactory, override_settings

from tests.django.conftest import codes
from tests.django.test_django_keys import asked, ok
from tollway import ConfigError
from tollway.django import generate_key, rate_limit

SECRET = "a secret that is long enough for HS256"
JWT = {"KEY": SECRET, "ALGORITHMS": ["HS256"]}


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 3600, **claims}, secret, algorithm)


def bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@override_settings(RATELIMIT_JWT=JWT)
def test_a_verified_claim_counts(rf: RequestFactory) -> None:
    request = asked(rf, headers=bearing(token(sub="ada")))
    assert generate_key(request, "jwt:sub") == "jwt:sub:ada"
    assert generate_key(request, "jwt:email") == "127.0.0.1"
    with override_settings(RATELIMIT_JWT={**JWT, "COOKIE": "access"}):
        request = asked(rf, headers={"Cookie": f"access={token(sub='eve')}"})
        assert generate_key(request, "jwt:sub") == "jwt:sub:eve"


def unsigned(**claims: Any) -> str:
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(part.rstrip("=") for part in encoded) + "."


@override_settings(RATELIMIT_JWT={**JWT, "AUDIENCE": "shop"})
def test_a_token_that_does_not_verify_is_no_token(rf: RequestFactory) -> None:
    view = rate_limit("jwt:sub", "2/h")(ok)
    good = token(sub="x", aud="shop")
    forged = [
        token("another secret that is long enough too", sub="1", aud="shop"),
        unsigned(sub="2", aud="shop"),
        token(sub="3", aud="shop", exp=time.time() - 60),
        token(sub="4", aud="elsewhere"),
        jwt.encode({"sub": "5", "aud": "shop"}, SECRET, "HS256"),  # it never expires
        token(algorithm="HS512", sub="6", aud="shop", secret=SECRET * 2),
        good[:-4] + "AAAA",
        "a.b.c",
        "é" * 20,
        "x" * 100_000,
    ]
    for text in forged:
        assert generate_key(asked(rf, headers=bearing(text)), "jwt:sub") == "127.0.0.1"
    seen = codes(view, [asked(rf, headers=bearing(text)) for text in forged])
    assert seen == [200, 200] + [429] * 8
    assert codes(view, [asked(rf, headers=bearing(good)) for _ in range(3)]) == [200, 200, 429]


def test_keys_by_their_id(rf: RequestFactory) -> None:
    keys = {"a": SECRET, "b": SECRET[::-1]}
    with override_settings(RATELIMIT_JWT={"KEY": keys, "ALGORITHMS": ["HS256"]}):
        claims = {"sub": "ada", "exp": time.time() + 60}
        for kid, expected in (("b", "jwt:sub:ada"), ("a", "127.0.0.1"), ("c", "127.0.0.1")):
            text = jwt.encode(claims, keys["b"], "HS256", headers={"kid": kid})
            assert generate_key(asked(rf, headers=bearing(text)), "jwt:sub") == expected


@pytest.mark.parametrize(
    ("stated", "part"),
    [
        ("secret", "a mapping such as"),
        ({"KEY": SECRET}, "'ALGORITHMS' is missing"),
        ({"KEY": SECRET, "ALGORITHMS": "HS256"}, "not a list"),
        ({"KEY": SECRET, "ALGORITHMS": ["none"]}, "'none' cannot verify"),
        ({"KEY": SECRET, "ALGORITHMS": ["HS255"]}, "'HS255' cannot verify"),
        ({"KEY": SECRET, "ALGORITHMS": ["RS256"]}, "KEY is no key for RS256"),
        ({**JWT, "AUDENCE": "x"}, "did you mean 'AUDIENCE'"),
        # With these no token would ever verify, and nobody would hear of it.
        ({**JWT, "KEY": {"a": SECRET, "b": 5}}, "KEY 'b' is no key for HS256"),
        ({**JWT, "KEY": {"a": "no pem"}, "ALGORITHMS": ["RS256"]}, "KEY 'a' is no key for RS256"),
        ({**JWT, "REQUIRE": "exp"}, "REQUIRE is a list of names"),
        ({**JWT, "REQUIRE": 5}, "REQUIRE is a list of names"),
        ({**JWT, "LEEWAY": "10"}, "LEEWAY is a number of seconds"),
        ({**JWT, "AUDIENCE": 5}, "AUDIENCE is a text"),
        ({**JWT, "ISSUER": 5}, "ISSUER is a text"),
        ({**JWT, "COOKIE": 5}, "COOKIE is a text"),
    ],
)
def test_a_bad_way_to_verify_is_named(stated: Any, part: str) -> None:
    with (
        override_settings(RATELIMIT_JWT=stated),
        pytest.raises(ConfigError, match=f"RATELIMIT_JWT: .*{part}"),
    ):
        rate_limit("ip", "1/h")(ok)(RequestFactory().get("/"))


def test_a_claim_needs_a_way_to_verify(rf: RequestFactory) -> None:
    with pytest.raises(ConfigError, match="RATELIMIT_JWT"):
        generate_key(asked(rf, headers=bearing(token(sub="ada"))), "jwt:sub")
