"""The testing kit, as a project uses it: by fixtures, by a mixin, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, SimpleTestCase, override_settings
from django.urls import path

from tollway.django import rate_limit
from tollway.django.testing import (
    FrozenLimits,
    RateLimitTestMixin,
    assert_not_rate_limited,
    assert_rate_limited,
    assert_remaining,
    frozen_limits,
    no_limits,
)

pytest_plugins = ["tollway.django.fixtures"]


def ok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [
    path("", rate_limit(rate="2/10s")(ok)),
    path("other/", rate_limit(rate="1/h", backend="other")(ok)),
]


@pytest.fixture(autouse=True)
def project() -> Any:
    with override_settings(ROOT_URLCONF=__name__, RATELIMIT_BACKENDS={"other": "memory://"}):
        yield


def spend() -> None:
    for left in (1, 0):
        assert_remaining(Client().get("/"), left)
    assert_rate_limited(Client().get("/"), retry_after=5)


@pytest.mark.parametrize("time_and_again", [1, 2])
def test_fresh_limits_for_each_test(rate_limits: FrozenLimits, time_and_again: int) -> None:
    spend()
    rate_limits.advance(5)
    assert_not_rate_limited(Client().get("/"))
    assert [Client().get("/other/").status_code for _ in range(2)] == [200, 429]
    rate_limits.advance(3600)
    assert_not_rate_limited(Client().get("/other/"))


def test_switched_off(no_rate_limits: None) -> None:
    assert [Client().get("/").status_code for _ in range(5)] == [200] * 5


def test_by_hand() -> None:
    with frozen_limits(RATELIMIT_X_HEADERS=False) as limits:
        assert "X-RateLimit-Limit" not in Client().get("/")
        assert limits.limiter.url == "memory://"
    with no_limits():
        assert "RateLimit" not in Client().get("/")


def test_assertions_say_what_is_wrong() -> None:
    with frozen_limits():
        allowed, _, refused = (Client().get("/") for _ in range(3))
        with pytest.raises(AssertionError, match="expected 429, got 200; RateLimit-Policy"):
            assert_rate_limited(allowed)
        with pytest.raises(AssertionError, match="expected Retry-After 9, got 5"):
            assert_rate_limited(refused, retry_after=9)
        with pytest.raises(AssertionError, match=r"got 429; .*Retry-After: 5"):
            assert_not_rate_limited(refused)
        with pytest.raises(AssertionError, match="expected 9 left, got 1"):
            assert_remaining(allowed, 9)
        with pytest.raises(AssertionError, match="says nothing of a limit"):
            assert_remaining(HttpResponse(), 9)


class Cases(RateLimitTestMixin, SimpleTestCase):
    def test_one(self) -> None:
        self.assert_remaining(self.client.get("/"), 1)
        self.client.get("/")
        self.assert_rate_limited(self.client.get("/"), retry_after=5)
        self.rate_limits.advance(5)
        self.assert_not_rate_limited(self.client.get("/"))

    def test_two(self) -> None:
        self.test_one()  # what the first has spent is not here
