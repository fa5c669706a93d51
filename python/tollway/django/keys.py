"""API keys that this project issues: known to every process, so that no request asks for them.

::

    from tollway.django.keys import require_api_key

    @require_api_key("orders:read")
    def orders(request):
        return JsonResponse({"for": request.api_key.owner})
"""

from __future__ import annotations

import inspect
import logging
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction
from django.db import DatabaseError, router
from django.db.models import Count, Max, Q, Sum
from django.utils import timezone

from tollway.django.database import UNREAD, revision
from tollway.django.pool import follower
from tollway.rules import Following, follow

if TYPE_CHECKING:
    from tollway.django.models import APIKey

log = logging.getLogger("tollway.keys")

_OVERLAP: Final = timedelta(minutes=5)
"""How far back rows are read again: a long transaction commits with an old time."""

_USED_MAX: Final = 100_000
"""Keys whose use is remembered between two batches; more are noted in a later hour."""

_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class Key:
    """An API key that is good, as views see it in ``request.api_key``."""

    id: int
    name: str
    owner: str
    tier: str | None
    scopes: frozenset[str]
    expires: float | None
    """In seconds since 1970, or never."""


class KeyRing:
    """The keys that are good, by their hashes: about 600 bytes for each, in every process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._used: dict[int, int] = {}

    def find(self, hashed: str) -> Key | None:
        """The key with that hash, if it is good now. Its use is noted, to the hour."""
        key = self._keys.get(hashed)
        if key is None:
            return None
        now = self._clock()
        if key.expires is not None and key.expires <= now:
            return None
        hour = int(now) // _HOUR
        if self._used.get(key.id) != hour and len(self._used) < _USED_MAX:
            self._used[key.id] = hour
        return key

    def replace(self, found: tuple[bool, list[tuple[str, Key | None]]]) -> None:
        """Take in keys: all there are, or those that changed; ``None`` is one that has ended."""
        whole, changed = found
        keys = {} if whole else dict(self._keys)
        for hashed, key in changed:
            if key is None:
                keys.pop(hashed, None)
            else:
                keys[hashed] = key
        self._keys = keys

    def used(self) -> dict[int, int]:
        """The hour of the last use of each key that was used, in hours since 1970; and forget."""
        used, self._used = self._used, {}
        return used

    def __len__(self) -> int:
        return len(self._keys)


class KeySource:
    """A :class:`tollway.rules.Source` of keys: all at first, then those that have changed."""

    def __init__(self) -> None:
        self._until: datetime | None = None
        self._last = 0
        self._known: tuple[int, int] = (0, 0)

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """The keys that changed, if any did. One query, or three."""
        try:
            return follower.call(self._read, known)
        except DatabaseError as error:
            if known not in (None, UNREAD):
                raise
            log.error("API keys in the database cannot be read yet: %s", error)
            return None if known == UNREAD else (UNREAD, (True, []))

    def _read(self, known: Any) -> tuple[Any, Any] | None:
        number = revision("keys")
        if number == known:
            return None
        from tollway.django.models import APIKey

        rows = APIKey.objects.using(router.db_for_write(APIKey)).select_related("tier")
        began = timezone.now()
        # Of the rows that were there, one is gone when their number or their sum is another.
        old = Q(pk__lte=self._last)
        sums = (
            APIKey.objects.using(rows.db)
            .order_by()
            .aggregate(
                old=Count("pk", filter=old),
                old_sum=Sum("pk", filter=old, default=0),
                all=Count("pk"),
                all_sum=Sum("pk", default=0),
                last=Max("pk", default=0),
            )
        )
        same = (sums["old"], sums["old_sum"]) == self._known
        since = None if self._until is None or not same else self._until - _OVERLAP
        if since is not None:
            rows = rows.filter(changed__gte=since)
        found = [(row.hash, _known(row, began)) for row in rows.iterator(chunk_size=1000)]
        self._until, self._last = began, sums["last"]
        self._known = sums["all"], sums["all_sum"]
        return number, (since is None, found)

    def __repr__(self) -> str:
        return "KeySource()"


Told = tuple[str, str, str | None, list[str], float | None]
"""A key for another server: hash, owner, tier, scopes, end."""


class IssuedKeys:
    """A :class:`tollway.rules.Source` of all keys that are good, for a server with its own ring."""

    def __init__(self) -> None:
        self._source = KeySource()
        self._keys: dict[str, Told] = {}

    def load(self, known: Any) -> tuple[Any, list[Told]] | None:
        """All keys, if one of them has changed."""
        found = self._source.load(known)
        if found is None:
            return None
        version, (whole, changed) = found
        if whole:
            self._keys.clear()
        for hashed, key in changed:
            if key is None:
                self._keys.pop(hashed, None)
            else:
                scopes = sorted(key.scopes)
                self._keys[hashed] = (hashed, key.owner, key.tier, scopes, key.expires)
        return version, list(self._keys.values())

    def __repr__(self) -> str:
        return "IssuedKeys()"


def _known(row: APIKey, now: datetime) -> Key | None:
    if not row.usable(now):
        return None
    return Key(
        id=row.pk,
        name=row.name,
        owner=row.owner,
        tier=None if row.tier is None else row.tier.name,
        scopes=frozenset(row.scopes.split()),
        expires=None if row.expires is None else row.expires.timestamp(),
    )


class _Uses:
    """Writes down which keys were used, in one batch a minute."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = weakref.ref(ring)

    def load(self, known: Any) -> None:
        ring = self._ring()
        uses = {} if ring is None else ring.used()
        if uses:
            follower.call(note_uses, uses)

    def __repr__(self) -> str:
        return "uses of API keys"


def follow_keys(ring: KeyRing) -> tuple[Following, Following]:
    """Keep a ring as the database has it, and write down uses. Ends when nobody holds the ring."""
    target: Any = ring
    return follow(target, KeySource()), follow(target, _Uses(ring), every=60)


def note_uses(uses: dict[int, int]) -> int:
    """Write when keys were last used; how many rows changed. One query for each hour."""
    from tollway.django.models import APIKey

    by_hour: dict[int, list[int]] = {}
    for key, hour in uses.items():
        by_hour.setdefault(hour, []).append(key)
    written = 0
    using = router.db_for_write(APIKey)
    for hour, keys in sorted(by_hour.items()):
        at = datetime.fromtimestamp(hour * _HOUR, tz=timezone.now().tzinfo)
        for first in range(0, len(keys), 500):
            rows: Any = APIKey.objects.using(using).filter(pk__in=keys[first : first + 500])
            written += rows.exclude(last_used__gte=at).quietly(last_used=at)
    return written


def api_key(request: Any) -> Key | None:
    """The API key of a request, if it shows one that is good. It asks no database.

    ``RATELIMIT_API_KEYS`` must be on.
    """
    from tollway import ConfigError
    from tollway.django import conf
    from tollway.django.ruling import key_of

    setup = conf.current()
    if setup.ruling.keys is None:
        raise ConfigError("API keys are known with RATELIMIT_API_KEYS = True only")
    return key_of(setup.settings, setup.ruling, getattr(request, "_request", request))[1]


def require_api_key(*scopes: str | Callable[..., Any]) -> Any:
    """Let only those with a good key pass, and only with all of the scopes.

    Others get 401, or 403 when a scope is missing. ``request.api_key`` is the :class:`Key`. It
    serves sync and async views; put ``@rate_limit`` above it to limit wrong guesses as well.
    """
    if len(scopes) == 1 and callable(scopes[0]):
        return _guarded(scopes[0], ())
    wanted = tuple(str(scope) for scope in scopes)
    return lambda view: _guarded(view, wanted)


def _guarded(view: Callable[..., Any], scopes: Iterable[str]) -> Callable[..., Any]:
    wanted = frozenset(scopes)

    @wraps(view)
    def sync(request: Any, *arguments: Any, **named: Any) -> Any:
        refused = _refused(request, wanted)
        return view(request, *arguments, **named) if refused is None else refused

    @wraps(view)
    async def later(request: Any, *arguments: Any, **named: Any) -> Any:
        refused = _refused(request, wanted)
        if refused is not None:
            return refused
        answer = view(request, *arguments, **named)
        return await answer if inspect.isawaitable(answer) else answer

    return later if iscoroutinefunction(view) else sync


def _refused(request: Any, wanted: frozenset[str]) -> Any:
    from django.http import JsonResponse

    key = api_key(request)
    request.api_key = key
    if key is None:
        title, status = "An API key is required", 401
    elif missing := sorted(wanted - key.scopes):
        title, status = f"This API key lacks {', '.join(missing)}", 403
    else:
        return None
    body = {"type": "about:blank", "title": title, "status": status}
    answer = JsonResponse(body, status=status, content_type="application/problem+json")
    if status == 401:
        answer["WWW-Authenticate"] = "ApiKey"
    return answer
