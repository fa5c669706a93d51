"""The ``RATELIMIT_*`` settings: each read once, typed, and read again when a test changes one.

:data:`SETTINGS` is the one list of what exists. The system checks, the documentation's table and
the readers all go by it, so a setting that is documented is a setting that is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from tollway import ClientAddress, ConfigError, Limiter, Policy, Rate

Backend = str | Limiter
"""Where counts are kept: a URL, a name in ``RATELIMIT_BACKENDS``, or a limiter made elsewhere."""


class SettingsError(ConfigError, ImproperlyConfigured):
    """A setting that cannot be used. Says which one, what it holds and what to write instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, typed. The attribute ``fail_mode`` is ``RATELIMIT_FAIL_MODE`` and so on."""

    enable: bool = True
    backend: Backend = "memory://"
    backends: Mapping[str, Backend] = field(default_factory=dict)
    default_limit: tuple[Rate, ...] | None = None
    algorithm: str = "gcra"
    fail_mode: str = "local"
    key_prefix: str = "tollway"
    trusted_proxies: tuple[str, ...] = ()
    proxy_hops: int = 0
    ipv6_prefix: int = 64
    connect_timeout: float = 1.0
    command_timeout: float = 0.1
    max_keys: int = 1_000_000
    x_headers: bool = True
    ietf_headers: bool = True
    response_callback: Callable[..., Any] | None = None
    template: str | None = None
    middleware: Mapping[str, Any] = field(default_factory=dict)


def rates(value: object) -> tuple[Rate, ...]:
    """Rates as people write them: ``"5/10s"``, ``"10/s; 1000/h"``, a Rate, or a list of these."""
    items = [value] if isinstance(value, str | Rate) else value
    if not isinstance(items, list | tuple) or not items:
        raise ConfigError(f'{value!r} is no rate; write one like "100/m" or "10/s; 1000/h"')
    parsed: list[Rate] = []
    for item in items:
        if isinstance(item, Rate):
            parsed.append(item)
        elif isinstance(item, str):
            parsed.extend(Rate.parse(item))
        else:
            raise ConfigError(f'{item!r} is no rate; write one like "100/m"')
    return tuple(parsed)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{value!r} is not True or False")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{value!r} is not a text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{value!r} is not a whole number from {least} to {most}")
        return value

    return read


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{value!r} is not a number of seconds above 0")
    return float(value)


def _optional_rates(value: object) -> tuple[Rate, ...] | None:
    return None if value is None else rates(value)


def _algorithm(value: object) -> str:
    name = _text(value)
    Policy("check", ["1/s"], algorithm=name)
    return name


def _fail_mode(value: object) -> str:
    return choose("fail mode", _text(value), ("open", "closed", "local"))


def _proxies(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ConfigError(f'{value!r} is not a list of networks such as ["10.0.0.0/8"]')
    networks = tuple(_text(item) for item in value)
    ClientAddress(networks)
    return networks


def backend(value: Any) -> Backend:
    """A URL or a name as it was written, or a limiter: anything that can check and acheck."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Limiter) or (hasattr(value, "check") and hasattr(value, "acheck")):
        limiter: Limiter = value
        return limiter
    raise ConfigError(f'{value!r} is no backend; write a URL such as "redis://127.0.0.1:6379/0"')


def _known_backend(value: object) -> Backend:
    found = backend(value)
    if isinstance(found, str):
        Limiter(found)
    return found


def _backends(value: object) -> dict[str, Backend]:
    if not isinstance(value, Mapping):
        raise ConfigError(f'{value!r} is not a mapping such as {{"logins": "redis://…"}}')
    return {_text(name): _known_backend(url) for name, url in value.items()}


def function(value: object) -> Callable[..., Any] | None:
    """A callable, or the dotted path of one; ``None`` stays ``None``."""
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError as error:
            raise ConfigError(f"{value!r} cannot be imported: {error}") from error
    if value is not None and not callable(value):
        raise ConfigError(f"{value!r} is neither a callable nor the dotted path of one")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is not a mapping")
    return value


SETTINGS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "RATELIMIT_ENABLE": _boolean,
    "RATELIMIT_BACKEND": _known_backend,
    "RATELIMIT_BACKENDS": _backends,
    "RATELIMIT_DEFAULT_LIMIT": _optional_rates,
    "RATELIMIT_ALGORITHM": _algorithm,
    "RATELIMIT_FAIL_MODE": _fail_mode,
    "RATELIMIT_KEY_PREFIX": _text,
    "RATELIMIT_TRUSTED_PROXIES": _proxies,
    "RATELIMIT_PROXY_HOPS": _whole(0, 32),
    "RATELIMIT_IPV6_PREFIX": _whole(1, 128),
    "RATELIMIT_CONNECT_TIMEOUT": _seconds,
    "RATELIMIT_COMMAND_TIMEOUT": _seconds,
    "RATELIMIT_MAX_KEYS": _whole(1, 2**32),
    "RATELIMIT_X_HEADERS": _boolean,
    "RATELIMIT_IETF_HEADERS": _boolean,
    "RATELIMIT_RESPONSE_CALLBACK": function,
    "RATELIMIT_TEMPLATE": _optional_text,
    "RATELIMIT_MIDDLEWARE": _mapping,
}
"""Every setting and its reader, which raises ConfigError on a value it cannot use."""


def choose(what: str, value: str, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``; else a ConfigError that suggests the nearest."""
    if value in choices:
        return value
    raise ConfigError(
        f"unknown {what} {value!r}{did_you_mean(value, choices)}; known: {', '.join(choices)}"
    )


def did_you_mean(value: str, choices: tuple[str, ...]) -> str:
    """``": did you mean 'x'?"``, or nothing when no choice is near."""
    near = get_close_matches(value, choices, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else ""


def _attribute(name: str) -> str:
    return name.removeprefix("RATELIMIT_").lower()


def read() -> tuple[Settings, list[SettingsError]]:
    """The settings as they stand, and everything that is wrong with them."""
    values: dict[str, Any] = {}
    problems: list[SettingsError] = []
    for name, reader in SETTINGS.items():
        if not hasattr(django_settings, name):
            continue
        try:
            values[_attribute(name)] = reader(getattr(django_settings, name))
        except ConfigError as error:
            problems.append(SettingsError(f"{name}: {error}"))
    return Settings(**values), problems


class Setup:
    """The settings and what is built from them: limiters, policies, the rule of the address."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ClientAddress(
            settings.trusted_proxies, settings.proxy_hops, settings.ipv6_prefix
        )
        self._lock = threading.Lock()
        self._limiters: dict[str, Limiter] = {}
        self._policies: dict[tuple[str, str], Policy] = {}
        self._default = self._find(None)

    def limiter(self, backend: Backend | None = None) -> Limiter:
        """The limiter of a backend: a limiter, a name in ``RATELIMIT_BACKENDS``, a URL, or the
        default. One limiter per URL for the life of the process; it connects at its first check."""
        return self._default if backend is None else self._find(backend)

    def policy(self, name: str, given: tuple[Rate, ...] | None, algorithm: str | None) -> Policy:
        """The policy of that name, built once. Without rates it is ``RATELIMIT_DEFAULT_LIMIT``."""
        algorithm = algorithm or self.settings.algorithm
        known = self._policies.get((name, algorithm))
        if known is None:
            chosen = given or self.settings.default_limit
            if chosen is None:
                raise SettingsError(
                    f"the limit {name!r} names no rate: pass rate= to it or set "
                    "RATELIMIT_DEFAULT_LIMIT"
                )
            known = Policy(name, chosen, algorithm=algorithm)
            self._policies[(name, algorithm)] = known
        return known

    def _find(self, backend: Backend | None) -> Limiter:
        settings = self.settings
        if backend is None:
            backend = settings.backend
        elif isinstance(backend, str):
            backend = settings.backends.get(backend, backend)
        if not isinstance(backend, str):
            return backend
        with self._lock:
            limiter = self._limiters.get(backend)
            if limiter is None:
                limiter = self._limiters[backend] = self._open(backend)
        return limiter

    def _open(self, url: str) -> Limiter:
        settings = self.settings
        try:
            return Limiter(
                url,
                fail_mode=settings.fail_mode,
                prefix=settings.key_prefix,
                connect_timeout=settings.connect_timeout,
                command_timeout=settings.command_timeout,
                max_keys=settings.max_keys,
            )
        except ConfigError as error:
            names = tuple(settings.backends)
            if "://" in url:
                raise SettingsError(f"backend: {error}") from error
            raise SettingsError(
                f"unknown backend {url!r}{did_you_mean(url, names)}; name one of "
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

if {_attribute(name) for name in SETTINGS} != {item.name for item in fields(Settings)}:
    raise AssertionError("SETTINGS and Settings name different things")
