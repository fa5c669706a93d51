"""Responses, cookies, and exceptions as answers."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tollway.bolt import (
    HTML,
    JSON,
    Conflict,
    Cookie,
    HTTPException,
    NotFound,
    PlainText,
    Redirect,
    RequestValidationError,
    Response,
    status,
)
from tollway.bolt.error_handlers import ErrorHandler
from tollway.bolt.exceptions import NamedException, phrase

REQUEST = SimpleNamespace(method="GET", path="/x", headers={})


class Point(msgspec.Struct):
    x: int


def typed(response: Response) -> str | None:
    return dict(response.headers).get("content-type")


def test_content_types() -> None:
    assert (JSON(Point(1)).body, typed(JSON("a"))) == (b'{"x":1}', "application/json")
    assert (PlainText("é").body, typed(PlainText("x"))) == (
        "é".encode(),
        "text/plain; charset=utf-8",
    )
    assert typed(HTML("<p>")) == "text/html; charset=utf-8"
    assert (Response({"a": 1}).body, typed(Response({"a": 1}))) == (b'{"a":1}', "application/json")
    assert typed(Response(b"x")) == "application/octet-stream"
    assert typed(Response("x", media_type="text/css")) == "text/css"
    assert Response(status_code=204).headers == []
    assert Response({}, status_code=204, headers={"Allow": "GET"}).headers == [("Allow", "GET")]
    assert JSON({}, headers={"Content-Type": "application/hal+json"}).headers == [
        ("Content-Type", "application/hal+json")
    ]


def test_headers_by_name() -> None:
    headers = Response(headers=[("Link", "a"), ("ETag", "x"), ("link", "b")]).headers
    assert (headers["LINK"], headers.get("etag"), headers.get("age")) == ("a, b", "x", None)
    assert "etag" in headers
    assert "age" not in headers
    assert ("ETag", "x") in headers
    assert headers[1] == ("ETag", "x")
    headers["Link"] = "c"
    headers["Age"] = 7
    assert (headers.setdefault("age", "8"), headers.setdefault("Via", "p")) == ("7", "p")
    assert headers.items() == [("ETag", "x"), ("Link", "c"), ("Age", "7"), ("Via", "p")]
    del headers["etag"], headers["nowhere"], headers[0]
    assert headers == [("Age", "7"), ("Via", "p")]
    headers[0] = ("Age", "9")
    assert dict(headers) == {"Age": "9", "Via": "p"}
    with pytest.raises(KeyError, match="etag"):
        headers["etag"]
    with pytest.raises(ValueError, match="'Link' cannot have the value"):
        headers["Link"] = "a\r\nSet-Cookie: b"


def test_headers() -> None:
    response = Response(headers=[("Link", "a"), ("Link", "b")])
    assert response.headers == [("Link", "a"), ("Link", "b")]
    assert response.set_header("link", "c").headers == [("link", "c")]
    with pytest.raises(ValueError, match="cannot have the value"):
        response.add_header("X", "a\r\nSet-Cookie: stolen")


def test_redirects() -> None:
    away = Redirect("https://example.com/a b?c=d", status_code=302)
    assert (away.status_code, away.headers) == (
        302,
        [("location", "https://example.com/a%20b?c=d")],
    )
    assert Redirect("/x").status_code == 307
    with pytest.raises(ValueError, match="301, 302, 303, 307 or 308"):
        Redirect("/x", status_code=200)


def test_cookies() -> None:
    response = JSON({}).set_cookie("a", "1", max_age=60, secure=True).delete_cookie("b", path="/p")
    assert [value for name, value in response.headers if name == "set-cookie"] == [
        "a=1; Max-Age=60; Path=/; SameSite=Lax; Secure",
        "b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/p; SameSite=Lax",
    ]
    assert Cookie("a", 'x "y"; z').to_header_value().startswith(r'a="x \"y\"\073 z"; ')
    when = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "Expires=Wed, 02 Jan 2030 03:04:05 GMT" in Cookie("a", expires=when).to_header_value()
    for bad in ({"name": "a b"}, {"name": "a", "value": "x\n"}, {"name": "a", "path": "/;x"}):
        with pytest.raises(ValueError, match="cookie"):
            Cookie(**bad)
    with pytest.raises(ValueError, match="samesite"):
        Cookie("a", samesite="loose")  # type: ignore[arg-type]


def test_what_cannot_be_json_says_what_to_do() -> None:
    class Model:
        _meta = _state = None

    with pytest.raises(
        TypeError, match=r"a .*Model cannot be sent as JSON; build a msgspec.Struct"
    ):
        JSON({"item": Model()})


def answer(error: BaseException, debug: bool = False) -> tuple[int, dict[str, str], Any]:
    code, headers, body = ErrorHandler(debug)(REQUEST, error)
    return code, dict(headers), json.loads(body)


def test_http_exceptions() -> None:
    code, headers, body = answer(HTTPException(503, headers={"Retry-After": "5"}, extra=[1]))
    assert code == 503
    assert headers == {"content-type": "application/problem+json", "Retry-After": "5"}
    assert body == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Service Unavailable",
        "extra": [1],
    }
    assert answer(NotFound("no"))[2]["detail"] == "no"
    assert answer(Conflict(body=Point(2)))[1:] == ({"content-type": "application/json"}, {"x": 2})
    with pytest.raises(ValueError, match="from 400 to 599, not 302"):
        HTTPException(302)


def test_named_exceptions_have_their_status() -> None:
    named = [kind for base in NamedException.__subclasses__() for kind in base.__subclasses__()]
    assert len(named) == 15
    for kind in named:
        assert kind().status_code == kind.status_code
        assert phrase(kind.status_code) != "Error"


def test_a_list_of_mistakes() -> None:
    entry: Any = {"type": "date_order", "loc": ["body", "end"], "msg": "end is before start"}
    code, _, body = answer(RequestValidationError([entry]))
    assert (code, body["errors"]) == (422, [entry])
    assert body["detail"] == "1 part of the request is not valid"


def test_unexpected_errors(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "tollway.bolt"):
        code, _, body = answer(RuntimeError("secret"))
        assert (code, "secret" in str(body)) == (500, False)
    [record] = caplog.records
    assert record.exc_info is not None
    assert answer(RuntimeError("secret"), debug=True)[2]["detail"] == "RuntimeError: secret"


def test_status_names() -> None:
    assert status.HTTP_201_CREATED == 201
    assert status.is_success(204)
    assert not status.is_client_error(500)
