"""One process that serves: its event loop, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Final

from tollway._tollway import Server
from tollway.bolt.error_handlers import ErrorHandler

__all__ = ["AT_ONCE", "event_loop_factory", "serve"]

AT_ONCE: Final = signal.SIGQUIT
"""Tells a child to end without waiting for anything."""

HOUSEKEEPING: Final = 5.0
"""Seconds between two looks at the database connections of async handlers."""


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, asyncio's own loop otherwise."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def serve(
    server: Server,
    errors: ErrorHandler,
    *,
    grace: float,
    ready: Callable[[], None],
    lifeline: int | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
) -> bool:
    """Serve on a socket that is bound already, until SIGTERM or SIGINT.

    The first signal lets requests in flight finish for up to ``grace`` seconds; a second one
    ends at once. ``ready`` is called when requests are served. ``lifespan`` is entered before that
    and left when nothing is in flight any more.

    With a ``lifeline`` the process is the child of another one, which holds the writing end of
    that pipe: it stops on SIGTERM and when its parent is gone, and ends at once on
    :data:`AT_ONCE`.

    Returns whether everything in flight was answered before the end.
    """
    life = _Life(server, errors, grace, ready, lifeline)
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        return runner.run(life.run(lifespan or nullcontext()))


class _Life:
    """The main coroutine of a process and what it waits for."""

    def __init__(
        self,
        server: Server,
        errors: ErrorHandler,
        grace: float,
        ready: Callable[[], None],
        lifeline: int | None,
    ) -> None:
        self.server = server
        self.errors = errors
        self.grace = grace
        self.ready = ready
        self.lifeline = lifeline
        self.stop = asyncio.Event()
        self.now = asyncio.Event()
        self.background: set[asyncio.Task[Any]] = set()

    async def run(self, lifespan: AbstractAsyncContextManager[object]) -> bool:
        async with lifespan:
            return await self.serve()

    async def serve(self) -> bool:
        loop = asyncio.get_running_loop()
        if self.lifeline is None:
            loop.add_signal_handler(signal.SIGTERM, self.signalled)
            loop.add_signal_handler(signal.SIGINT, self.signalled)
        else:
            # A service manager may send SIGTERM to the whole group, and the parent sends it
            # again: twice means nothing here.
            loop.add_signal_handler(signal.SIGTERM, self.stop.set)
            loop.add_signal_handler(AT_ONCE, self.end)
            loop.add_reader(self.lifeline, self.alone)
        self.errors.on_database_error = lambda: loop.call_soon_threadsafe(self.drop_connections)
        self.server.start(loop)
        keeper = loop.create_task(self.keep_house())
        self.ready()
        await self.stop.wait()
        keeper.cancel()
        return await self.close()

    async def close(self) -> bool:
        closing = self.server.shutdown(self.grace)
        forced: asyncio.Future[Any] = asyncio.ensure_future(self.now.wait())
        await asyncio.wait({closing, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        return closing.done()

    def signalled(self) -> None:
        """A signal that people send: the first one asks, the second one means it."""
        if self.stop.is_set():
            self.now.set()
        self.stop.set()

    def end(self) -> None:
        """End at once."""
        self.stop.set()
        self.now.set()

    def alone(self) -> None:
        """The other end of the lifeline is closed: nobody is left to stop this process."""
        if self.lifeline is not None and os.read(self.lifeline, 1) == b"":
            asyncio.get_running_loop().remove_reader(self.lifeline)
            self.stop.set()

    async def keep_house(self) -> None:
        """Close the old connections of async handlers whenever none of them is at work.

        They all use the thread of ``sync_to_async``. A connection there is not closed after
        each request, because other requests may be in the middle of a query.
        """
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            if not self.server.stats()["tasks"]:
                await _close_old_connections()

    def drop_connections(self) -> None:
        """A query failed: close the connection of async handlers if it is broken."""
        task = asyncio.get_running_loop().create_task(_close_old_connections())
        self.background.add(task)
        task.add_done_callback(self.background.discard)


async def _close_old_connections() -> None:
    if "django.db" not in sys.modules:
        return
    from asgiref.sync import sync_to_async

    from tollway.bolt.databases import close_old_connections

    with suppress(RuntimeError):  # the thread is gone: the process ends
        await sync_to_async(close_old_connections, thread_sensitive=True)()
