"""Who gets which limit: access lists, overrides, tiers, schedules, levels, shadows and skips.

A door says what it would charge and who is asking; :class:`Rules` say what becomes of it:

>>> from tollway import Limiter, Policy
>>> from tollway.rules import Rules, Subject
>>> rules = Rules({"deny": ["203.0.113.0/24"], "limits": {"search": {"tiers": {"pro": "100/m"}}}})
>>> limiter, search = Limiter(), Policy("search", "10/m")
>>> rules.check(limiter, [(search, "user:7")], Subject(user=7, tier="pro")).limit
100
>>> rules.check(limiter, [(search, "user:7")], Subject(address="203.0.113.9")).status
403

:func:`follow` keeps rules and access lists up to date from a file, a function or a database.
:class:`Lockout` counts by outcome, and :func:`account` says who a login is for. Everything is
decided in Rust.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import threading
import time
import tomllib
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from tollway._tollway import AccessList, Attempt, Lockout, Rules, Subject
from tollway.accounts import account
from tollway.errors import ConfigError

__all__ = [
    "AccessList",
    "Attempt",
    "FileSource",
    "Following",
    "FunctionSource",
    "Lockout",
    "Rules",
    "Source",
    "Subject",
    "TierCache",
    "account",
    "follow",
    "stated_lists",
    "stated_rules",
    "stated_source",
]

log = logging.getLogger("tollway.rules")

_LAST_RESORT: Final = 60.0
"""Seconds after which a fault that goes on is said again."""


class Source(Protocol):
    """Where rules or entries come from."""

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """The version and the data, or ``None`` when the version is still ``known``.

        ``known`` is ``None`` at first. Called from a thread of its own, several times a second: let
        the usual answer, that nothing has changed, be cheap.
        """


class FileSource:
    """A file: JSON, or TOML by its name, or the lines of an access list.

    It counts as changed when its time, size or inode has: replace it by renaming another over it,
    so that nobody reads half of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """What the file holds, if it has changed. Raises ConfigError on what does not read."""
        found = self.path.stat()
        version = (found.st_mtime_ns, found.st_size, found.st_ino)
        if version == known:
            return None
        try:
            text = self.path.read_text("utf-8")
            return version, tomllib.loads(text) if self.path.suffix == ".toml" else text
        except ValueError as error:
            raise ConfigError(f"{self.path} does not read: {error}") from error

    def __repr__(self) -> str:
        return f"FileSource({str(self.path)!r})"


class FunctionSource:
    """Functions of yours: ``load`` returns the data, ``version`` something that changes with it.

    ``version`` is asked at each turn and may be a cheap query such as the newest row's time.
    """

    def __init__(self, load: Callable[[], Any], version: Callable[[], Any]) -> None:
        self._load = load
        self._version = version

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """What the functions return, if the version has changed."""
        version = self._version()
        return None if version == known else (version, self._load())


class Following:
    """A :class:`Rules` or :class:`AccessList` that follows a source. Made by :func:`follow`."""

    def __init__(self, target: Rules | AccessList, source: Source, every: float) -> None:
        self.source = source
        self.every = every
        self.version: Any = None
        """The version in place."""
        self.error: Exception | None = None
        """What went wrong at the last turn; the version before stays in place."""
        self._target = weakref.ref(target)
        self._said: tuple[str, float] = ("", 0.0)
        self._due = 0.0

    def refresh(self) -> None:
        """Look now, in the thread that follows: call it when you are told of a change."""
        _poller.wake(self)

    def stop(self) -> None:
        """Follow no longer."""
        _poller.remove(self)

    def _turn(self) -> bool:
        """Look once; false when nobody needs the target any more."""
        target = self._target()
        if target is None:
            return False
        try:
            self._load(target)
        except Exception as error:
            self._say(error)
        return True

    def _load(self, target: Rules | AccessList) -> None:
        found = self.source.load(self.version)
        if found is not None:
            version, data = found
            target.replace(data)
            self.version = version
            log.info("%r follows %r: version %s is in place", target, self.source, version)
        self.error = None

    def _say(self, error: Exception) -> None:
        self.error = error
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        if text != self._said[0] or now - self._said[1] >= _LAST_RESORT:
            self._said = (text, now)
            log.error("%r: %s; version %s stays in place", self.source, text, self.version)


def follow(target: Rules | AccessList, source: Source, *, every: float = 0.5) -> Following:
    """Keep rules, or an access list, as a source has them.

    The source is loaded once before this returns, so a fault at start-up is raised here. After
    that one thread of the process looks each ``every`` seconds (0.02 to 3600): a change is in
    force within that time in every process, without a restart. What cannot be read changes
    nothing and is told to the log. A forked child follows by a thread of its own. Following ends
    with :meth:`Following.stop`, or when ``target`` is gone.

    A source that takes long delays the others of its process: give it a time-out.

    Raises :class:`tollway.ConfigError` when the source holds what cannot work, or what the source
    raises when it cannot be read.
    """
    if not 0.02 <= every <= 3600:
        raise ConfigError(f"every={every!r}: it is from 0.02 to 3600 seconds")
    following = Following(target, source, every)
    following._load(target)
    _poller.add(following)
    return following


def stated_source(stated: Any) -> Rules | Mapping[str, Any] | Source:
    """What a setting states as rules: :class:`Rules`, data for them, or a :class:`Source`.

    It may be stated by its dotted path, as a class that makes it, as the name of a ``.json`` or
    ``.toml`` file, or as ``"database"`` for the rows of Django's admin. Nothing is read yet.

    Raises :class:`tollway.ConfigError` that names what cannot be used.
    """
    if stated == "database":
        stated = "tollway.django.database.DatabaseSource"
    if isinstance(stated, str | os.PathLike):
        path = Path(stated)
        is_file = path.suffix in (".json", ".toml")
        stated = FileSource(path) if is_file else _imported("rules", str(stated))
    if isinstance(stated, type):
        stated = stated()
    if isinstance(stated, Rules | Mapping):
        return stated
    if not hasattr(stated, "load"):
        raise ConfigError(
            f"{stated!r} is no rules: use Rules(...), a mapping, a source, a dotted path or a file"
        )
    source: Source = stated
    return source


def stated_rules(stated: Any, lists: Sequence[AccessList] = ()) -> Rules:
    """The rules that a setting states, with these access lists.

    What may be stated is told at :func:`stated_source`; a source or a file is followed.

    Raises :class:`tollway.ConfigError` that names what cannot be used.
    """
    found = stated_source(stated)
    if isinstance(found, Rules):
        if lists:
            raise ConfigError("a Rules object has lists of its own: write Rules(lists=[...])")
        return found
    if isinstance(found, Mapping):
        return Rules(found, lists=lists)
    rules = Rules(lists=lists)
    _follow_stated(rules, found)
    return rules


def stated_lists(stated: Any) -> tuple[AccessList, ...]:
    """The access lists that a setting states: objects, files that are followed, dotted paths.

    Raises :class:`tollway.ConfigError` that names what cannot be used.
    """
    if not isinstance(stated, list | tuple):
        raise ConfigError(f'{stated!r} is not a list such as ["/etc/blocked.txt"]')
    return tuple(_stated_list(item) for item in stated)


def _stated_list(item: Any) -> AccessList:
    found = item
    if isinstance(item, str):
        is_file = "/" in item or item.endswith(".txt")
        found = FileSource(item) if is_file else _imported("access list", item)
    if isinstance(found, FileSource):
        entries = AccessList()
        _follow_stated(entries, found)
        return entries
    if not isinstance(found, AccessList):
        raise ConfigError(f"{item!r} is neither a file nor an AccessList")
    return found


def _follow_stated(target: Rules | AccessList, source: Source) -> None:
    try:
        follow(target, source)
    except OSError as error:
        raise ConfigError(f"{source!r} cannot be read: {error}") from error


def _imported(what: str, path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the {what} {path!r} cannot be imported: {error}") from error


class _Poller:
    """The one thread of a process that looks after all that is followed."""

    def __init__(self) -> None:
        self._all: list[Following] = []
        self._start()

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """The parent's thread and whoever held its lock are not in this process."""
        self._start()
        if self._all:
            with self._changed:
                self._run()

    def add(self, following: Following) -> None:
        with self._changed:
            following._due = time.monotonic() + following.every
            self._all = [*self._all, following]
            self._run()
            self._changed.notify()

    def remove(self, following: Following) -> None:
        with self._changed:
            self._all = [other for other in self._all if other is not following]
            self._changed.notify()

    def wake(self, following: Following) -> None:
        with self._changed:
            following._due = 0.0
            self._changed.notify()

    def _run(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="tollway-rules", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        while True:
            with self._changed:
                if not self._all:
                    self._thread = None
                    return
                now = time.monotonic()
                due = [following for following in self._all if following._due <= now]
                if not due:
                    soonest = min(following._due for following in self._all)
                    self._changed.wait(soonest - now)
                    continue
                for following in due:
                    following._due = now + following.every
            for following in due:
                if not following._turn():
                    self.remove(following)


_poller = _Poller()
os.register_at_fork(after_in_child=_poller.after_fork)


class TierCache:
    """Remembers who is in which tier, so that a request does not ask a database.

    ``find`` tells the tier of a key (a user's id, say), or ``None``; it may be async, and then
    :meth:`aget` is asked. An answer holds for ``ttl`` seconds, or until :meth:`forget`; at most
    ``max_keys`` are kept, the oldest goes first.

    >>> tiers = TierCache(lambda user: "pro" if user == 7 else None, ttl=60)
    >>> tiers.get(7)
    'pro'
    """

    def __init__(
        self,
        find: Callable[[Any], Any],
        *,
        ttl: float = 60.0,
        max_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl <= 0 or max_keys < 1:
            raise ConfigError(f"ttl={ttl!r}, max_keys={max_keys!r}: both are above 0")
        self._find = find
        self._ttl = ttl
        self._max_keys = max_keys
        self._clock = clock
        self._known: dict[Hashable, tuple[float, str | None]] = {}
        self._lock = threading.Lock()
        self._forgotten = 0
        """How often something was: an answer from before that is not kept."""

    def get(self, key: Hashable) -> str | None:
        """The tier of a key, or ``None``."""
        known = self._known.get(key)
        if known is not None and self._clock() < known[0]:
            return known[1]
        forgotten = self._forgotten
        tier = self._find(key)
        if inspect.isawaitable(tier):
            if inspect.iscoroutine(tier):
                tier.close()
            raise ConfigError(f"{self._find!r} is async: ask with `await tiers.aget(key)`")
        return self._keep(key, tier, forgotten)

    async def aget(self, key: Hashable) -> str | None:
        """The same for ``await``; ``find`` may be async."""
        known = self._known.get(key)
        if known is not None and self._clock() < known[0]:
            return known[1]
        forgotten = self._forgotten
        tier = self._find(key)
        return self._keep(key, await tier if inspect.isawaitable(tier) else tier, forgotten)

    def _keep(self, key: Hashable, tier: Any, forgotten: int) -> str | None:
        text = None if tier in (None, "") else str(tier)
        with self._lock:
            if self._forgotten != forgotten:
                return text
            self._known.pop(key, None)
            self._known[key] = (self._clock() + self._ttl, text)
            if len(self._known) > self._max_keys:
                del self._known[next(iter(self._known))]
        return text

    def forget(self, key: Hashable) -> None:
        """Ask again for this key: call it when a user's tier was changed."""
        with self._lock:
            self._forgotten += 1
            self._known.pop(key, None)

    def clear(self) -> None:
        """Ask again for every key."""
        with self._lock:
            self._forgotten += 1
            self._known.clear()

    def __len__(self) -> int:
        return len(self._known)
