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


def hops(scope: Scope) -> tuple[str | None, list[str], list[str]]:
    """Whom the request came from, and what it says of the way there."""
    client = scope.get("client")
    return (
        client[0] if client else None,
        list(values(scope, b"x-forwarded-for")),
        list(values(scope, b"forwarded")),
    )


def inner_path(scope: Scope) -> str:
    """The path inside the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path
