"""What one client may take of the server: every limit and time-out, each a ``BOLT_*`` setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tollway.errors import ConfigError

__all__ = ["BOUNDS", "Bound", "flag", "number", "seconds", "text", "whole"]


class Bound(NamedTuple):
    """One limit or time-out. Times are in seconds, sizes in bytes."""

    name: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str

    @property
    def key(self) -> str:
        """What the server calls it."""
        return self.name.removeprefix("BOLT_").lower()


def number(value: Any) -> int:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{value!r} is not a whole number from 0")
    return value


def whole(value: Any) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{value!r} is not a whole number from 1")
    return value


def seconds(value: Any) -> float:
    """A time above 0, up to a day."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
        raise ConfigError(f"{value!r} is not a number of seconds above 0 and up to 86400")
    return float(value)


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{value!r} is not a text")
    return value


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{value!r} is neither True nor False")
    return value


def _seconds_or_none(value: Any) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else seconds(value)


_UPLOAD: Final = 10_485_760

BOUNDS: Final = (
    Bound("BOLT_MAX_CONNECTIONS", 10_000, whole, "open connections; further ones wait unaccepted"),
    Bound("BOLT_BACKLOG", 2048, whole, "connections that may wait to be accepted"),
    Bound("BOLT_MAX_TASKS", 1024, whole, "handlers that wait at once; more are answered with 503"),
    Bound("BOLT_MAX_HEAD_BYTES", 32_768, whole, "request line and headers; larger ones get 431"),
    Bound("BOLT_MAX_HEADERS", 100, whole, "header lines; more get 431"),
    Bound("BOLT_MAX_TARGET_BYTES", 8192, whole, "path and query; longer ones get 414"),
    Bound("BOLT_MAX_BODY_BYTES", 1_048_576, whole, "request body; larger ones get 413, unread"),
    Bound("BOLT_MAX_UPLOAD_BYTES", _UPLOAD, whole, "the same for routes with files"),
    Bound("BOLT_MAX_FIELDS", 1000, whole, "fields of a form"),
    Bound("BOLT_MAX_FILES", 100, whole, "files of a form"),
    Bound("BOLT_MAX_PART_HEAD_BYTES", 8192, whole, "the headers of one part of a form"),
    Bound("BOLT_MAX_STREAMS", 10_000, whole, "answers of async iterators at once; more get 503"),
    Bound("BOLT_MAX_SYNC_STREAMING_THREADS", 8, whole, "threads for answers of plain iterators"),
    Bound("BOLT_MAX_HTTP2_STREAMS", 100, whole, "requests at once over one HTTP/2 connection"),
    Bound("BOLT_STREAM_WINDOW_BYTES", 262_144, whole, "body bytes ahead of what was read, HTTP/2"),
    Bound("BOLT_HEADER_TIMEOUT", 10.0, seconds, "for a head to arrive, then 408"),
    Bound("BOLT_BODY_TIMEOUT", 30.0, seconds, "for a body to arrive, then 408"),
    Bound("BOLT_HANDLER_TIMEOUT", 60.0, _seconds_or_none, "for an answer to begin, or 504; 0: any"),
    Bound("BOLT_KEEP_ALIVE_TIMEOUT", 75.0, seconds, "that a connection may idle"),
    Bound("BOLT_WRITE_TIMEOUT", 30.0, seconds, "for a client to take anything of its answer"),
    Bound("BOLT_LINGER_TIMEOUT", 1.0, seconds, "that a refused client is still listened to"),
    Bound("BOLT_CANCEL_ON_HALF_CLOSE", True, flag, "a client that stops sending counts as gone"),
)
"""Each holds for one process. They are passed to the server as they are, but for the backlog."""


def native(values: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds that the native server keeps, under its names."""
    kept = (bound for bound in BOUNDS if bound.name != "BOLT_BACKLOG")
    found = {bound.key: values.get(bound.name, bound.default) for bound in kept}
    if found["max_upload_bytes"] == _UPLOAD:
        # Who allows larger bodies everywhere allows them with files too.
        found["max_upload_bytes"] = max(_UPLOAD, found["max_body_bytes"])
    return found
