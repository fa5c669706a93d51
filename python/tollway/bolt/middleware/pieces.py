"""What an answer streams, for a middleware of Django's that wants to read or change it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from tollway._tollway import FileBody, Stream
from tollway.bolt.exceptions import NotFound
from tollway.bolt.streaming import close_all

__all__ = ["OnlyAsync", "Pieces", "pieces_of"]

PIECE: Final = 64 * 1024
"""Bytes of a file that are read at a time."""


class Pieces:
    """The bytes of a stream. The stream itself is left alone until somebody begins to read."""

    is_async: bool

    def __init__(self, body: Any, request: Any) -> None:
        self.body = body
        self.request = request
        self.items: Any = None
        self.encode: Callable[[Any], Any] | None = None

    def begin(self) -> Any:
        """The items, from now on to be sent by whoever asked for them."""
        if self.items is None:
            self.items, self.encode = self.body.take()
        return self.items

    def close(self) -> None:
        """Close what they are made of, where that does not have to be awaited."""
        if not self.is_async:
            close_all(self.items)

    def _bytes(self, item: Any) -> bytes:
        given = item if self.encode is None else self.encode(item)
        return given.encode() if isinstance(given, str) else bytes(given)


class _Plain(Pieces):
    is_async = False

    def __iter__(self) -> Iterator[bytes]:
        for item in self.begin():
            yield self._bytes(item)


class _Async(Pieces):
    is_async = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for item in self.begin():
            yield self._bytes(item)


class _File(_Plain):
    """A file, which has no ranges and no ``ETag`` once it is not the server that reads it."""

    def begin(self) -> Iterable[bytes]:
        if self.items is None:
            descriptor = self.body.open(self.request)
            if descriptor is None:
                raise NotFound(f"there is nothing at {self.request.path}")
            self.items = os.fdopen(descriptor, "rb")
        return iter(partial(self.items.read, PIECE), b"")


class OnlyAsync:
    """An asynchronous content that says so to those who iterate over it in the other way."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        made: AsyncIterator[bytes] = aiter(self.content)
        return made

    def __iter__(self) -> Iterator[bytes]:
        # No TypeError: `b"".join` would put a message of its own in its place.
        raise RuntimeError(
            "this answer is streamed by an async generator: a middleware that reads "
            "streaming_content looks at response.is_async first and uses `async for`"
        )


def pieces_of(body: Any, request: Any) -> Pieces:
    """The bytes of a body that is no ``bytes`` object."""
    if isinstance(body, FileBody):
        return _File(body, request)
    stream: Stream = body
    return (_Async if stream.is_async else _Plain)(stream, request)
