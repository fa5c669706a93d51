"""What an attacker may try at the Django door: no bypass, no 500, bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from tests.asgi.serving import serve_asgi, serve_wsgi
from tests.django.conftest import User, codes
from tollway import Limiter
from tollway.django import generate_key, rate_limit
from tollway.django.models import Offender
from tollway.django.rules import Pattern
from tollway.django.usage import Recorder
from tollway.testing import ManualClock


def ok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


def spoofed(n: int) -> list[dict[str, str]]:
    """Headers by which people say who they are, to those who believe it."""
    address = f"203.0.113.{n}"
    return [
        {"X-Forwarded-For": address},
        {"X-Forwarded-For": f"{address}, 198.51.100.{n}"},
        {"Forwarded": f'for="{address}";proto=https'},
        {"CF-Connecting-IP": address},
        {"True-Client-IP": address},
        {"X-Real-IP": address},
        {"X-Client-IP": address},
        {"X-Cluster-Client-IP": address},
        {"Fastly-Client-IP": address},
        {"Client-IP": address},
        {"X-Forwarded-Host": f"host{n}.example"},
    ]


@pytest.mark.parametrize("kind", range(len(spoofed(0))))
def test_fifty_spoofed_requests_pass_five_times(rf: RequestFactory, kind: int) -> None:
    view = rate_limit(rate="5/h")(ok)
    seen = codes(view, [rf.get("/", headers=spoofed(n)[kind]) for n in range(50)])
    assert (seen.count(200), seen.count(429)) == (5, 45)


@override_settings(RATELIMIT_TRUSTED_PROXIES=["127.0.0.1", "10.0.0.0/8"])
def test_behind_a_proxy_what_the_client_wrote_changes_nothing(rf: RequestFactory) -> None:
    """The proxy appends the address it saw; all to the left of it is the client's own word."""
    view = rate_limit(rate="5/h")(ok)
    forged = [f"192.0.2.{n}, 10.0.0.{n}, 198.51.100.7, 10.0.0.1" for n in range(20)]
    seen = codes(view, [rf.get("/", headers={"X-Forwarded-For": text}) for text in forged])
    assert seen.count(200) == 5
    both = {"X-Forwarded-For": "198.51.100.7", "Forwarded": "for=203.0.113.99"}
    assert codes(view, [rf.get("/", headers=both)]) == [429]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        ", ,,",
        "unknown",
        "not an address",
        "999.999.999.999",
        "1.2.3.4:99999999",
        "[2001:db8::1",
        "::ffff:999.1.1.1",
        "é, \x00, \x7f",
        "1.2.3.4," * 20_000,
        "a" * 200_000,
        'for=;for="',
        'for="_hidden"',
        "for=for=for",
    ],
)
def test_nonsense_in_forwarded_headers_is_no_500(rf: RequestFactory, text: str) -> None:
    view = rate_limit(rate="2/h")(ok)
    for trusted in ([], ["127.0.0.1"]):
        with override_settings(RATELIMIT_TRUSTED_PROXIES=trusted):
            for header in ("X-Forwarded-For", "Forwarded"):
                seen = codes(view, [rf.get("/", headers={header: text}) for _ in range(3)])
                assert set(seen) <= {200, 429}
                assert 429 in seen


def test_an_ipv6_client_has_one_budget_for_its_network(rf: RequestFactory) -> None:
    view = rate_limit(rate="5/h")(ok)
    addresses = [f"2001:db8:1:2:{n:x}:{n * 7:x}:{n * 31:x}:{n}" for n in range(200)]
    seen = codes(view, [rf.get("/", REMOTE_ADDR=address) for address in addresses])
    assert seen.count(200) == 5
    mapped = [rf.get("/", REMOTE_ADDR=text) for text in ["192.0.2.1", "::ffff:192.0.2.1"] * 5]
    assert codes(view, mapped).count(200) == 5


def test_a_spray_of_keys_does_not_free_a_blocked_client(
    rf: RequestFactory, clock: ManualClock
) -> None:
    """Ten thousand junk keys into a table of two thousand: peers forget the blocked one."""
    with override_settings(RATELIMIT_BACKEND=Limiter("memory://", clock=clock, max_keys=2_000)):
        view = rate_limit("param:who", "5/h")(ok)
        blocked = [rf.get("/", {"who": "mallory"}) for _ in range(6)]
        assert codes(view, blocked) == [200] * 5 + [429]
        junk = rf.get("/")
        for n in range(10_000):
            junk.GET = {"who": f"junk{n}"}  # type: ignore[assignment]
            view(junk)
        assert codes(view, blocked[:3]) == [429] * 3


def test_a_spray_of_keys_takes_bounded_memory(rf: RequestFactory) -> None:
    view = rate_limit("header:X-API-Key", "5/h")(ok)
    request = rf.get("/")

    def spray(first: int) -> None:
        for n in range(first, first + 10_000):
            request.META["HTTP_X_API_KEY"] = f"key{n}"
            view(request)

    with override_settings(RATELIMIT_BACKEND=Limiter("memory://", max_keys=2_000)):
        spray(0)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            spray(10_000)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 200_000  # bytes in Python for ten thousand more keys


HOSTILE = [
    "x" * 1_000_000,
    "\x00",
    "\r\nX-Injected: 1",
    "\ud800\udfff",
    "héllo ☃",
    "{}%:#*",
    "..//..",
    "' OR 1=1 --",
]


@pytest.mark.parametrize("key", ["header:X-Key", "cookie:sid", "param:q", "post:q", "api_key"])
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_counted_like_any(rf: RequestFactory, key: str, value: str) -> None:
    view = rate_limit(key, "2/h")(ok)
    requests: list[Any] = [rf.get("/") for _ in range(3)]
    for request in requests:
        request.META["HTTP_X_KEY"] = request.META["HTTP_X_API_KEY"] = value
        request.COOKIES["sid"] = value
        request.GET = request.POST = {"q": value}
    answers = [view(request) for request in requests]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    for answer in answers:
        for name, told in answer.items():
            assert told.isascii(), name
            assert len(told) < 1_000, name
    if key.startswith(("header", "cookie", "api")):
        assert len(generate_key(requests[0], key)) < 100


def test_hostile_answers_of_a_key_function(rf: RequestFactory) -> None:
    for value in (*HOSTILE, b"\xff\xfe", 7, 1.5, ("a", "b")):
        view = rate_limit(lambda _, value=value: value, "2/h")(ok)
        assert codes(view, [rf.get("/") for _ in range(3)])[-1] in (200, 429)


def test_different_hostile_values_are_different_clients(rf: RequestFactory) -> None:
    view = rate_limit("header:X-Key", "1/h")(ok)
    for value in HOSTILE:
        request = rf.get("/")
        request.META["HTTP_X_KEY"] = value
        assert codes(view, [request]) == [200], value[:20]


@pytest.mark.parametrize(
    "accept", ["x" * 100_000, "," * 5_000, "text/html;q=" + "9" * 999, "é/\x00"]
)
def test_a_hostile_accept_header_gets_an_answer(rf: RequestFactory, accept: str) -> None:
    view = rate_limit(rate="1/h")(ok)
    assert codes(view, [rf.get("/", HTTP_ACCEPT=accept) for _ in range(2)]) == [200, 429]


@pytest.fixture(params=["wsgi", "asgi"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a real server, which sends what Django's own factory would not."""
    with override_settings(
        MIDDLEWARE=["tollway.django.middleware.RateLimitMiddleware"],
        RATELIMIT_DEFAULT_LIMIT="3/h",
        RATELIMIT_MIDDLEWARE={"KEY": "header:X-Key"},
    ):
        serving = (
            serve_wsgi(get_wsgi_application())
            if request.param == "wsgi"
            else serve_asgi(get_asgi_application())
        )
        with serving as address, httpx.Client(base_url=f"http://{address}") as client:
            yield client


def test_raw_bytes_in_headers_over_a_real_server(client: httpx.Client) -> None:
    for value in (b"\xff\xfe\xfd", "☃".encode(), b"\x80" * 2_000):
        headers = [(b"X-Key", value), (b"X-Forwarded-For", value)]
        seen = [client.get("/", headers=headers).status_code for _ in range(4)]
        assert seen == [200, 200, 200, 429]


def test_a_header_sent_twice_is_no_way_round(client: httpx.Client) -> None:
    twice = [(b"X-Forwarded-For", b"1.1.1.1"), (b"X-Forwarded-For", b"2.2.2.2")]
    with override_settings(RATELIMIT_TRUSTED_PROXIES=["127.0.0.1"], RATELIMIT_MIDDLEWARE={}):
        seen = [client.get("/", headers=twice).status_code for _ in range(4)]
        assert seen == [200, 200, 200, 429]
        first_only = [(b"X-Forwarded-For", b"9.9.9.9"), (b"X-Forwarded-For", b"2.2.2.2")]
        assert client.get("/", headers=first_only).status_code == 429


def test_invented_methods_and_spellings_of_the_host_gain_no_budget(rf: RequestFactory) -> None:
    by_method = rate_limit("{ip}/{method}", "2/h")(ok)
    assert codes(by_method, [rf.generic(f"M{n}", "/") for n in range(4)]) == [200, 200, 429, 429]
    by_host = rate_limit("{ip}/{host}", "2/h")(ok)
    spelled = ("shop.example", "SHOP.example", "shop.example:8000", "shop.example.", "a b")
    with override_settings(ALLOWED_HOSTS=["shop.example", "other.example"]):
        requests = [rf.get("/", HTTP_HOST=host) for host in spelled]
        assert codes(by_host, requests) == [200, 200, 429, 429, 200]
        strange = [rf.get("/", HTTP_HOST=f"x{n}.example") for n in range(3)]
        assert codes(by_host, strange) == [200, 429, 429]
        assert codes(by_host, [rf.get("/", HTTP_HOST="other.example")]) == [200]


def test_head_is_no_way_round_a_limit_on_get(rf: RequestFactory) -> None:
    """Django answers HEAD by the code for GET."""
    view = rate_limit(rate="2/h", method="GET")(ok)
    assert codes(view, [rf.get("/"), rf.head("/"), rf.head("/"), rf.get("/")]) == [
        *(200, 200, 429, 429)
    ]
    assert codes(view, [rf.post("/")]) == [200]
    pattern = Pattern.parse("GET /items/")
    assert pattern.length("HEAD", "/items/1") > 0
    assert pattern.length("POST", "/items/1") < 0


def test_a_denied_user_is_denied_however_the_list_is_given(rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = User(7)  # type: ignore[assignment]
    for given in (["user:7"], (f"user:{pk}" for pk in (6, 7)), {"user:7"}):
        assert codes(rate_limit(rate="9/h", deny_list=given)(ok), [request]) == [403]


def test_a_cost_of_any_size_is_refused_and_no_500(rf: RequestFactory) -> None:
    """What a client sends may say how much it costs."""
    for cost in (2_000_000_000, 2**63, 10**30):
        view = rate_limit(rate="5/h", cost=lambda _, cost=cost: cost)(ok)
        assert codes(view, [rf.get("/")]) == [429]
        later = rate_limit(
            rate="5/h",
            group=f"later {cost}",
            cost=lambda _, answer, cost=cost: cost if answer else 1,
        )(ok)
        assert codes(later, [rf.get("/"), rf.get("/")]) == [200, 429]


@pytest.mark.usefixtures("database")
def test_what_a_client_sends_does_not_spoil_the_sums(rf: RequestFactory) -> None:
    """PostgreSQL keeps no zero byte: a row with one would cost all that come after it."""
    recorder = Recorder()
    view = rate_limit("param:q", "1/h", group="sums")(ok)
    requests = [rf.get("/?q=a%00b") for _ in range(2)]
    assert codes(view, requests) == [200, 429]
    recorder.note(requests[1].rate_limit, generate_key(requests[1], "param:q"))
    recorder.write()
    assert Offender.objects.get().who == r"param:q:a\x00b"
