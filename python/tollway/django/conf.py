"""What the settings in force stand for: limiters, policies, the rule of the address.

Made at the first question, and made again when a test changes a setting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from django.core.signals import setting_changed

from tollway import ClientAddress, ConfigError, Limiter, Policy, Rate, backends
from tollway.backends import Backend
from tollway.django.options import Options
from tollway.django.ruling import Ruling
from tollway.django.settings import Settings, SettingsError, did_you_mean, read
from tollway.django.usage import Recorder
from tollway.stores import Store

PEERS_MAX: Final = 4096
"""How many addresses are kept as they are counted."""

POLICIES_MAX: Final = 4096
"""How many policies are kept compiled; a project that asks for more gets them compiled anew."""


class Setup:
    """The settings and what is built from them: limiters, policies, the rule of the address.

    Without ``follows`` rules and keys are not read from elsewhere.
    """

    def __init__(self, settings: Settings, *, follows: bool = True) -> None:
        self.settings = settings
        self.address = ClientAddress(
            settings.trusted_proxies, settings.proxy_hops, settings.ipv6_prefix
        )
        self.peer_key = lru_cache(maxsize=PEERS_MAX)(self.address.key)
        """How the address of a peer is counted that no proxy says anything of."""
        self._lock = threading.Lock()
        self._limiters: dict[object, Limiter] = {}
        self._policies: dict[tuple[Any, ...], Policy] = {}
        self.compiled: dict[tuple[int, str], Policy] = {}
        """Policies by limit and scope: the way of every request, so one look-up."""
        self.default = self._find(settings.backend)
        self.ruling = Ruling(settings, follows=follows)
        self.usage = Recorder.started() if settings.usage and follows else None
        """What sums up decisions, if anything does."""
        self.plain = settings.enable and not self.ruling.stated
        """Whether limits are asked as they are stated, without rules."""

    def limiter(
        self, backend: Backend | Callable[[], Limiter] | None = None, **changes: Any
    ) -> Limiter:
        """The limiter of a backend: a limiter, a name in ``RATELIMIT_BACKENDS``, a URL, or the
        default; or what a function answers with. ``changes`` are options in place of those of the
        settings. One limiter per URL for the life of the process; it connects at its first check.
        """
        if backend is None:
            return self.default
        if callable(backend):
            return backend()
        return self._find(backend, changes)

    def policy(
        self,
        name: str,
        given: tuple[Rate, ...] | None,
        algorithm: str | None,
        options: Options = (),
    ) -> Policy:
        """The policy of that name and rates, built once. Without rates it is
        ``RATELIMIT_DEFAULT_LIMIT``."""
        key = (name, given, algorithm, options)
        known = self._policies.get(key)
        if known is not None:
            return known
        chosen = given or self.settings.default_limit
        if chosen is None:
            raise SettingsError(
                f"the limit {name!r} names no rate: pass rate= to it or set RATELIMIT_DEFAULT_LIMIT"
            )
        algorithm = algorithm or self.settings.algorithm
        made = Policy(name, chosen, algorithm=algorithm, **dict(options))
        return self._keep(self._policies, key, made)

    def remember(self, place: tuple[int, str], policy: Policy) -> None:
        """Keep a policy where :attr:`compiled` finds it."""
        self._keep(self.compiled, place, policy)

    def _keep(self, where: dict[Any, Policy], key: object, policy: Policy) -> Policy:
        with self._lock:
            while len(where) >= POLICIES_MAX:
                where.pop(next(iter(where)))
            return where.setdefault(key, policy)

    def _find(self, backend: Backend, changes: dict[str, Any] | None = None) -> Limiter:
        options = changes or {}
        variant = tuple(options.items())
        if isinstance(backend, str):
            backend = self.settings.backends.get(backend, backend)
            with self._lock:
                known = self._limiters.get((backend, variant))
            if known is not None:
                return known
        found = backends.loaded(backend)
        if not isinstance(found, str | tuple | Store):
            if not isinstance(backend, str):
                return found
            with self._lock:
                return self._limiters.setdefault((backend, variant), found)
        with self._lock:
            limiter = self._limiters.get((found, variant))
            if limiter is None:
                limiter = self._limiters[found, variant] = self._open(found, options)
            # A dotted path is imported once.
            return self._limiters.setdefault((backend, variant), limiter)

    def _open(
        self, place: str | tuple[backends.Place, ...] | Store, changes: dict[str, Any]
    ) -> Limiter:
        settings = self.settings
        try:
            options: dict[str, Any] = {
                "fail_mode": settings.fail_mode,
                "prefix": settings.key_prefix,
                "connect_timeout": settings.connect_timeout,
                "command_timeout": settings.command_timeout,
                "max_keys": settings.max_keys,
                "strategy": settings.strategy,
                "near_cache": settings.near_cache,
            }
            return Limiter(list(place) if isinstance(place, tuple) else place, **options | changes)
        except ConfigError as error:
            names = tuple(settings.backends)
            if not isinstance(place, str) or "://" in place:
                raise SettingsError(f"backend: {error}") from error
            raise SettingsError(
                f"unknown backend {place!r}{did_you_mean(place, names)}; name one of "
                "RATELIMIT_BACKENDS or write a URL such as redis://127.0.0.1:6379/0"
            ) from error


_setup: Setup | None = None
_lock = threading.Lock()


def current() -> Setup:
    """The set-up in force, made at the first call. Raises SettingsError on a bad setting."""
    return _setup if _setup is not None else _make()


def _make() -> Setup:
    global _setup
    with _lock:
        if _setup is None:
            settings, problems = read()
            if problems:
                raise problems[0]
            _setup = Setup(settings)
        return _setup


def _reload(*, setting: str, **_: object) -> None:
    global _setup
    if not setting.startswith("RATELIMIT_"):
        return
    with _lock:
        _setup = None


setting_changed.connect(_reload, dispatch_uid="tollway.django.conf")
