"""What a browser and an operator see of requests that the server refuses by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project, Served
from tests.bolt.wire import Answer, certificate, get, post, trusting, wire

API = """
import asyncio

from tollway.bolt import BoltAPI, PlainText, Request, rate_limit

api = BoltAPI()


@api.get("/ping")
async def ping():
    return {}


@api.post("/echo")
async def echo(request: Request):
    return PlainText(request.body)


@api.get("/never")
@rate_limit("1000/h")
async def never():
    await asyncio.Event().wait()
"""

PAGE = "https://page.example"
FROM_PAGE = f"Origin: {PAGE}\r\nUser-Agent: browser\r\n"

SETTINGS = """
DATABASES = {}
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware"]
BOLT_REQUEST_IDS = True
CORS_ALLOWED_ORIGINS = ["https://page.example"]
SECURE_HSTS_SECONDS = 60
BOLT_HEADER_TIMEOUT = 0.5
BOLT_BODY_TIMEOUT = 0.5
BOLT_HANDLER_TIMEOUT = 0.5
BOLT_MAX_BODY_BYTES = 1000
BOLT_ACCESS_LOG_FORMAT = "json"
BOLT_ACCESS_LOG_REFUSALS = 1000
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("refusals"))
    project.write("shop/api.py", API)
    project.settings(f"{SETTINGS}\nBOLT_ACCESS_LOG = {str(project.folder / 'access.log')!r}")
    return project


@pytest.fixture(scope="module")
def served(place: Project) -> Iterator[Served]:
    with place.serve() as served:
        yield served
        assert served.stop() == 0
    check_log(place.folder / "access.log")


BODY = "POST /echo HTTP/1.1\r\nHost: x\r\n" + FROM_PAGE

REFUSED = {
    "host": ("GET /ping HTTP/1.1\r\n" + FROM_PAGE + "\r\n", 400, "/ping"),
    "line feed": (get("/ping", FROM_PAGE + "X: y\n"), 400, "/ping"),
    "lengths": (BODY + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "/echo"),
    "head in time": ("GET /ping HTTP/1.1\r\n" + FROM_PAGE, 408, "/ping"),
    "body in time": (BODY + "Content-Length: 10\r\n\r\nhalf", 408, "/echo"),
    "stated size": (BODY + "Content-Length: 100000000\r\n\r\n", 413, "/echo"),
    "size for the route": (BODY + "Content-Length: 1001\r\n\r\n", 413, "/echo"),
    "chunk": (BODY + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n", 400, "/echo"),
    "chunked size": (
        BODY + "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        413,
        "/echo",
    ),
    "target": (get("/" + "a" * 9000, FROM_PAGE), 414, "/" + "a" * 1023),
    "head size": (get("/ping", FROM_PAGE + "X: " + "y" * 40_000 + "\r\n"), 431, "/ping"),
    "headers": (get("/ping", FROM_PAGE + "X: y\r\n" * 101), 431, "/ping"),
    "coding": (BODY + "Transfer-Encoding: gzip\r\n\r\n", 501, "/echo"),
    "version": ("GET /ping HTTP/3.0\r\nHost: x\r\n" + FROM_PAGE + "\r\n", 505, "/ping"),
    "handler in time": (get("/never", FROM_PAGE), 504, "/never"),
}
"""Each with the path that the log is to name."""


@pytest.mark.parametrize(("request_", "status", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_a_page_may_read_why(served: Served, request_: str, status: int, path: str) -> None:
    with wire(served.url) as client:
        answer = client.send(request_).answer()
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "application/problem+json"
        EXPECTED[names(answer)] = (status, path)
        assert client.rest() == b""


def names(answer: Answer) -> str:
    """The id, which is on the answer and in the problem."""
    told = json.loads(answer.body)
    name = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", name)
    assert (told["request_id"], told["status"]) == (name, answer.status)
    return name


EXPECTED: dict[str, tuple[int, str | None]] = {}
"""The status and the path that the log is to have for each id."""


def check_log(log: Path) -> None:
    """Each refusal is in the log, once, with what could be read of it."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for name, (status, path) in EXPECTED.items():
        found = [line for line in lines if line["request_id"] == name]
        assert [(line["status_code"], line["path"]) for line in found] == [(status, path)]
        assert found[0]["client_ip"] == "127.0.0.1"
    assert not any(line["status_code"] == 499 for line in lines)


def test_other_pages_may_not(served: Served) -> None:
    with wire(served.url) as client:
        answer = client.send("GET /ping HTTP/1.1\r\nOrigin: https://evil.example\r\n\r\n").answer()
        assert answer.status == 400
        assert "access-control-allow-origin" not in answer.headers
        names(answer)


@pytest.mark.parametrize(
    "garbage", ["\x16\x03\x01\x02\x00\r\n", "\r\n\r\n\r\n", "GET\r\n", "x" * 40_000]
)
def test_what_is_no_request_is_named_too(served: Served, garbage: str) -> None:
    with wire(served.url) as client:
        answer = client.send(garbage).answer()
        EXPECTED[names(answer)] = (answer.status, None)


def test_a_head_request_gets_no_body(served: Served) -> None:
    with wire(served.url) as client:
        client.send("HEAD /ping HTTP/1.1\r\n\r\n")
        found = client.rest()
        assert b" 400 " in found
        assert found.endswith(b"\r\n\r\n")


def test_requests_before_a_refused_one_are_answered(served: Served) -> None:
    with wire(served.url) as client:
        client.send(get("/ping") + post("/echo", "hi") + BODY + "Content-Length: 10\r\n\r\nhalf")
        assert [client.answer().status for _ in range(3)] == [200, 200, 408]
        assert client.rest() == b""
    with wire(served.url) as client:
        chunked = BODY + "Transfer-Encoding: chunked\r\n\r\n"
        client.send(post("/echo", "hi") + chunked + "2\r\nhi\r\n0\r\n\r\n" + chunked + "x\r\n")
        assert [client.answer().status for _ in range(3)] == [200, 200, 400]


def test_the_limits_of_a_route_are_told_when_its_handler_is_late(served: Served) -> None:
    with wire(served.url) as client:
        answer = client.send(get("/never")).answer()
        assert answer.status == 504
        assert "ratelimit" in answer.headers or "ratelimit-limit" in answer.headers, answer.headers


def test_over_http2_as_well(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("shop/api.py", API)
    project.settings(SETTINGS)
    files = certificate(project.folder)
    with (
        project.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served,
        httpx.Client(verify=trusting(files[0]), http2=True, base_url=served.url) as browser,
    ):
        for path, content, status in (
            ("/" + "a" * 9000, None, 414),
            ("/echo", b"x" * 1001, 413),
            ("/never", None, 504),
        ):
            answer = browser.request(
                "POST" if content else "GET", path, content=content, headers={"origin": PAGE}
            )
            assert (answer.http_version, answer.status_code) == ("HTTP/2", status)
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["strict-transport-security"]
            assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_flood_of_refusals_is_a_few_lines(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("shop/api.py", API)
    log = project.folder / "access.log"
    project.settings(f"BOLT_ACCESS_LOG = {str(log)!r}\nBOLT_ACCESS_LOG_REFUSALS = 3")
    with project.serve() as served:
        for _ in range(200):
            with wire(served.url) as client:
                assert client.send("nonsense\r\n").answer().status == 400
        assert served.stop() == 0
    lines = log.read_text().splitlines()
    told = sum(int(found[1]) for line in lines if (found := re.search(r"(\d+) more ref", line)))
    written = sum(" 400 " in line for line in lines)
    assert written + told == 200
    assert written <= 40
