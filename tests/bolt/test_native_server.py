"""The native server over real sockets: parameters, requests, answers, errors, limits, bad input."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import http.client
import logging
import socket
import uuid
from typing import Any

import pytest

from tests.bolt.native import arg, route, running
from tollway import Limiter, Policy
from tollway._tollway import Server


class Reply:
    """What the bolt layer's response classes look like to the server."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status_code = status
        self.headers = headers
        self.body = body


async def ping() -> str:
    return "pong"


def test_arguments_arrive_typed_and_in_order() -> None:
    seen: list[Any] = []

    async def handler(*args: Any) -> None:
        seen.extend(args)

    args = [
        arg("day", "query", "date"),
        arg("number", "path", "int"),
        arg("x_flag", "header", "bool"),
        arg("amount", "query", "decimal"),
        arg("id", "query", "uuid"),
        arg("moment", "query", "datetime"),
        arg("at", "query", "time"),
        arg("big", "query", "int"),
        arg("share", "query", "float"),
        arg("tags", "query", list=True),
        arg("missing", "query", default="fallback"),
        arg("session", "cookie"),
        arg("shown", "query", alias="display"),
    ]
    identity = uuid.uuid4()
    query = (
        f"day=2024-02-29&amount=1.50&id={identity}&moment=2024-01-02T03:04:05.678%2B02:00&at=10:11"
        f"&big={10**30}&share=2.5&tags=a&tags=b%20c&display=yes"
    )
    with running(route("/n/{number}", handler, *args)) as served:
        answer = served.get(f"/n/-7?{query}", X_Flag="on", Cookie="a=b; session=s3")
    assert answer.status == 200, answer.body
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert seen == [
        datetime.date(2024, 2, 29),
        -7,
        True,
        decimal.Decimal("1.50"),
        identity,
        datetime.datetime(2024, 1, 2, 3, 4, 5, 678000, zone),
        datetime.time(10, 11),
        10**30,
        2.5,
        ["a", "b c"],
        "fallback",
        "s3",
        "yes",
    ]


def test_all_mistakes_reach_the_hook_at_once() -> None:
    def decode(text: str) -> str:
        if text == "bad":
            raise ValueError("not one of the colours")
        return text

    def on_validation(
        request: Any, errors: list[dict[str, Any]]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        assert request.path == "/x"
        return (
            422,
            [("content-type", "text/plain")],
            repr([(e["type"], e["loc"]) for e in errors]).encode(),
        )

    args = [arg("n", "query", "int"), arg("m", "query"), arg("ids", "query", "int", list=True)]
    coloured = arg("colours", "query", list=True, decode=decode)
    with running(
        route("/x", ping, *args), route("/c", ping, coloured), on_validation=on_validation
    ) as served:
        answer = served.get("/x?n=one&ids=1&ids=two")
        assert answer.status == 422
        assert answer.body == (
            b"[('int_parsing', ['query', 'n']), ('missing', ['query', 'm']), "
            b"('int_parsing', ['query', 'ids', 1])]"
        )
        plain = running(route("/c", ping, coloured))
        with plain as other:
            problem = other.get("/c?colours=red&colours=bad")
    assert problem.status == 422
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["errors"] == [
        {"type": "value_error", "loc": ["query", "colours", 1], "msg": "not one of the colours"}
    ]


def test_the_request_object() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: Any, body: bytes) -> None:
        request.state["self"] = request
        seen.update(
            method=request.method,
            path=request.path,
            raw_path=request.raw_path,
            query_string=request.query_string,
            params=request.params,
            query=request.query.items(),
            several=request.query.getlist("a"),
            cookies=request.cookies,
            client=request.client,
            body=request.body,
            same_body=request.body is body,
            agent=request.headers["X-Agent"],
            none=request.headers.get("nothing"),
            default=request.headers.get("nothing", 5),
            inside="x-AGENT" in request.headers,
            state=list(request.state),
            limit=request.rate_limit,
            route=request.route,
        )

    described = route("/a b/{name}", handler, arg("r", "request"), arg("b", "body"), method="POST")
    with running(described) as served:
        answer = served.get(
            "/a%20b/c%2Fd?a=1&a=2&b=%C3%A9", "POST", b"xyz", X_Agent="me", Cookie="k=v"
        )
    assert (answer.status, answer.body) == (200, b"null")
    assert seen == {
        "method": "POST",
        "path": "/a b/c/d",
        "raw_path": "/a%20b/c%2Fd",
        "query_string": "a=1&a=2&b=%C3%A9",
        "params": {"name": "c/d"},
        "query": [("a", "2"), ("b", "é")],
        "several": ["1", "2"],
        "cookies": {"k": "v"},
        "client": "127.0.0.1",
        "body": b"xyz",
        "same_body": True,
        "agent": "me",
        "none": None,
        "default": 5,
        "inside": True,
        "state": ["self"],
        "limit": None,
        "route": "/a b/{name}",
    }


def test_results_become_responses() -> None:
    large = b"x" * 3_000_000

    async def text() -> str:
        return "é"

    async def raw() -> bytes:
        return large

    async def made() -> Reply:
        return Reply(
            418, [("X-One", "1"), ("x-one", "2"), ("Content-Length", "5"), ("x-latin", "é")], b"tea"
        )

    async def nothing() -> None:
        return None

    async def created() -> dict[str, int]:
        return {"id": 1}

    async def impossible() -> object:
        return object()

    routes = [
        route(f"/{function.__name__}", function) for function in (text, raw, made, impossible)
    ]
    routes += [route("/nothing", nothing, status=204), route("/created", created, status=201)]
    with running(*routes, response_type=Reply) as served:
        answer = served.get("/text")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.body == "é".encode()
        answer = served.get("/raw")
        assert (answer.headers["content-type"], answer.body == large) == (
            "application/octet-stream",
            True,
        )
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request("GET", "/made")
        response = connection.getresponse()
        assert (response.status, response.read()) == (418, b"tea")
        assert response.headers.get_all("x-one") == ["1", "2"]
        assert response.headers["x-latin"] == "é"
        connection.close()
        answer = served.get("/nothing")
        assert (answer.status, answer.body) == (204, b"")
        answer = served.get("/created")
        assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
        assert served.get("/created", "HEAD").body == b""
        assert served.get("/impossible").status == 500


def test_routes_that_do_not_fit() -> None:
    with running(route("/a/{x}", ping), route("/a/{x}", ping, method="PUT")) as served:
        assert served.get("/b").json()["instance"] == "/b"
        answer = served.get("/a/1", "DELETE")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")
        answer = served.get("/a/1", "OPTIONS")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, PUT")


@pytest.mark.parametrize("mode", ["async", "sync", "inline"])
def test_exceptions_reach_the_hook(mode: str) -> None:
    def on_error(request: Any, error: BaseException) -> tuple[int, list[tuple[str, str]], bytes]:
        assert error.__traceback__ is not None
        return 409, [], f"{request.path} {error!r}".encode()

    async def later() -> None:
        await asyncio.sleep(0)
        raise KeyError("inner")

    def plain() -> None:
        raise KeyError("inner")

    with running(
        route("/x", later if mode == "async" else plain, mode=mode), on_error=on_error
    ) as served:
        answer = served.get("/x")
    assert (answer.status, answer.body) == (409, b"/x KeyError('inner')")


def test_a_failing_hook_is_a_plain_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(_request: Any, _error: BaseException) -> None:
        raise RuntimeError("the hook is broken")

    async def fail() -> None:
        raise KeyError("inner")

    with (
        caplog.at_level(logging.ERROR, "tollway.bolt"),
        running(route("/x", fail), on_error=on_error) as served,
    ):
        answer = served.get("/x")
    assert answer.status == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"inner" not in answer.body
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert logged == ["'inner'", "the hook is broken"]


def test_body_decoder_errors_reach_the_error_hook() -> None:
    def decode(_body: bytes) -> None:
        raise ValueError("not JSON")

    def on_error(_request: Any, error: BaseException) -> tuple[int, list[tuple[str, str]], bytes]:
        return 422, [], str(error).encode()

    with running(
        route("/x", ping, arg("b", "body", decode=decode), method="POST"), on_error=on_error
    ) as served:
        answer = served.get("/x", "POST", b"{")
    assert (answer.status, answer.body) == (422, b"not JSON")


def test_limits_are_decided_before_python() -> None:
    calls: list[int] = []

    async def handler(request: Any) -> int:
        calls.append(request.rate_limit.remaining)
        return len(calls)

    limit = {"limiter": Limiter(), "policy": Policy("native", "3/h"), "key": "ip"}
    with running(route("/x", handler, arg("r", "request"), limits=[limit])) as served:
        answers = [served.get("/x") for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert calls == [2, 1, 0]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == [
        "2",
        "1",
        "0",
        "0",
        "0",
    ]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[-1].headers["content-type"] == "application/problem+json"


def test_limits_over_redis_wait_without_blocking(redis_url: str) -> None:
    limiter = Limiter(redis_url, fail_mode="closed")
    limit = {"limiter": limiter, "policy": Policy("native-redis", "2/h"), "key": "ip"}
    with running(route("/x", ping, limits=[limit]), route("/y", ping)) as served:
        assert [served.get("/x").status for _ in range(4)] == [200, 200, 429, 429]
        assert served.get("/y").status == 200


def test_only_trusted_proxies_name_the_client() -> None:
    async def who(request: Any) -> str:
        return str(request.client)

    described = route("/", who, arg("r", "request"))
    with running(described) as served:
        assert served.get("/", X_Forwarded_For="203.0.113.9").body == b"127.0.0.1"
    with running(described, trusted_proxies=["127.0.0.0/8"]) as served:
        assert served.get("/", X_Forwarded_For="203.0.113.9").body == b"203.0.113.9"


def test_inline_handlers_see_no_loop() -> None:
    def handler() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "ok"

    async def after() -> str:
        return type(asyncio.get_running_loop()).__name__

    with running(route("/", handler, mode="inline"), route("/after", after)) as served:
        assert served.get("/").body == b"ok"
        assert b"Loop" in served.get("/after").body


def test_pipelined_answers_keep_their_order_and_contexts() -> None:
    import contextvars

    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def slow(n: int) -> list[int]:
        seen = variable.get()
        variable.set(n)
        await asyncio.sleep(0.001 * n)
        return [n, seen]

    with running(route("/{n}", slow, arg("n", "path", "int"))) as served:
        client = socket.create_connection(("127.0.0.1", served.port), timeout=10)
        numbers = [5, 1, 3, 0, 2]
        request = "".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in numbers)
        client.sendall(request.encode())
        received = b""
        while received.count(b"]") < len(numbers):
            received += client.recv(65536)
        client.close()
    bodies = [part.split(b"\r\n\r\n")[1] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [f"[{n}, 0]".encode() for n in numbers]


def test_bodies_are_left_out_where_http_has_none() -> None:
    async def made(status: int) -> Reply:
        return Reply(status, [], b"body")

    with running(
        route("/{status}", made, arg("status", "path", "int")), response_type=Reply
    ) as served:
        client = served.open(
            "/204", "\r\nGET /304 HTTP/1.1\r\nHost: x\r\n\r\nGET /200 HTTP/1.1\r\nHost: x\r\n"
        )
        received = b""
        while b"HTTP/1.1 200" not in received or not received.endswith(b"body"):
            received += client.recv(65536)
        client.close()
    assert received.count(b"body") == 1
    assert received.count(b"HTTP/1.1 ") == 3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"method": "BAD METHOD"}, "method"),
        ({"path": "x"}, "must begin with /"),
        ({"mode": "thread"}, "mode"),
        ({"status": 99}, "status"),
        ({"handler": 5}, "handler"),
        ({"encode": None}, "encode"),
        ({"args": [arg("x", "path")]}, "no parameter {x}"),
        ({"args": [arg("x", "query", "complex")]}, "kind"),
        ({"args": [arg("x", "nowhere")]}, "source"),
        ({"limits": [{"policy": 1}]}, "limiter"),
        ({"limits": [{"limiter": Limiter(), "policy": Policy("a", "1/s"), "key": "ipp"}]}, "ipp"),
    ],
)
def test_bad_routes_are_named(change: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=r"^route") as caught:
        Server([route("/x", ping) | change], {})
    assert part in str(caught.value)


def test_conflicting_routes_are_both_named() -> None:
    with pytest.raises(ValueError, match="conflicts") as caught:
        Server([route("/{a}", ping, name="shop.one"), route("/{b}", ping, name="shop.two")], {})
    assert "shop.one" in str(caught.value) and "shop.two" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"max_bodybytes": 1}, "max_bodybytes"),
        ({"max_body_bytes": "big"}, "max_body_bytes"),
        ({"header_timeout": -1.0}, "header_timeout"),
        ({"threads": 0}, "threads"),
        ({"on_error": 5}, "on_error"),
        ({"trusted_proxies": ["nonsense"]}, "nonsense"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Server([], settings)


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is already in use") as caught:
            Server([], {}).bind("127.0.0.1", port)
    assert caught.value.errno == 98


def test_order_of_calls_is_explained() -> None:
    server = Server([], {})
    with pytest.raises(RuntimeError, match="bind"):
        server.start(asyncio.new_event_loop())
