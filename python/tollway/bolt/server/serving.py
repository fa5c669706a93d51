"""One process that serves: its event loop, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from enum import Enum
from typing import Any, Final

from tollway._tollway import Server
from tollway.bolt.error_handlers import ErrorHandler
from tollway.bolt.server.loop_thread import thread_of
from tollway.bolt.server.recycling import (
    Wear,
    check_command,
    hold_signals,
    last_words,
    own_rss,
    release_signals,
)

__all__ = ["AT_ONCE", "End", "Link", "event_loop_factory", "serve"]

AT_ONCE: Final = signal.SIGQUIT
"""Tells a child to end without waiting for anything."""

HOUSEKEEPING: Final = 5.0
"""Seconds between two looks at the database connections of async handlers."""

WEAR_CHECKS: Final = 0.5
"""Seconds between two looks at how worn the process is."""


class End(Enum):
    """How serving ended."""

    CLEAN = "everything in flight was answered"
    CUT = "something was cut off"
    RELOAD = "the program is to be loaded again"


class Link:
    """What ties a child to its parent: the reading end of a pipe whose other end the parent
    holds as long as it lives, and the writing end of one that the parent reads."""

    def __init__(self, lifeline: int, messages: int) -> None:
        self.lifeline = lifeline
        self.messages = messages
        self.began = False

    def ready(self) -> None:
        """Tell the parent that requests are served."""
        self.began = True
        self.tell("ready")

    def tell(self, text: str) -> None:
        """One short line, which arrives whole."""
        os.write(self.messages, f"{os.getpid()} {text}\n".encode())


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
    say: Callable[[str], None] = print,
    link: Link | None = None,
    wear: Wear | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
) -> End:
    """Serve on a socket that is bound already, until SIGTERM or SIGINT.

    The first signal lets requests in flight finish for up to ``grace`` seconds; a second one
    ends at once. ``ready`` is called when requests are served. ``lifespan`` is entered before that
    and left when nothing is in flight any more. On SIGHUP, requests in flight are
    finished too, but only if the program would start again; ``say`` is told if it would not.

    With a ``link`` the process is the child of another one: it stops on SIGTERM and when its
    parent is gone, ends at once on :data:`AT_ONCE`, and tells its parent when it is worn.
    """
    life = _Life(server, errors, grace, ready, say, link, wear)
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
        say: Callable[[str], None],
        link: Link | None,
        wear: Wear | None,
    ) -> None:
        self.server = server
        self.errors = errors
        self.grace = grace
        self.ready = ready
        self.say = say
        self.link = link
        self.wear = wear
        self.checking = False
        self.reloading = False
        self.stop = asyncio.Event()
        self.now = asyncio.Event()
        self.background: set[asyncio.Task[Any]] = set()

    async def run(self, lifespan: AbstractAsyncContextManager[object]) -> End:
        with thread_of(asyncio.get_running_loop()):
            async with lifespan:
                return await self.serve()

    async def serve(self) -> End:
        loop = asyncio.get_running_loop()
        if self.link is None:
            loop.add_signal_handler(signal.SIGHUP, self.hung_up)
            loop.add_signal_handler(signal.SIGTERM, self.signalled)
            loop.add_signal_handler(signal.SIGINT, self.signalled)
        else:
            # A service manager may send SIGTERM to the whole group, and the parent sends it
            # again: twice means nothing here.
            loop.add_signal_handler(signal.SIGTERM, self.stop.set)
            loop.add_signal_handler(AT_ONCE, self.end)
            loop.add_reader(self.link.lifeline, self.alone)
        release_signals()
        self.errors.on_database_error = lambda: loop.call_soon_threadsafe(self.drop_connections)
        self.server.start(loop)
        keepers = [loop.create_task(self.keep_house())]
        if self.wear and self.link is not None:
            keepers.append(loop.create_task(self.watch_wear(self.wear, self.link)))
        self.ready()
        await self.stop.wait()
        for keeper in keepers:
            keeper.cancel()
        clean = await self.close()
        if self.reloading:
            hold_signals()
            return End.RELOAD
        return End.CLEAN if clean else End.CUT

    async def close(self) -> bool:
        closing = self.server.shutdown(self.grace)
        forced: asyncio.Future[Any] = asyncio.ensure_future(self.now.wait())
        await asyncio.wait({closing, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        return closing.done()

    def signalled(self) -> None:
        """A signal that people send: the first one asks, the second one means it."""
        if self.stop.is_set() and not self.reloading:
            self.now.set()
        self.reloading = False
        self.stop.set()

    def end(self) -> None:
        """End at once."""
        self.stop.set()
        self.now.set()

    def alone(self) -> None:
        """The other end of the lifeline is closed: nobody is left to stop this process."""
        if self.link is not None and os.read(self.link.lifeline, 1) == b"":
            asyncio.get_running_loop().remove_reader(self.link.lifeline)
            self.stop.set()

    def hung_up(self) -> None:
        """Load the program again, unless that is under way."""
        if not self.stop.is_set() and not self.checking:
            self.checking = True
            self.in_background(self.check())

    async def check(self) -> None:
        """Stop, to be loaded again, if the program would start."""
        try:
            check = await asyncio.create_subprocess_exec(
                *check_command(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, told = await check.communicate()
            why = last_words(told.decode(errors="replace")) if check.returncode else None
        except OSError as error:
            why = error.strerror or str(error)
        self.checking = False
        if why is not None:
            self.say(f"not loaded again, the old program goes on: {why}")
        elif not self.stop.is_set():
            self.reloading = True
            self.stop.set()

    async def watch_wear(self, wear: Wear, link: Link) -> None:
        """Tell the parent, once, when another process should take over."""
        began = time.monotonic()
        reason = None
        while reason is None:
            await asyncio.sleep(WEAR_CHECKS)
            age = time.monotonic() - began
            reason = wear.reason(self.server.stats()["requests"], age, own_rss())
        link.tell(reason)

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
        self.in_background(_close_old_connections())

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)


async def _close_old_connections() -> None:
    if "django.db" not in sys.modules:
        return
    from asgiref.sync import sync_to_async

    from tollway.bolt.server.databases import close_old_connections

    with suppress(RuntimeError):  # the thread is gone: the process ends
        await sync_to_async(close_old_connections, thread_sensitive=True)()
