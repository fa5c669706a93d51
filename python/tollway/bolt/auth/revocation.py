"""Tokens that were withdrawn before their time: where that is remembered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from tollway._tollway import Revocations
from tollway.errors import ConfigError

__all__ = [
    "DjangoCacheRevocation",
    "DjangoORMRevocation",
    "InMemoryRevocation",
    "RevocationStore",
    "create_revocation_handler",
]

DEFAULT_TTL: Final = 7 * 86_400
"""Seconds for which a token is remembered whose end is not told."""

SLACK: Final = 120
"""Seconds by which memory outlives the token, for clocks that differ."""


class RevocationStore:
    """Remembers what was revoked: derive from it and write :meth:`add` and :meth:`contains`.

    Ids are ``jti:…`` for a token and ``fam:…`` for all tokens of one login. ``timeout`` bounds
    the look-up of a request, in seconds; when it is over, or the look-up fails, the request is
    refused with 503: nobody passes because a database is away.
    """

    timeout: float = 1.0
    default_ttl: float = DEFAULT_TTL
    native: Revocations | None = None
    """What the server itself looks into, where it can."""

    def is_private(self) -> bool:
        """Whether other processes of the server know nothing of it: ``runbolt`` warns of that.

        Raises ConfigError for a store that remembers nothing at all.
        """
        return False

    async def add(self, key: str, until: float) -> bool:
        """Remember an id until a time; false when it was remembered already, atomically."""
        raise ConfigError(f"{type(self).__name__} does not say how to add a revocation")

    async def contains(self, keys: list[str]) -> bool:
        """Whether one of these is remembered."""
        raise ConfigError(f"{type(self).__name__} does not say how to look revocations up")

    def _until(self, exp: float | None) -> float:
        return (time.time() + self.default_ttl if exp is None else float(exp)) + SLACK

    async def revoke(self, jti: str, *, exp: float | None = None) -> None:
        """Revoke a token. Give its ``exp``, so that it is remembered no longer than needed."""
        await self.add(f"jti:{jti}", self._until(exp))

    async def consume(self, jti: str, *, exp: float | None = None) -> bool:
        """Revoke a token that may be used once; true for the first who does."""
        return await self.add(f"jti:{jti}", self._until(exp))

    async def is_revoked(self, jti: str) -> bool:
        """Whether a token is revoked."""
        return await self.contains([f"jti:{jti}"])

    async def revoke_family(self, fam: str, *, exp: float | None = None) -> None:
        """Revoke every token of one login."""
        await self.add(f"fam:{fam}", self._until(exp))

    async def is_family_revoked(self, fam: str) -> bool:
        """Whether every token of that login is revoked."""
        return await self.contains([f"fam:{fam}"])


class InMemoryRevocation(RevocationStore):
    """In the memory of this process, and looked up in Rust: for one process, or for tests.

    ``capacity`` bounds it. When it is full of tokens that have not expired, a further one is
    refused with RuntimeError, rather than an old one forgotten.
    """

    def __init__(self, capacity: int = 100_000, default_ttl: float = DEFAULT_TTL) -> None:
        self.native: Revocations = Revocations(capacity)
        self.default_ttl = default_ttl

    def is_private(self) -> bool:
        return True

    async def add(self, key: str, until: float) -> bool:
        return self.native.add(key, until)

    async def contains(self, keys: list[str]) -> bool:
        return any(key in self.native for key in keys)


class DjangoCacheRevocation(RevocationStore):
    """In one of Django's caches, shared by all processes that share it: one look-up a request."""

    def __init__(
        self,
        cache_alias: str = "default",
        key_prefix: str = "revoked_tokens:",
        default_ttl: float = DEFAULT_TTL,
    ) -> None:
        self.cache_alias = cache_alias
        self.key_prefix = key_prefix
        self.default_ttl = default_ttl

    @property
    def _cache(self) -> Any:
        from django.core.cache import caches

        return caches[self.cache_alias]

    def is_private(self) -> bool:
        from django.core.cache.backends.dummy import DummyCache
        from django.core.cache.backends.locmem import LocMemCache

        cache = self._cache
        if isinstance(cache, DummyCache):
            raise ConfigError(
                f"DjangoCacheRevocation: the cache {self.cache_alias!r} is a DummyCache, which "
                "remembers nothing: no token could be revoked"
            )
        return isinstance(cache, LocMemCache)

    async def add(self, key: str, until: float) -> bool:
        left = max(1, int(until - time.time()))
        return bool(await self._cache.aadd(self.key_prefix + key, 1, timeout=left))

    async def contains(self, keys: list[str]) -> bool:
        return bool(await self._cache.aget_many([self.key_prefix + key for key in keys]))


class DjangoORMRevocation(RevocationStore):
    """In the database: one indexed query a request.

    Without ``model`` it is the table of the app ``tollway.bolt`` (``manage.py migrate``). A model
    of your own, ``"shop.RevokedToken"``, needs a unique ``jti`` of 150 characters and an
    ``expires_at``. :meth:`cleanup` deletes what has expired.
    """

    def __init__(self, model: str | None = None, default_ttl: float = DEFAULT_TTL) -> None:
        if model is not None and model.count(".") != 1:
            raise ConfigError(f'DjangoORMRevocation: model={model!r}: write "app_label.ModelName"')
        self.model = model or "tollway_bolt.RevokedToken"
        self.default_ttl = default_ttl

    @property
    def _rows(self) -> Any:
        from django.apps import apps

        try:
            model: Any = apps.get_model(self.model)
        except LookupError as error:
            raise ConfigError(f"DjangoORMRevocation: {error}") from None
        return model._default_manager

    async def add(self, key: str, until: float) -> bool:
        _, created = await self._rows.aget_or_create(
            jti=key, defaults={"expires_at": _as_stored(until)}
        )
        return bool(created)

    async def contains(self, keys: list[str]) -> bool:
        return bool(await self._rows.filter(jti__in=keys).aexists())

    async def cleanup(self) -> int:
        """Delete what has expired; how many rows there were."""
        count, _ = await self._rows.filter(expires_at__lt=_as_stored(time.time())).adelete()
        return int(count)


def _as_stored(seconds: float) -> datetime:
    """A time as the project's database takes it: without a zone where ``USE_TZ`` is off."""
    from django.conf import settings

    return datetime.fromtimestamp(seconds, UTC if settings.USE_TZ else None)


def create_revocation_handler(store: RevocationStore) -> Callable[[str], Awaitable[bool]]:
    """An async function that says whether the token with an id is revoked."""
    return store.is_revoked
