"""Answers that are sent while they are made, and streams of events (SSE)."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any, Final

from tollway._tollway import Stream
from tollway.bolt.responses import Headers, Response, encode_json

__all__ = [
    "EventSourceResponse",
    "ServerSentEvent",
    "StreamingResponse",
    "close_all",
    "events_of",
    "format_sse_event",
    "stream_of",
]

Items = AsyncIterable[Any] | Iterable[Any]
"""What a stream is made of."""

PING: Final = 15.0
"""Seconds after which a stream of events says that it is still there."""


class StreamingResponse(Response):
    """Sends what an iterator gives, while it gives it.

    ``content`` is an async generator, a plain generator or any other iterable of bytes or text,
    or a generator function without parameters. The client's pace is the generator's pace: it is
    asked for more only when the client has taken nearly everything. When the client goes away
    the generator is closed: an async one gets ``CancelledError`` where it waits. What has a
    ``close()``, such as an open file, is closed at the end, whether or not it was begun with.

    A generator that fails ends the connection, so that the client can tell; the error is logged.
    """

    __slots__ = ()

    media_type = "application/octet-stream"

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: Headers | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, media_type)

    def _render(self, content: Any) -> tuple[Any, str | None]:
        return stream_of(content), self.media_type

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code}>"


def stream_of(
    content: Any,
    encode: Callable[[Any], Any] | None = None,
    beat: tuple[float, bytes] | None = None,
) -> Stream:
    """What the server streams of an iterable of either kind; ``encode`` makes bytes or text of an
    item. With ``beat`` these bytes are sent whenever nothing came for that many seconds."""
    made_here = isasyncgenfunction(content) or isgeneratorfunction(content)
    items = content() if made_here else content
    if isinstance(items, AsyncIterable):
        return Stream(items, pump=_pump, encode=encode, beat=beat)
    if isinstance(items, str | bytes | bytearray | memoryview):
        items = (items,)
    if not isinstance(items, Iterable):
        raise TypeError(
            f"a {type(items).__qualname__} cannot be streamed: give a generator or an iterable"
        )
    return Stream(items, encode=encode, close=close_all, beat=beat)


async def _pump(items: Any, sink: Any) -> None:
    """Push everything, waiting whenever the client has to catch up."""
    iterator = aiter(items)
    try:
        async for item in iterator:
            full = sink.push(item)
            if full is not None:
                await full
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def close_all(*items: Any) -> None:
    """Close what a stream was made of, and Django's connections of this thread that are too old.

    What nobody has begun with is closed too: the client may be gone before the first piece.
    """
    try:
        for item in items:
            close = getattr(item, "close", None)
            if close is not None:
                close()
    finally:
        databases: Any = sys.modules.get("tollway.bolt.server.databases")
        if databases is not None:
            databases.close_old_connections()


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. ``data`` is sent as it is if it is text, as JSON otherwise.

    >>> format_sse_event(ServerSentEvent({"n": 1}, event="tick", id="7"))
    b'event: tick\\nid: 7\\ndata: {"n":1}\\n\\n'
    """

    data: Any = None
    event: str | None = None
    id: str | int | None = None
    retry: int | None = None
    """Milliseconds that the browser waits before it connects again."""
    comment: str | None = None
    """For people who look at the stream; browsers skip it."""

    def __post_init__(self) -> None:
        for name, value in (("event", self.event), ("id", self.id)):
            if value is not None and any(breaker in str(value) for breaker in "\r\n\0"):
                raise ValueError(f"the {name} of an event is one line, not {value!r}")


def format_sse_event(item: Any) -> bytes:
    """An event as it is sent. Anything but a :class:`ServerSentEvent` is its data."""
    event = item if isinstance(item, ServerSentEvent) else ServerSentEvent(item)
    lines = [f": {line}" for line in _lines(event.comment)]
    if event.event is not None:
        lines.append(f"event: {event.event}")
    if event.id is not None:
        lines.append(f"id: {event.id}")
    if event.retry is not None:
        lines.append(f"retry: {int(event.retry)}")
    lines += [f"data: {line}" for line in _lines(_text(event.data))]
    return ("\n".join(lines) + "\n\n").encode()


def _text(data: Any) -> str | None:
    if data is None or isinstance(data, str):
        return data
    return bytes(data).decode() if isinstance(data, bytes) else encode_json(data).decode()


def _lines(text: str | None) -> list[str]:
    if text is None:
        return []
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


class EventSourceResponse(StreamingResponse):
    """Sends events to an ``EventSource`` of the browser.

    The items are :class:`ServerSentEvent` objects, text, or anything that JSON can hold. While
    there is none for ``ping`` seconds the server sends a comment, so that proxies keep the
    connection and a client that vanished is noticed; None turns that off.
    """

    __slots__ = ()

    media_type = "text/event-stream"

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: Headers | None = None,
        ping: float | None = PING,
    ) -> None:
        if ping is not None and not ping > 0:
            raise ValueError(f"ping is a number of seconds above 0 or None, not {ping!r}")
        super().__init__((content, ping), status_code, headers)
        for name, value in (("cache-control", "no-cache"), ("x-accel-buffering", "no")):
            if not self.has_header(name):
                self.add_header(name, value)

    def _render(self, content: Any) -> tuple[Any, str | None]:
        items, ping = content
        beat = None if ping is None else (ping, b": ping\n\n")
        return stream_of(items, format_sse_event, beat), self.media_type


def events_of(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function that answers with the events that ``handler``, a generator, yields."""

    @wraps(handler)
    def opened(*values: Any, **named: Any) -> EventSourceResponse:
        return EventSourceResponse(handler(*values, **named))

    return opened
