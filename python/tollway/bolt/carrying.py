"""Django's responses, as a handler returns them, made into Bolt's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from tollway.bolt.responses import Response
from tollway.bolt.streaming import StreamingResponse

__all__ = ["carried"]


def carried(response: Any) -> Response:
    """Status, headers, cookies and body of a ``django.http.HttpResponse``.

    What Django would close at its end is closed. Its request signals are not sent.
    """
    made: Response
    headers = [(name, value) for name, value in response.items()]
    if response.streaming:
        content = _later(response) if response.is_async else _Now(response)
        made = StreamingResponse(content, response.status_code, headers)
    else:
        _render(response)
        made = Response(response.content, response.status_code, headers)
        _close(response)
    for cookie in response.cookies.values():
        made.add_header("set-cookie", cookie.OutputString())
    return made


def _render(response: Any) -> None:
    """A ``TemplateResponse`` is rendered at the latest possible moment, which is now."""
    if not getattr(response, "is_rendered", True):
        response.render()


class _Now:
    """The content of a response that is streamed, closed with it."""

    def __init__(self, response: Any) -> None:
        self.response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.response.streaming_content)

    def close(self) -> None:
        _close(self.response)


async def _later(response: Any) -> AsyncIterator[bytes]:
    try:
        async for piece in response.streaming_content:
            yield piece
    finally:
        _close(response)


def _close(response: Any) -> None:
    """Close the files that it sends. ``response.close()`` would also say that a request of
    Django's ended, and close the connections of this thread in the middle of another one."""
    for closer in getattr(response, "_resource_closers", ()):
        closer()
