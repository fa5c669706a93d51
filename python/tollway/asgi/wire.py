"""What ASGI says: the types of its messages, and how a scope is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import _unquote
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def values(scope: Scope, name: bytes) -> Iterator[str]:
    """The values of a header."""
    return (value.decode("latin-1") for header, value in scope["headers"] if header == name)


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header."""
    return next(values(scope, name), None)


def cookies(scope: Scope) -> dict[str, str]:
    """The cookies of a request, read as the frameworks read them.

    One value has many spellings (spaces around it, quotes, escapes; percents, which Litestar
    reads), which must not become many counts. Of a name with two values nothing is told, ``""``:
    some frameworks take the first and some the last, so whoever sends both could choose what is
    counted.
    """
    found: dict[str, str] = {}
    for line in values(scope, b"cookie"):
        for pair in line.split(";"):
            name, _, spelled = pair.partition("=")
            value = unquote(_unquote(spelled.strip()))
            if found.setdefault(name.strip(), value) != value:
                found[name.strip()] = ""
    return found


def inner_path(scope: Scope) -> str:
    """The path inside the application; one outside ``root_path`` is told as it is."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    inside = path.removeprefix(root)
    return path if inside[:1] not in ("", "/") else inside
