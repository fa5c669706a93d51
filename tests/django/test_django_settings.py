"""Settings, the system checks over them, and the words of a refusal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, registry
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from tollway import Limiter
from tollway.django import checks, conf, get_client_ip, rate_limit
from tollway.django import settings as settings_module
from tollway.django.responses import preferred

CHECKS = (
    checks.unknown_settings,
    checks.bad_settings,
    checks.middleware,
    checks.many_processes,
    checks.trusted_everywhere,
)
MIDDLEWARE = "tollway.django.middleware.RateLimitMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"


def found(**settings: Any) -> list[CheckMessage]:
    with override_settings(**settings):
        return [message for check in CHECKS for message in check(None)]


def ids(**settings: Any) -> list[str | None]:
    return [message.id for message in found(DEBUG=True, **settings)]


@pytest.mark.parametrize(
    ("settings", "text", "hint"),
    [
        ({"RATELIMIT_BACKND": "x"}, "RATELIMIT_BACKND", "Did you mean RATELIMIT_BACKEND?"),
        ({"RATELIMIT_FAIL_OPEN": True}, "RATELIMIT_FAIL_OPEN", "RATELIMIT_FAIL_MODE"),
        ({"RATELIMIT_QQQQQQ": 1}, "RATELIMIT_QQQQQQ", "Known settings"),
    ],
)
def test_unknown_settings(
    settings: Any, text: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A project that uses the layer for django-ratelimit may set what that reads.
    monkeypatch.delitem(sys.modules, "tollway.compat.django_ratelimit.core", raising=False)
    (message,) = found(DEBUG=True, **settings)
    assert message.id == "tollway.W001"
    assert text in message.msg
    assert hint in (message.hint or "")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"RATELIMIT_DEFAULT_LIMIT": "5/q"}, r'RATELIMIT_DEFAULT_LIMIT: rate "5/q"'),
        ({"RATELIMIT_BACKEND": "reddis://h"}, "RATELIMIT_BACKEND: .*reddis"),
        ({"RATELIMIT_BACKEND": 5}, "RATELIMIT_BACKEND: 5 is no backend"),
        ({"RATELIMIT_BACKENDS": {"a": "foo://"}}, "RATELIMIT_BACKENDS: .*foo"),
        ({"RATELIMIT_ALGORITHM": "gcr"}, "RATELIMIT_ALGORITHM: .*gcr"),
        ({"RATELIMIT_FAIL_MODE": "clsed"}, "RATELIMIT_FAIL_MODE: .*did you mean 'closed'"),
        ({"RATELIMIT_TRUSTED_PROXIES": "10.0.0.0/8"}, "RATELIMIT_TRUSTED_PROXIES: .*not a list"),
        ({"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/99"]}, "RATELIMIT_TRUSTED_PROXIES: .*/99"),
        ({"RATELIMIT_ENABLE": "no"}, "RATELIMIT_ENABLE: 'no' is not True or False"),
        ({"RATELIMIT_IPV6_PREFIX": 0}, "RATELIMIT_IPV6_PREFIX: 0"),
        ({"RATELIMIT_COMMAND_TIMEOUT": -1}, "RATELIMIT_COMMAND_TIMEOUT: -1"),
        ({"RATELIMIT_RESPONSE_CALLBACK": "no.where"}, "RATELIMIT_RESPONSE_CALLBACK: .*imported"),
        ({"RATELIMIT_TEMPLATE": 5}, "RATELIMIT_TEMPLATE: 5"),
        ({"RATELIMIT_MIDDLEWARE": []}, r"RATELIMIT_MIDDLEWARE: \[\] is not a mapping"),
    ],
)
def test_bad_settings(settings: Any, text: str) -> None:
    (message,) = found(DEBUG=True, **settings)
    assert message.id == "tollway.E001"
    assert re.search(text, message.msg)


def test_every_problem_is_listed_at_once() -> None:
    rules = {"RATE_LIMITS": {"/a/": "5/q", "b": "5/s"}}
    settings = {"RATELIMIT_DEFAULT_LIMIT": "x", "RATELIMIT_MIDDLEWARE": rules}
    assert ids(MIDDLEWARE=[MIDDLEWARE], **settings) == ["tollway.E001"] * 3


@override_settings(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
def test_rules_want_the_middleware_and_users_want_another() -> None:
    rules = {"RATE_LIMITS": {"/a/": {"rate": "5/s", "key": "user"}}}
    assert ids(RATELIMIT_MIDDLEWARE=rules) == ["tollway.W002"]
    own = "tests.django.rules_for_tests.OwnMiddleware"
    for ours in (MIDDLEWARE, own):
        assert ids(RATELIMIT_MIDDLEWARE=rules, MIDDLEWARE=[ours]) == ["tollway.E002"]
        for stack in ([ours, AUTHENTICATION], [AUTHENTICATION, ours]):
            assert ids(RATELIMIT_MIDDLEWARE=rules, MIDDLEWARE=stack) == []


def test_the_memory_backend_is_mentioned_where_it_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with override_settings(RATELIMIT_BACKEND="memory://"):
        (message,) = checks.memory_backend(None)
        assert message.id == "tollway.I001"
    assert found(RATELIMIT_BACKEND="memory://") == []
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    (message,) = found(RATELIMIT_BACKEND="memory://")
    assert message.id == "tollway.W003"
    assert "4 processes" in message.msg
    assert found(RATELIMIT_BACKEND="memory://", RATELIMIT_ENABLE=False) == []
    assert found(RATELIMIT_BACKEND="redis://127.0.0.1:1/0") == []
    monkeypatch.setenv("WEB_CONCURRENCY", "some")
    assert found(RATELIMIT_BACKEND="memory://") == []
    checks.register()
    registered = registry.registry
    assert checks.memory_backend in registered.deployment_checks
    assert checks.memory_backend not in registered.registered_checks


def test_urls_that_do_not_load_are_told_of() -> None:
    with override_settings(ROOT_URLCONF="no_such_urls"):
        # Beside what it says of other tests' views.
        told = [message for message in checks.stated_limits(None) if message.id == "tollway.W005"]
    (message,) = told
    assert "no_such_urls" in message.msg


def test_forwarded_headers_trusted_from_everywhere() -> None:
    assert ids(RATELIMIT_TRUSTED_PROXIES=["10.0.0.0/8"]) == []
    for everywhere in ("0.0.0.0/0", "::/0"):
        (message,) = found(RATELIMIT_TRUSTED_PROXIES=["10.0.0.0/8", everywhere])
        assert message.id == "tollway.W004"
        assert everywhere in message.msg


def test_decorators_that_cannot_work_are_found() -> None:
    def wrong(**settings: Any) -> list[str]:
        with override_settings(**settings):
            messages = checks.stated_limits(None)
        return [message.msg for message in messages if "test_django_settings.py" in message.msg]

    kept = [
        rate_limit(),
        rate_limit(rate="5/m", backend="lgins"),
        rate_limit(rate="5/m", key="composite(jwt:sub, ip)"),
        rate_limit(rate="5/m"),
    ]
    no_rate, no_backend, no_jwt = wrong(RATELIMIT_BACKENDS={"logins": "memory://"})
    assert "names no rate" in no_rate
    assert "did you mean 'logins'" in no_backend
    assert "needs RATELIMIT_JWT" in no_jwt
    assert (
        wrong(
            RATELIMIT_BACKENDS={"lgins": "memory://"},
            RATELIMIT_DEFAULT_LIMIT="5/m",
            RATELIMIT_JWT={"KEY": "x" * 32, "ALGORITHMS": ["HS256"]},
        )
        == []
    )
    assert len(kept) == 4


def test_every_setting_is_documented_and_read() -> None:
    page = Path(__file__).parents[2] / "docs" / "django-settings.md"
    assert settings_module.reference() in page.read_text(), "run scripts/reference.py"


def test_settings_reach_the_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def record(url: str, **options: Any) -> Limiter:
        made.append({"url": url, **options})
        return Limiter(url, **options)

    with override_settings(
        RATELIMIT_BACKEND="memory://",
        RATELIMIT_FAIL_MODE="closed",
        RATELIMIT_KEY_PREFIX="shop",
        RATELIMIT_CONNECT_TIMEOUT=2,
        RATELIMIT_COMMAND_TIMEOUT=0.25,
        RATELIMIT_MAX_KEYS=10,
        RATELIMIT_NEAR_CACHE=0,
    ):
        settings, problems = settings_module.read()
        monkeypatch.setattr(conf, "Limiter", record)
        conf.Setup(settings)
    assert problems == []
    assert made == [
        {
            "url": "memory://",
            "fail_mode": "closed",
            "prefix": "shop",
            "connect_timeout": 2.0,
            "command_timeout": 0.25,
            "max_keys": 10,
            "strategy": "first_healthy",
            "near_cache": 0.0,
        }
    ]


def test_the_address_rule_comes_from_settings(rf: RequestFactory) -> None:
    request = rf.get("/", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.2"})
    assert get_client_ip(request) == "127.0.0.1"
    with override_settings(RATELIMIT_PROXY_HOPS=1):
        assert get_client_ip(request) == "203.0.113.2"
    with override_settings(RATELIMIT_PROXY_HOPS=2):
        assert get_client_ip(request) == "198.51.100.1"
    view = rate_limit(rate="1/h")(lambda _: HttpResponse())
    with override_settings(RATELIMIT_IPV6_PREFIX=128):
        seen = [view(rf.get("/", REMOTE_ADDR=f"2001:db8::{n}")).status_code for n in (1, 2)]
    assert seen == [200, 200]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/json", "application/json"),
        ("application/*;q=0.2, text/plain", "text/plain"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/html;q=0.1, application/problem+json", "application/problem+json"),
        ("image/png", "application/problem+json"),
        ("text/html;q=x, text/plain;q=0.5", "text/plain"),
        ("text/*;q=0.3, text/html;q=0", "text/plain"),
    ],
)
def test_what_a_client_prefers(accept: str, expected: str) -> None:
    assert preferred(accept) == expected


def refused(rf: RequestFactory, accept: str) -> HttpResponse:
    view = rate_limit(rate="1/h")(lambda _: HttpResponse())
    view(rf.get("/"))
    answer = view(rf.get("/", headers={"Accept": accept}))
    assert answer.status_code == 429
    assert answer["Retry-After"] == "3600"
    assert answer["Vary"] == "Accept"
    return answer


def test_a_refusal_in_every_form(rf: RequestFactory) -> None:
    problem = refused(rf, "application/json")
    assert problem["Content-Type"] == "application/problem+json"
    body = json.loads(problem.content)
    assert (body["status"], body["retry_after_ms"]) == (429, 3_600_000)
    page = refused(rf, "text/html")
    assert page["Content-Type"] == "text/html; charset=utf-8"
    assert b"<h1>Too many requests</h1>" in page.content
    plain = refused(rf, "text/plain")
    assert plain["Content-Type"] == "text/plain; charset=utf-8"
    assert plain.content.decode().startswith("You have reached")


def test_a_template_and_a_callback_from_settings(rf: RequestFactory) -> None:
    with override_settings(RATELIMIT_TEMPLATE="slow.html"):
        assert refused(rf, "text/html").content == b"<p>429: wait 3600</p>"
    with override_settings(RATELIMIT_RESPONSE_CALLBACK="tests.django.rules_for_tests.slow_down"):
        view = rate_limit(rate="1/h")(lambda _: HttpResponse())
        view(rf.get("/"))
        answer = view(rf.get("/"))
    assert (answer.status_code, answer.content) == (429, b"slow down")
    assert answer["Retry-After"] == "3600"


def test_callbacks_by_what_the_client_accepts(rf: RequestFactory) -> None:
    callbacks = {
        "text/html": "tests.django.rules_for_tests.slow_down",
        "application/xml": lambda request: HttpResponse("<wait/>", status=429),
    }
    with override_settings(RATELIMIT_RESPONSE_CALLBACK=callbacks):
        view = rate_limit(rate="1/h")(lambda _: HttpResponse())
        view(rf.get("/"))
        said = [
            view(rf.get("/", headers={"Accept": accept})).content
            for accept in ("text/html", "application/xml, text/html;q=0.5", "application/json")
        ]
    assert said[:2] == [b"slow down", b"<wait/>"]
    assert b"quota-exceeded" in said[2]
    for wrong, part in (({"html": slow}, "no media type"), ({"a/b": 5}, "5 is neither")):
        (message,) = found(DEBUG=True, RATELIMIT_RESPONSE_CALLBACK=wrong)
        assert part in message.msg


def slow(request: HttpRequest) -> HttpResponse:
    return HttpResponse("slow", status=429)


@pytest.mark.parametrize(
    "stated",
    [
        {"RATELIMIT_BACKEND": {"URL": "redis://u:s3same@h/0"}},
        {"RATELIMIT_BACKEND": [["redis://u:s3same@h/0", "memory://"]]},
        {"RATELIMIT_BACKENDS": ["redis://u:s3same@h/0"]},
        {"RATELIMIT_BACKENDS": "redis://u:s3same@h/0"},
    ],
)
def test_a_backend_that_is_stated_amiss_tells_no_password(stated: Any) -> None:
    with override_settings(**stated):
        _settings, (problem, *_) = settings_module.read()
        assert "s3same" not in str(problem) and "s3same" not in repr(_settings)


@override_settings(RATELIMIT_BACKEND="redis://u:s3same@127.0.0.1:1/0")
def test_a_page_of_an_error_shows_no_password_of_ours() -> None:
    assert "s3same" not in repr(settings_module.read()[0])
