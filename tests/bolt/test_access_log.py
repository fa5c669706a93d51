"""The access log, request ids and security headers of a served project."""

from __future__ import annotations

import json
import re
import socket
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project
from tollway import ConfigError
from tollway.bolt.compiling.answers import read_answers
from tollway.bolt.logging import LoggingConfig

API = """
from tollway.bolt import BoltAPI, LoggingConfig, Request, Router, rate_limit

api = BoltAPI()
quiet = Router(prefix="/quiet", enable_logging=False)
terse = Router(prefix="/terse", logging_config=LoggingConfig(
    request_log_fields={"path", "query"}, response_log_fields={"status_code"},
    skip_status_codes={204},
))


@api.get("/items/{item_id}")
async def item(item_id: int, request: Request):
    return {"id": request.id}


@api.get("/fails")
def fails():
    raise RuntimeError("inside")


@api.get("/limited")
@rate_limit("1/h", key="global")
async def limited():
    return {}


@api.get("/slow")
async def slow():
    import asyncio
    await asyncio.Event().wait()


@quiet.get("/x")
async def silent():
    return {}


@terse.get("/x")
@terse.get("/none", status_code=204)
async def terse_x():
    return {}


api.include_router(quiet)
api.include_router(terse)
"""


def serve_and_read(project: Project, settings: str, *paths: str) -> list[str]:
    """The lines of the log after an orderly end."""
    log = project.folder / "access.log"
    project.settings(f"BOLT_ACCESS_LOG = {str(log)!r}\n{textwrap.dedent(settings)}")
    project.write("shop/api.py", API)
    with project.serve() as served:
        for path in paths:
            httpx.get(served.url + path, headers={"user-agent": 'a"b', "host": "shop.example"})
        assert served.stop() == 0
    return log.read_text().splitlines()


def test_each_request_is_a_line(project: Project) -> None:
    paths = ("/items/7?secret=1", "/items/x", "/nowhere", "/fails", "/quiet/x")
    lines = serve_and_read(project, "", *paths)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    expected = [
        rf'{stamp} INFO 127.0.0.1 GET "/items/7" 200 41 \d+\.\d{{3}}ms -',
        rf'{stamp} WARNING 127.0.0.1 GET "/items/x" 422 \d+ \d+\.\d{{3}}ms -',
        rf'{stamp} WARNING 127.0.0.1 GET "/nowhere" 404 \d+ \d+\.\d{{3}}ms -',
        rf'{stamp} ERROR 127.0.0.1 GET "/fails" 500 \d+ \d+\.\d{{3}}ms -',
    ]
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_lines_as_json_with_ids_and_a_router_of_its_own_taste(project: Project) -> None:
    settings = """
        from tollway.bolt import LoggingConfig
        BOLT_ACCESS_LOG_FORMAT = "json"
        BOLT_REQUEST_IDS = True
        BOLT_ACCESS_LOG_CONFIG = LoggingConfig(
            request_log_fields={"method", "path", "request_id", "user_agent", "host"},
            response_log_fields={"status_code"},
        )
    """
    lines = serve_and_read(project, settings, "/items/7", "/terse/x?a=1", "/terse/none")
    item, terse = (json.loads(line) for line in lines)
    assert (item["user_agent"], item["host"], item["level"]) == ('a"b', "shop.example", "INFO")
    assert re.fullmatch("[0-9a-f]{32}", item["request_id"])
    assert {name: terse[name] for name in terse if name != "time"} == {
        "level": "INFO",
        "path": "/terse/x",
        "query": "a=1",
        "status_code": 200,
    }


def test_a_flood_of_refusals_is_a_few_lines(project: Project) -> None:
    settings = "BOLT_ACCESS_LOG_REFUSALS = 2"
    lines = serve_and_read(project, settings, *["/limited"] * 50)
    refused = [line for line in lines if " 429 " in line]
    left_out = sum(
        int(found[1]) for line in lines if (found := re.search(r"(\d+) more refusals", line))
    )
    assert len(refused) + left_out == 49
    assert left_out > 0


def test_a_client_that_goes_away_is_in_the_log(project: Project) -> None:
    log = project.folder / "access.log"
    project.write("shop/api.py", API)
    with project.serve("--access-log", str(log)) as served:
        address = served.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            httpx.get(f"{served.url}/items/1")
        assert served.stop() == 0
    assert ' WARNING 127.0.0.1 GET "/slow" 499 0 ' in log.read_text()


def test_standard_error_is_a_log_too(project: Project) -> None:
    project.write("shop/api.py", API)
    with project.serve("--access-log", "--processes", "2") as served:
        httpx.get(f"{served.url}/items/1")
        assert served.stop() == 0
    assert any('GET "/items/1" 200' in line for line in served.lines)


def test_an_id_is_made_kept_and_told(project: Project) -> None:
    project.settings("BOLT_REQUEST_IDS = True\nBOLT_TRUST_REQUEST_ID = True\n")
    project.write("shop/api.py", API)
    with project.serve() as served:
        made = httpx.get(f"{served.url}/items/1")
        assert made.json() == {"id": made.headers["x-request-id"]}
        kept = httpx.get(f"{served.url}/items/1", headers={"x-request-id": "from-nginx-1"})
        assert (kept.json(), kept.headers["x-request-id"]) == (
            {"id": "from-nginx-1"},
            "from-nginx-1",
        )
        odd = httpx.get(f"{served.url}/items/1", headers={"x-request-id": "a b"})
        assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])
        for path in ("/fails", "/nowhere", "/items/x"):
            answer = httpx.get(served.url + path, headers={"x-request-id": "mine"})
            assert answer.json()["request_id"] == "mine", path


def test_without_the_setting_ids_are_for_handlers_only(project: Project) -> None:
    project.settings("BOLT_TRUST_REQUEST_ID = True\n")
    project.write("shop/api.py", API)
    with project.serve() as served:
        answer = httpx.get(f"{served.url}/items/1", headers={"x-request-id": "mine"})
        assert "x-request-id" not in answer.headers
        assert re.fullmatch("[0-9a-f]{32}", answer.json()["id"])


def test_only_trusted_proxies_name_requests(project: Project) -> None:
    project.settings(
        "BOLT_REQUEST_IDS = BOLT_TRUST_REQUEST_ID = True\n"
        'BOLT_TRUSTED_PROXIES = ["192.0.2.0/24"]\nBOLT_REQUEST_ID_HEADER = "X-Trace"\n'
    )
    project.write("shop/api.py", API)
    with project.serve() as served:
        answer = httpx.get(f"{served.url}/items/1", headers={"x-trace": "mine"})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-trace"])


def test_security_headers_follow_the_settings_of_django(project: Project) -> None:
    project.settings(
        """
        MIDDLEWARE = [
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ]
        SECURE_HSTS_SECONDS = 60
        SECURE_HSTS_INCLUDE_SUBDOMAINS = True
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
        """
    )
    project.write("shop/api.py", API)
    with project.serve() as served:
        plain = httpx.get(f"{served.url}/items/1").headers
        missing = httpx.get(f"{served.url}/nowhere").headers
        secure = httpx.get(f"{served.url}/items/1", headers={"x-forwarded-proto": "https"}).headers
    expected = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "DENY",
    }
    for headers in (plain, missing):
        assert {name: headers.get(name) for name in expected} == expected
        assert "strict-transport-security" not in headers
    assert secure["strict-transport-security"] == "max-age=60; includeSubDomains"


class Source:
    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(settings)


def test_security_headers_are_off_without_the_middleware_and_on_when_asked_for() -> None:
    assert read_answers(Source()).headers == ()
    told = read_answers(
        Source(
            BOLT_SECURITY_HEADERS=True, SECURE_REFERRER_POLICY=None, X_FRAME_OPTIONS="sameorigin"
        )
    )
    assert told.headers == (
        ("x-content-type-options", "nosniff"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "SAMEORIGIN"),
    )
    used = Source(
        BOLT_SECURITY_HEADERS=False, MIDDLEWARE=["django.middleware.security.SecurityMiddleware"]
    )
    assert read_answers(used).headers == ()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"BOLT_ACCESS_LOG": 7}, "BOLT_ACCESS_LOG: 7"),
        ({"BOLT_ACCESS_LOG": True, "BOLT_ACCESS_LOG_FORMAT": "xml"}, "'xml' is not"),
        ({"BOLT_ACCESS_LOG": True, "BOLT_ACCESS_LOG_CONFIG": {"a": 1}}, "is not a LoggingConfig"),
        ({"BOLT_ACCESS_LOG": True, "BOLT_ACCESS_LOG_REFUSALS": -1}, "BOLT_ACCESS_LOG_REFUSALS: -1"),
        ({"SECURE_PROXY_SSL_HEADER": "https"}, "SECURE_PROXY_SSL_HEADER"),
        ({"CORS_URLS_REGEX": "("}, "CORS_URLS_REGEX"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_answers(Source(**settings))
    assert part in str(caught.value)


def test_a_log_that_cannot_be_written_stops_the_start(project: Project, tmp_path: Path) -> None:
    project.settings(f"BOLT_ACCESS_LOG = {str(tmp_path / 'no' / 'log')!r}")
    project.write("shop/api.py", API)
    told = project.manage("runbolt", "--check")
    assert told.returncode == 1
    assert "No such file" in told.stderr
    assert "Traceback" not in told.stderr


def test_mistakes_in_a_logging_config() -> None:
    for given, part in [
        ({"request_log_fields": {"body"}}, "no field 'body'"),
        ({"skip_paths": "/health"}, "skip_paths='/health' is not a list"),
        ({"skip_status_codes": 404}, "skip_status_codes=404 is not a list"),
        ({"request_log_fields": iter(["path"])}, "is not a list or a set"),
        ({"sample_rate": 2}, "sample_rate=2"),
        ({"min_duration_ms": -1}, "min_duration_ms=-1"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(part)):
            LoggingConfig(**given)
