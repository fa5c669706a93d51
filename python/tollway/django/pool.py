"""Threads with database connections of their own.

What Tollway keeps in the project's database is read and written here, and never over the
connection of a request: a request's transaction may be rolled back, which would give permits back,
or last long, and so would its locks. And an async view may not use Django's connections at all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from django.db import connections

T = TypeVar("T")

WAITING_MAX: Final = 1000
"""How many calls may wait for a thread. One more is refused at once."""

IDLE: Final = 30.0
"""Seconds after which a connection is asked whether it is still there: servers end idle ones."""


class Overloaded(RuntimeError):
    """More calls wait for the database than are let wait."""


class DatabasePool:
    """A few threads, each with a connection that it keeps until something goes wrong with it.

    A forked child has threads and connections of its own, made at its first call.
    """

    def __init__(self, name: str, threads: int = 1, waiting: int = WAITING_MAX) -> None:
        self.name = name
        self.threads = threads
        self.waiting = waiting
        self._lock = threading.Lock()
        self._executor: tuple[int, ThreadPoolExecutor, threading.BoundedSemaphore] | None = None

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a thread call it. Raises :class:`Overloaded` when too many calls wait."""
        executor, places = self._ready()
        if not places.acquire(blocking=False):
            raise Overloaded(f"{self.waiting} calls wait for the database")
        try:
            future = executor.submit(_apart, function, *arguments)
        except BaseException:
            places.release()
            raise
        future.add_done_callback(lambda _: places.release())
        return future

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float | None = None) -> T:
        """Have a thread call it, and wait for the answer."""
        return self.submit(function, *arguments).result(timeout)

    def close(self) -> None:
        """Close the connections. The pool can be used again."""
        with self._lock:
            known, self._executor = self._executor, None
        if known is not None and known[0] == os.getpid():
            gate = threading.Barrier(self.threads)
            for _ in range(self.threads):
                known[1].submit(_leave, gate)
            known[1].shutdown()

    def _ready(self) -> tuple[ThreadPoolExecutor, threading.BoundedSemaphore]:
        known = self._executor
        if known is None or known[0] != os.getpid():
            with self._lock:
                known = self._executor
                if known is None or known[0] != os.getpid():
                    executor = ThreadPoolExecutor(self.threads, f"tollway-{self.name}")
                    places = threading.BoundedSemaphore(self.waiting + self.threads)
                    known = self._executor = (os.getpid(), executor, places)
        return known[1], known[2]


_last = threading.local()


def _apart(function: Callable[..., T], *arguments: Any) -> T:
    now = time.monotonic()
    if now - getattr(_last, "used", now) > IDLE:
        for connection in connections.all(initialized_only=True):
            if not connection.is_usable():
                connection.close()
    try:
        return function(*arguments)
    except Exception:
        # The next call begins with a new connection: this one may be broken.
        connections.close_all()
        raise
    finally:
        _last.used = now


def _leave(gate: threading.Barrier) -> None:
    gate.wait(10)  # so that each thread closes its own
    connections.close_all()


follower: Final = DatabasePool("follower")
"""Reads rules and keys, and writes usage."""
