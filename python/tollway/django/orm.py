"""Counts in the project's own database, through Django: ``RATELIMIT_BACKEND = "django"``.

It works on every database that Django does, Oracle and SQL Server included. A count is a row with
a version: it is read, decided upon in Rust, and written only where the version is still the one
that was read. So no row is locked while anything is thought about, and nothing of it is part of a
request's transaction.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from concurrent.futures import Future
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from django.db import IntegrityError, connections, router
from django.utils import timezone

from tollway import ConfigError
from tollway.django.database import installed
from tollway.django.pool import DatabasePool
from tollway.stores import Store

T = TypeVar("T")

THREADS: Final = 4
THREADS_MAX: Final = 64
_TTL_MAX: Final = timedelta(days=3660)


class DatabaseStore(Store):
    """A :class:`tollway.stores.Store` over a database of ``DATABASES``.

    ``alias`` is its name there; without one the routers choose. ``threads`` is how many
    connections a process has for it at most.

    Two statements for each charge that passes, one for each that is refused. The clock is the
    host's: keep the clocks of hosts together.
    """

    def __init__(self, alias: str | None = None, threads: int = THREADS) -> None:
        installed("counts")
        if alias is not None and alias not in connections:
            known = ", ".join(connections)
            raise ConfigError(f"there is no database {alias!r} in DATABASES; there are: {known}")
        if not 1 <= threads <= THREADS_MAX:
            raise ConfigError(f"threads={threads}: it is from 1 to {THREADS_MAX}")
        self.name = f"django://{alias or ''}"
        self._alias = alias
        self._pool = DatabasePool(f"counts-{alias or 'default'}", threads)

    def load(self, key: str) -> Awaitable[tuple[bytes, bytes] | None]:
        """The value of a key and its version."""
        return _awaited(self._pool.submit(self._load, digest(key)))

    def swap(
        self, key: str, expected: bytes | None, value: bytes | None, ttl: float
    ) -> Awaitable[bool]:
        """Put a value where the version is ``expected``."""
        return _awaited(self._pool.submit(self._swap, digest(key), expected, value, ttl))

    def close(self) -> None:
        """Close the connections; the next call opens others."""
        self._pool.close()

    def _rows(self) -> Any:
        from tollway.django.models import State

        return State.objects.using(self._alias or router.db_for_write(State))

    def _load(self, key: str) -> tuple[bytes, bytes] | None:
        found = self._rows().filter(pk=key).values_list("value", "version").first()
        return None if found is None else (bytes(found[0]), b"%d" % found[1])

    def _swap(self, key: str, expected: bytes | None, value: bytes | None, ttl: float) -> bool:
        rows = self._rows()
        if expected is None:
            return not rows.filter(pk=key).exists() if value is None else self._add(key, value, ttl)
        rows = rows.filter(pk=key, version=int(expected))
        if value is None:
            return bool(rows.delete()[0])
        return bool(rows.update(value=value, version=int(expected) + 1, expires=_end(ttl)))

    def _add(self, key: str, value: bytes, ttl: float) -> bool:
        # By chance, so that a row that was deleted and made again is not taken for the old one.
        version = secrets.randbits(62)
        try:
            self._rows().create(key=key, value=value, version=version, expires=_end(ttl))
        except IntegrityError:  # somebody was quicker
            return False
        return True

    def __repr__(self) -> str:
        return f"DatabaseStore({self._alias!r})"


async def _awaited(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


def _end(ttl: float) -> Any:
    return timezone.now() + min(timedelta(seconds=ttl), _TTL_MAX)


def digest(key: str) -> str:
    """What a key is called in the table: databases differ in which texts they hold to be equal."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=32)
def store(url: str) -> DatabaseStore:
    """The store of ``django``, ``django://alias`` or ``django://alias?threads=8``.

    One for each URL in a process. Raises ConfigError on what cannot be.
    """
    parts = urlsplit(url if "://" in url else f"{url}://")
    options = parse_qs(parts.query, keep_blank_values=True)
    threads = options.pop("threads", [str(THREADS)])[0]
    if options or parts.path not in ("", "/") or not threads.isdecimal():
        raise ConfigError(
            f"{url!r} is not understood: write django, django://ALIAS or django://ALIAS?threads=8"
        )
    return DatabaseStore(parts.netloc or None, int(threads))
