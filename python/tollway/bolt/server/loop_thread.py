"""The thread on which async handlers reach what only one thread may touch: Django's ORM above all.

``sync_to_async`` would use a thread pool of one for it. Each of its calls makes a future of
another kind, with a lock, a condition and callbacks, and wakes the event loop for itself, which
takes the GIL from the next query. Together that costs as much as a quick query. Here a call makes
the loop's own future, and while others wait for the thread the loop hears of several ends at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from asgiref.sync import AsyncToSync

__all__ = ["LoopThread", "thread_of"]

TOGETHER: Final = 8
"""Calls whose ends are told together while others wait."""

TICK: Final = 0.001
"""Seconds after which the end of a call is told in any case."""


@contextmanager
def thread_of(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let ``sync_to_async(..., thread_sensitive=True)`` on ``loop`` use a :class:`LoopThread`."""
    thread = LoopThread(loop)
    executors: dict[Any, Any] = AsyncToSync.loop_thread_executors
    executors[loop] = thread
    try:
        yield
    finally:
        del executors[loop]
        thread.shutdown(wait=False)


class LoopThread(Executor):
    """One thread that calls functions for one event loop, in their order.

    It is started with the first call. What waits for it is bounded by the handlers that may be
    suspended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: SimpleQueue[Callable[[], tuple[Any, Any, BaseException | None]] | None] = (
            SimpleQueue()
        )
        self._ended: deque[tuple[Any, Any, BaseException | None]] = deque()
        self._rung = False
        self._open = 0
        self._ticking = False
        self._thread: Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function; a future of the loop, which alone may ask for it."""
        future = self._loop.create_future()

        def call() -> tuple[Any, Any, BaseException | None]:
            if future.cancelled():
                return future, None, None
            try:
                return future, fn(*args, **kwargs), None
            except BaseException as error:
                return future, None, error

        if self._thread is None:
            # At the end of the process nobody waits for a query that does not end.
            thread = Thread(target=self._run, name="tollway-loop", daemon=True)
            thread.start()
            self._thread = thread
        self._calls.put(call)
        self._open += 1
        if self._open > 1 and not self._ticking:
            self._tick()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the thread end after what was submitted."""
        if self._thread is not None:
            self._calls.put(None)
            if wait:
                self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._ended.append(call())
            del call
            together = len(self._ended) >= TOGETHER or self._calls.empty()
            if together and not self._rung and not self._ring():
                return
        if not self._rung:
            self._ring()

    def _ring(self) -> bool:
        """Have the loop hand the results over; false when it is closed and nobody waits."""
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return False
        return True

    def _tick(self) -> None:
        """On the loop: while calls wait, nobody who waits for an end depends on the next call's."""
        self._tell()
        self._ticking = self._open > 1
        if self._ticking:
            self._loop.call_later(TICK, self._tick)

    def _tell(self) -> None:
        """On the loop: hand over the results of all calls that have ended."""
        self._rung = False
        while self._ended:
            future, value, error = self._ended.popleft()
            self._open -= 1
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration):
                future.set_exception(RuntimeError("a function on a thread raised StopIteration"))
            else:
                future.set_exception(error)
