"""What ASGI says: the types of its messages, and how a scope is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

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
    """The cookies of a request; of one name the first."""
    found: dict[str, str] = {}
    for line in values(scope, b"cookie"):
        for pair in line.split(";"):
            name, _, value = pair.strip().partition("=")
            found.setdefault(name, value)
    return found


def inner_path(scope: Scope) -> str:
    """The path inside the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
