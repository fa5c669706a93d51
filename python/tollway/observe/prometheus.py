"""The numbers of :mod:`tollway.observe` for Prometheus.

    app.mount("/metrics", prometheus.app)           # Starlette, FastAPI, any ASGI application

    def metrics(request):                           # Django
        return HttpResponse(prometheus.text(), content_type=prometheus.CONTENT_TYPE)

    REGISTRY.register(prometheus.Collector())       # beside those of prometheus_client

One scrape answers for one process. Where several serve one port, :func:`share` a folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway import observe
from tollway._tollway import metrics_text

if TYPE_CHECKING:
    from prometheus_client import Metric

    from tollway.observe.sharing import Sharing

__all__ = ["CONTENT_TYPE", "Collector", "app", "share", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_sharing: Sharing | None = None


def text() -> str:
    """The numbers of this process, or of all that share a folder, in Prometheus' text format.

    Begins to count checks when nobody has yet.
    """
    observe.start()
    return metrics_text() if _sharing is None else _sharing.text()


def share(folder: str | os.PathLike[str], *, every: float = 1.0) -> Sharing:
    """Let every process that shares this folder answer for all of them.

    For several workers behind one port. Each writes its numbers there every so many seconds and
    when it ends; what is told of the others is that old at most. Numbers of processes that are
    gone stay, so that no counter goes back. Use a folder of this run of the service and of this
    host or container: it is made when it is missing, and not emptied. Needs Linux or macOS.
    """
    from tollway.observe.sharing import Sharing

    global _sharing
    observe.start()
    if _sharing is not None:
        _sharing.stop()
    _sharing = Sharing(Path(folder), metrics_text, every)
    return _sharing


class Collector:
    """The same numbers in a registry of ``prometheus_client``."""

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        from prometheus_client.parser import text_string_to_metric_families

        yield from text_string_to_metric_families(text())

    def describe(self) -> list[Metric]:
        """Nothing yet, so that registering asks for no numbers."""
        return []


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """An ASGI application that answers every request with the numbers, and no WebSocket."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect: nothing may be sent before it
        await send({"type": "websocket.close", "code": 1008})
        return
    if scope["type"] != "http":
        raise RuntimeError(f"prometheus.app answers HTTP requests, not {scope['type']}")
    # A folder is locked while it is read, and another process may hold the lock.
    body = (text() if _sharing is None else await asyncio.to_thread(text)).encode()
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
