"""RateLimitMiddleware, sync and async, and its life with the decorator."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from tollway import ConfigError, Limiter, Policy
from tollway.django.middleware import RateLimitMiddleware

PATH = "tollway.django.middleware.RateLimitMiddleware"


@pytest.fixture(autouse=True)
def installed() -> Any:
    with override_settings(MIDDLEWARE=[PATH]):
        yield


def get(path: str, times: int = 1, **options: Any) -> list[int]:
    return [Client().get(path, **options).status_code for _ in range(times)]


@override_settings(RATELIMIT_DEFAULT_LIMIT="5/10s")
def test_the_default_limit_holds_everywhere() -> None:
    client = Client()
    answers = [client.get(path) for path in ["/", "/api/", "/nowhere/"] * 2 + ["/"]]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200, 429, 429]
    assert answers[2]["X-RateLimit-Remaining"] == "2"
    assert answers[-1]["Retry-After"] == "2"
    assert answers[-1]["RateLimit-Policy"] == '"middleware/ip/default";q=5;w=10'


@override_settings(RATELIMIT_DEFAULT_LIMIT="2/h")
async def test_it_is_async_capable() -> None:
    client = AsyncClient()
    answers = [await client.get("/api/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


@override_settings(RATELIMIT_DEFAULT_LIMIT="2/h")
async def test_an_async_stack_stays_in_its_thread(rf: RequestFactory) -> None:
    import threading

    seen = []

    async def view(request: HttpRequest) -> HttpResponse:
        seen.append(threading.current_thread())
        return HttpResponse("ok")

    stack: Any = RateLimitMiddleware(view)
    assert (await stack(rf.get("/"))).status_code == 200
    assert seen == [threading.current_thread()]


RULES = {
    "RATE_LIMITS": {
        "/api": "9/h",
        "/api/items/": {"rate": "1/h", "key": "header:X-Key"},
        r"^/api/items/2\d*/$": "2/h",
        "POST /api": "1/h",
    },
    "SKIP_PATHS": ["/static/", "/api/items/7/"],
}


@override_settings(RATELIMIT_MIDDLEWARE=RULES)
def test_the_longest_match_wins() -> None:
    assert get("/api/", 9) == [200] * 9
    assert get("/api/", 1) == [429]
    assert get("/apiary/", 1) == [200]
    assert get("/api/items/1/", 1, headers={"X-Key": "a"}) == [200]
    # One count a rule and client, not one a path.
    assert get("/api/items/3/", 1, headers={"X-Key": "a"}) == [429]
    assert get("/api/items/3/", 2, headers={"X-Key": "b"}) == [200, 429]
    assert get("/api/items/20/", 3) == [200, 200, 429]
    assert get("/api/items/7/", 20) == [200] * 20
    assert get("/static/logo/", 20) == [200] * 20
    assert get("/", 20) == [200] * 20
    assert [Client().post("/api/").status_code for _ in range(2)] == [200, 429]


@override_settings(RATELIMIT_DEFAULT_LIMIT="3/h")
def test_with_the_decorator_there_is_one_set_of_headers() -> None:
    answers = [Client().get("/stacked/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    limits = [answer["X-RateLimit-Limit"] for answer in answers]
    assert limits == ["2", "2", "2", "2"]  # the tightest one speaks
    remaining = [answer["X-RateLimit-Remaining"] for answer in answers]
    assert remaining == ["1", "0", "0", "0"]
    # One check, all or nothing: what the view's limits refused, the middleware's was not charged.
    assert [Client().get("/").status_code for _ in range(2)] == [200, 429]
    for answer in answers:
        assert sum(name.lower() == "ratelimit" for name in answer.headers) == 1


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_answers_made_of_exceptions_carry_headers(client: Any) -> None:
    caller = client(raise_request_exception=False)
    for path, status in (("/missing/", 404), ("/broken/", 500), ("/abroken/", 500)):
        if client is AsyncClient:
            answer = await caller.get(path)
        else:
            from asgiref.sync import sync_to_async

            answer = await sync_to_async(caller.get)(path)
        assert answer.status_code == status
        assert answer["X-RateLimit-Limit"] == "50"


def test_streams_carry_headers() -> None:
    answer = Client().get("/stream/")
    assert answer.streaming
    assert answer["X-RateLimit-Remaining"] == "49"


@override_settings(
    RATELIMIT_DEFAULT_LIMIT="1/h",
    RATELIMIT_MIDDLEWARE={
        "KEY": "header:X-Key",
        "SKIP_IF": "tests.django.rules_for_tests.is_staff",
    },
)
def test_key_and_skip_if_for_all_rules() -> None:
    assert get("/", 2, headers={"X-Key": "a"}) == [200, 429]
    assert get("/", 2, headers={"X-Key": "b"}) == [200, 429]
    assert get("/", 3, headers={"X-Key": "a", "X-Staff": "1"}) == [200] * 3


@override_settings(RATELIMIT_DEFAULT_LIMIT="1/h", RATELIMIT_ENABLE=False)
def test_it_can_be_switched_off() -> None:
    assert get("/", 3) == [200] * 3


@override_settings(RATELIMIT_DEFAULT_LIMIT="1/h", RATELIMIT_IETF_HEADERS=False)
def test_header_families_can_be_left_out() -> None:
    answer = Client().get("/")
    assert "RateLimit" not in answer
    assert "X-RateLimit-Limit" in answer


@override_settings(RATELIMIT_DEFAULT_LIMIT="1/h")
def test_settings_are_read_again_when_a_test_changes_them(limiter: Limiter) -> None:
    client = Client()
    assert client.get("/").status_code == 200
    with override_settings(RATELIMIT_DEFAULT_LIMIT="100/m"):
        assert client.get("/")["X-RateLimit-Limit"] == "100"
    assert limiter.peek(Policy("middleware/ip/default", ["1/h"]), "127.0.0.1").limit == 1


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ({"RATE_LIMITS": {"/api/": "5/q"}}, r"\['/api/'\].*5/q"),
        ({"RATE_LIMITS": {"api": "5/s"}}, "'api' is no path"),
        ({"RATE_LIMITS": {"PSOT /api/": "5/s"}}, "did you mean 'POST'"),
        ({"RATE_LIMITS": {"^(": "5/s"}}, "no regular expression"),
        ({"RATE_LIMITS": {"/a/": {"rte": "5/s"}}}, "did you mean 'rate'"),
        ({"RATE_LIMITS": ["/a/"]}, "not a mapping"),
        ({"RATELIMITS": {}}, "did you mean 'RATE_LIMITS'"),
        ({"SKIP_PATHS": "/a/"}, "not a list"),
        ({"SKIP_IF": "nowhere.at_all"}, "cannot be imported"),
        ({"RATE_LIMITS": {"/a/": "5/s"}, "KEY": "ipp"}, 'Did you mean "ip"'),
    ],
)
def test_a_bad_rule_stops_the_server_before_it_serves(rules: Any, part: str) -> None:
    with (
        override_settings(RATELIMIT_MIDDLEWARE=rules),
        pytest.raises(ConfigError, match=part),
    ):
        RateLimitMiddleware(lambda request: HttpResponse())


@pytest.mark.parametrize(
    ("fail_mode", "expected"),
    [("closed", [503] * 7), ("open", [200] * 7), ("local", [200] * 5 + [429] * 2)],
)
def test_a_dead_store(dead_store: str, fail_mode: str, expected: list[int]) -> None:
    with override_settings(
        RATELIMIT_BACKEND=dead_store, RATELIMIT_FAIL_MODE=fail_mode, RATELIMIT_DEFAULT_LIMIT="5/h"
    ):
        answers = [Client().get("/") for _ in range(7)]
    assert [answer.status_code for answer in answers] == expected
    if fail_mode == "closed":
        assert answers[0]["Retry-After"] == "1"
        assert answers[0]["Content-Type"] == "application/problem+json"
