"""What a handler returns when a plain value is not enough.

A dict, a list, a ``msgspec.Struct`` … is sent as JSON with the route's status. A response of
this module carries its own status, headers and cookies::

    return JSON({"id": 7}, status_code=201, headers={"Location": "/items/7"})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import msgspec

from tollway.bolt.cookies import Cookie, SameSite, make_delete_cookie
from tollway.bolt.header_pairs import HeaderPairs, checked

if TYPE_CHECKING:
    from tollway.bolt.datastructures import UploadFile
    from tollway.bolt.files import File, FileResponse
    from tollway.bolt.streaming import (
        EventSourceResponse,
        ServerSentEvent,
        StreamingResponse,
        format_sse_event,
    )

__all__ = [
    "HTML",
    "JSON",
    "EventSourceResponse",
    "File",
    "FileResponse",
    "Headers",
    "PlainText",
    "Redirect",
    "Response",
    "ServerSentEvent",
    "StreamingResponse",
    "UploadFile",
    "encode_json",
    "format_sse_event",
]

_ELSEWHERE: Final = {
    "datastructures": ("UploadFile",),
    "files": ("File", "FileResponse"),
    "streaming": (
        *("EventSourceResponse", "ServerSentEvent", "StreamingResponse", "format_sse_event"),
    ),
}
"""Names of modules that build on this one, and are found here too."""


def __getattr__(name: str) -> Any:
    for module, names in _ELSEWHERE.items():
        if name in names:
            return getattr(import_module(f"tollway.bolt.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as they are given: a mapping, or pairs where a name may come twice."""


def _encode_other(value: Any) -> Any:
    """Lazy strings of Django become text; other unknown types are errors with a next step."""
    if getattr(type(value), "__module__", "") == "django.utils.functional":
        return str(value)
    name = type(value).__qualname__
    hint = ""
    if hasattr(value, "_meta") and hasattr(value, "_state"):
        hint = "; build a msgspec.Struct or a dict from the model"
    elif hasattr(value, "_fetch_all"):
        hint = "; build a list from the QuerySet, for example list(items.values())"
    raise TypeError(f"a {name} cannot be sent as JSON{hint}")


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_other)
encode_json = _ENCODER.encode
"""Any value as JSON bytes: dict, list, Struct, dataclass, UUID, datetime, Decimal …"""


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytearray | memoryview):
        return bytes(content)
    raise TypeError(f"this response needs str or bytes, not {type(content).__qualname__}")


class Response:
    """A status, headers and a body.

    Text and bytes are sent as they are; anything else as JSON. ``headers`` is a list of pairs
    that can be asked and set by name, too: ``response.headers["X-Page"] = "2"``.
    """

    media_type: str | None = None

    __slots__ = ("body", "headers", "status_code")

    def __init__(
        self,
        content: Any = b"",
        status_code: int = 200,
        headers: Headers | None = None,
        media_type: str | None = None,
    ) -> None:
        if not 200 <= status_code <= 599:
            raise ValueError(f"a response's status code is from 200 to 599, not {status_code}")
        self.status_code = status_code
        self.headers = HeaderPairs()
        self.body: Any
        """Bytes, or what the server streams."""
        self.body, natural = self._render(content)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
            self.add_header(name, value)
        media_type = media_type or natural
        if media_type and not (self.headers and self.has_header("content-type")):
            self.headers.insert(0, ("content-type", media_type))

    def _render(self, content: Any) -> tuple[Any, str | None]:
        """The body and its natural media type."""
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content), self.media_type or (
                "application/octet-stream" if content else None
            )
        if isinstance(content, str):
            return content.encode(), self.media_type or "text/plain; charset=utf-8"
        if self.status_code in (204, 304):
            return b"", None
        return encode_json(content), "application/json"

    def add_header(self, name: str, value: str) -> Self:
        """Add a header, beside others of that name. Returns the response, for chaining."""
        self.headers.append(checked(name, value))
        return self

    def has_header(self, name: str) -> bool:
        """Whether there is a header of that name."""
        return self.headers.get(name) is not None

    def set_header(self, name: str, value: str) -> Self:
        """Set a header in place of every other of that name."""
        self.headers[name] = value
        return self

    def set_cookie(
        self,
        name: str,
        value: str = "",
        max_age: int | None = None,
        expires: datetime | str | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: SameSite = "Lax",
    ) -> Self:
        """Set a cookie. Returns the response, so that calls can be chained."""
        cookie = Cookie(name, value, max_age, expires, path, domain, secure, httponly, samesite)
        return self.add_header("set-cookie", cookie.to_header_value())

    def delete_cookie(self, name: str, path: str | None = "/", domain: str | None = None) -> Self:
        """Make the browser forget a cookie; path and domain as it was set with."""
        return self.add_header(
            "set-cookie", make_delete_cookie(name, path, domain).to_header_value()
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code}, {len(self.body)} bytes>"


class JSON(Response):
    """Any value as ``application/json``, text included."""

    __slots__ = ()

    def _render(self, content: Any) -> tuple[bytes, str | None]:
        return encode_json(content), "application/json"


class PlainText(Response):
    """Text as ``text/plain``."""

    __slots__ = ()

    def _render(self, content: Any) -> tuple[bytes, str | None]:
        return _bytes(content), "text/plain; charset=utf-8"


class HTML(Response):
    """Text as ``text/html``."""

    __slots__ = ()

    def _render(self, content: Any) -> tuple[bytes, str | None]:
        return _bytes(content), "text/html; charset=utf-8"


class Redirect(Response):
    """Sends the client to another place, by default with 307, which keeps the method."""

    __slots__ = ()

    def __init__(self, url: str, status_code: int = 307, headers: Headers | None = None) -> None:
        if status_code not in (301, 302, 303, 307, 308):
            raise ValueError(f"a redirect is 301, 302, 303, 307 or 308, not {status_code}")
        super().__init__(b"", status_code, headers)
        self.set_header("location", quote(url, safe="/#%[]=:;$&()+,!?*@'~"))
