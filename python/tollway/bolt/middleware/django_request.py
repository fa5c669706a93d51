"""A request and an answer as Django's middleware know them, made of what Bolt has.

Both are Django's own classes with everything left out that can be made when somebody asks: most
requests are never asked for their GET, POST, FILES or headers.
"""

from __future__ import annotations

from functools import cached_property
from http.cookies import SimpleCookie
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse, parse_cookie
from django.http.response import HttpResponseBase, ResponseHeaders

from tollway.bolt.carrying import carried
from tollway.bolt.header_pairs import HeaderPairs
from tollway.bolt.middleware.pieces import OnlyAsync, pieces_of
from tollway.bolt.responses import Response
from tollway.bolt.streaming import stream_of

__all__ = ["DjangoRequest", "from_django", "to_django"]


class DjangoRequest(HttpRequest):
    """A request of Bolt as an ``HttpRequest``; ``request.bolt`` is the former."""

    def __init__(self, bolt: Any) -> None:
        # Not that of HttpRequest: it makes what the properties below make when they are asked.
        self.bolt = bolt
        self.method = bolt.method
        self.path = self.path_info = bolt.path
        self.resolver_match = None
        self._read_started = False
        if bolt._by_header:
            # As in REST framework: who shows a token or a key is not a page of another site.
            self._dont_enforce_csrf_checks = True

    def _meta(self) -> dict[str, Any]:
        bolt = self.bolt
        meta = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": bolt.query_string,
            "REMOTE_ADDR": bolt.client or "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": self._get_scheme(),
        }
        bolt._put_headers(meta)
        host, _, port = meta.get("HTTP_HOST", "").rpartition(":")
        known = bool(host) and port.isdecimal()
        meta["SERVER_NAME"] = host if known else meta.get("HTTP_HOST", "localhost")
        meta["SERVER_PORT"] = port if known else "80"
        return meta

    def _query(self) -> Any:
        return QueryDict(self.bolt.query_string, encoding=self.encoding)

    def _cookies(self) -> dict[str, str]:
        lines = self.bolt.headers.getlist("cookie")
        return parse_cookie("; ".join(lines)) if lines else {}

    def _read(self: Any) -> None:
        if not hasattr(self, "_post"):
            self._load_post_and_files()

    def _form(self: Any) -> Any:
        self._read()
        return self._post

    def _set_form(self: Any, value: Any) -> None:
        self._post = value

    def _uploads(self: Any) -> Any:
        self._read()
        return self._files

    def _typed(self: Any, name: str) -> Any:
        self._set_content_type_params(self.META)
        return self.__dict__[name]

    META = cached_property(_meta)
    GET = cached_property(_query)
    COOKIES = cached_property(_cookies)
    POST = property(_form, _set_form)
    FILES = property(_uploads)
    content_type = cached_property(lambda self: self._typed("content_type"))
    content_params = cached_property(lambda self: self._typed("content_params"))

    def _whole_body(self) -> bytes:
        body: bytes = self.bolt.body
        return body

    _body = cached_property(_whole_body)

    def _get_scheme(self) -> Any:
        return self.bolt.scheme


class Cookies(SimpleCookie):
    """The cookies that middleware sets, and as ``lines`` those of the handler: Django hands this
    object on where it puts another response in the place of one, as for 304."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines


class Carried(HttpResponse):
    """An answer of Bolt on its way through Django's middleware."""

    def __init__(self, bolt: Response, headers: ResponseHeaders, cookies: list[str]) -> None:
        # What HttpResponse would set, without reading the body or guessing a type.
        self.headers = headers
        self.bolt = bolt
        self.status_code = bolt.status_code
        self.cookies = Cookies(cookies)
        self.closed = False
        self._charset = None
        self._resource_closers: list[Any] = []
        self._handler_class = None
        self._reason_phrase = None
        self._container = self.carried = [bolt.body]


class CarriedStream(StreamingHttpResponse):
    """The same for an answer whose body the server streams.

    Nothing of it is read unless a middleware does so, or puts an iterator of its own around it.
    """

    def __init__(
        self, bolt: Response, headers: ResponseHeaders, cookies: list[str], request: Any
    ) -> None:
        super().__init__(status=bolt.status_code)
        self.headers = headers
        self.bolt = bolt
        self.cookies = Cookies(cookies)
        self.carried = self._iterator = pieces_of(bolt.body, request)
        self.is_async = self.carried.is_async

    @property
    def streaming_content(self) -> Any:
        content = super().streaming_content
        return OnlyAsync(content) if self.is_async else content

    @streaming_content.setter
    def streaming_content(self: Any, value: Any) -> None:
        self._set_streaming_content(value)

    def changed(self: Any) -> Any:
        """The body, if it is not the one that the handler made."""
        if self._iterator is self.carried:
            return self.bolt.body
        self.carried.begin()
        self._resource_closers.append(self.carried.close)
        body = carried(self).body
        beat = getattr(self.bolt.body, "beat", None)
        if beat is not None and not self.has_header("Content-Encoding"):
            items, encode = body.take()
            body = stream_of(items, encode, beat)
        return body


def to_django(response: Response, request: Any) -> HttpResponseBase:
    """A response of Bolt for Django's middleware."""
    headers = ResponseHeaders({})
    # ResponseHeaders would encode and decode every name and value: these were checked already.
    store: dict[str, Any] = headers._store
    cookies: list[str] = []
    for name, value in response.headers:
        lower = name.lower()
        if lower == "set-cookie":
            cookies.append(value)
        elif lower in store:
            store[lower] = (name, f"{store[lower][1]}, {value}")
        else:
            store[lower] = (name, value)
    body: Any = response.body
    if isinstance(body, bytes):
        return Carried(response, headers, cookies)
    return CarriedStream(response, headers, cookies, request)


def from_django(made: Any) -> Response:
    """What Django's middleware answered, as a response of Bolt."""
    lines = [("set-cookie", line) for line in getattr(made.cookies, "lines", ())]
    if not isinstance(made, Carried | CarriedStream):
        response = carried(made)
        response.headers += lines
        return response
    response = made.bolt
    if isinstance(made, CarriedStream):
        response.body = made.changed()
    elif made._container is not made.carried:
        response.body = made.content
    store = made.headers._store
    pairs = HeaderPairs([pair for lower, pair in store.items() if lower != "content-length"])
    pairs += lines
    if made.cookies:
        pairs += [("set-cookie", morsel.OutputString()) for morsel in made.cookies.values()]
    response.status_code = made.status_code
    response.headers = pairs
    if isinstance(made, Carried):
        for close in made._resource_closers:
            close()
    return response
