"""Backends of your own: a class of two methods, sync or async.

>>> from tollway import Limiter, Policy
>>> class Dictionary(Store):
...     name = "dictionary://"
...
...     def __init__(self):
...         self.values = {}
...
...     def load(self, key):
...         return self.values.get(key)
...
...     def swap(self, key, expected, value, ttl):
...         if self.values.get(key) != expected:
...             return False
...         if value is None:
...             del self.values[key]
...         else:
...             self.values[key] = value
...         return True
>>> limiter = Limiter(Dictionary())
>>> limiter.check(Policy("login", "5/m"), "203.0.113.7").remaining
4
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any

__all__ = ["Store"]

Loaded = bytes | tuple[bytes, bytes] | None


class Store(ABC):
    """A place that can load a value and swap it for another if nobody else has.

    Every algorithm and operation works on it; an exception counts as a backend that is away.
    Async methods run on one event loop of their own, shared by all async backends, and are given
    ``command_timeout`` seconds.
    """

    #: What messages call it. Keep passwords out of it.
    name: str = "custom://"

    @abstractmethod
    def load(self, key: str) -> Loaded | Awaitable[Loaded]:
        """The value under ``key``, or ``None``.

        A pair gives the value and what names this very value, such as a row version; without
        one the value names itself.
        """

    @abstractmethod
    def swap(
        self, key: str, expected: bytes | None, value: bytes | None, ttl: float
    ) -> bool | Awaitable[bool]:
        """Put ``value`` under ``key`` if ``expected`` names what is there, atomically.

        ``expected`` of ``None`` means that nothing may be there; ``value`` of ``None`` removes.
        The value may be forgotten after ``ttl`` seconds. Returns whether it was put.
        """


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _submit(awaitable: Awaitable[Any]) -> Future[Any]:
    """Run an awaitable on the loop of the async backends; started when first used."""
    global _loop
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="tollway-stores", daemon=True).start()
            _loop = loop
    return asyncio.run_coroutine_threadsafe(_coroutine(awaitable), _loop)


def _after_fork() -> None:
    """The parent's thread, and whoever held its lock, are not in this process."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
