"""Django's care for database connections, at a price that quick handlers can pay.

Django closes connections that are broken or older than ``CONN_MAX_AGE`` around each request, by
asking every database of the settings: about 9 µs a request, as much as serving it costs. Here each
thread remembers the connections that were opened in it, so a thread without any asks nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db.backends.signals import connection_created

__all__ = ["close_old_connections", "closing_old_connections"]


class _Opened(threading.local):
    """The connections that were opened in this thread."""

    def __init__(self) -> None:
        self.connections: list[Any] = []


_opened = _Opened()


def _remember(connection: Any, **_: Any) -> None:
    if connection not in _opened.connections:
        _opened.connections.append(connection)


connection_created.connect(_remember, dispatch_uid="tollway.bolt.server.databases")


def close_old_connections() -> None:
    """Close those of this thread's connections that are broken or too old."""
    for connection in _opened.connections:
        connection.close_if_unusable_or_obsolete()


def closing_old_connections(call: Callable[..., Any]) -> Callable[..., Any]:
    """A plain handler with :func:`close_old_connections` before and after, as around a view."""

    @wraps(call)
    def run(*values: Any, **named: Any) -> Any:
        close_old_connections()
        try:
            return call(*values, **named)
        finally:
            close_old_connections()

    return run
