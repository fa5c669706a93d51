"""The ``BOLT_*`` settings, and those ``RATELIMIT_*`` settings that a server needs.

Read once when the server starts. A value that cannot be used is a ConfigError that names the
setting, shows the value and says what would be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from tollway import ClientAddress, Limiter, Policy, backends
from tollway.backends import Backend
from tollway.bolt.compiling.answers import AnswerSettings, read_answers
from tollway.bolt.server.bounds import BOUNDS, flag, number, seconds, text, whole
from tollway.errors import ConfigError
from tollway.rules import AccessList, Rules, stated_lists, stated_rules

__all__ = ["BoltSettings", "read_settings", "unknown_settings"]

T = TypeVar("T")

READ: Final = (
    "BOLT_API",
    "BOLT_ALLOWED_FILE_PATHS",
    "BOLT_COMPRESSION",
    "BOLT_THREADS",
    "BOLT_GRACE",
    "BOLT_TRUSTED_PROXIES",
    "BOLT_ACCESS_LOG",
    "BOLT_ACCESS_LOG_CONFIG",
    "BOLT_ACCESS_LOG_FORMAT",
    "BOLT_ACCESS_LOG_REFUSALS",
    "BOLT_REQUEST_IDS",
    "BOLT_REQUEST_ID_HEADER",
    "BOLT_TRUST_REQUEST_ID",
    "BOLT_SECURITY_HEADERS",
    "BOLT_EMIT_SIGNALS",
    "BOLT_TLS_CERT",
    "BOLT_TLS_KEY",
    *(bound.name for bound in BOUNDS),
    "BOLT_AUTHENTICATION_CLASSES",
    "BOLT_DEFAULT_PERMISSION_CLASSES",
)
"""Every ``BOLT_*`` setting there is."""


@dataclass(slots=True)
class BoltSettings:
    """The settings in force. Times in seconds, sizes in bytes."""

    debug: bool = False
    apis: tuple[str, ...] = ()
    threads: int = 4
    grace: float = 30.0
    trusted_proxies: tuple[str, ...] = ()
    proxy_hops: int = 0
    ipv6_prefix: int = 64
    limits_enabled: bool = True
    backend: Backend = "memory://"
    backend_stated: bool = False
    """Whether somebody said where to count."""
    backends: dict[str, Any] = field(default_factory=dict)
    fail_mode: str = "local"
    key_prefix: str = "tollway"
    connect_timeout: float = 1.0
    command_timeout: float = 0.1
    max_keys: int = 1_000_000
    algorithm: str = "gcra"
    default_limit: Any = None
    rules: Rules | None = None
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    bounds: dict[str, Any] = field(default_factory=dict)
    """Every bound of :data:`tollway.bolt.server.bounds.BOUNDS` by its name."""
    tls_cert: str | None = None
    tls_key: str | None = None
    auth: tuple[Any, ...] = ()
    guards: tuple[Any, ...] = ()
    trusted_origins: tuple[str, ...] = ()
    file_roots: list[str] | None = None
    """The folders that files may be sent from; None for any."""
    emit_signals: bool = False
    """Whether Django's request signals are sent around handlers."""


def read_settings(source: Any) -> BoltSettings:
    """The settings that ``source`` (``django.conf.settings``) holds."""
    reader = _Reader(source)
    nothing: tuple[str, ...] = ()
    memory: Backend = "memory://"
    shared = reader.get("RATELIMIT_TRUSTED_PROXIES", nothing, _networks)
    return BoltSettings(
        debug=bool(getattr(source, "DEBUG", False)),
        apis=reader.get("BOLT_API", nothing, _apis),
        threads=reader.get("BOLT_THREADS", 4, whole),
        grace=reader.get("BOLT_GRACE", 30.0, seconds),
        trusted_proxies=reader.get("BOLT_TRUSTED_PROXIES", shared, _networks),
        proxy_hops=reader.get("RATELIMIT_PROXY_HOPS", 0, number),
        ipv6_prefix=reader.get("RATELIMIT_IPV6_PREFIX", 64, whole),
        limits_enabled=bool(getattr(source, "RATELIMIT_ENABLE", True)),
        backend=reader.get("RATELIMIT_BACKEND", memory, backends.known),
        backend_stated=getattr(source, "RATELIMIT_BACKEND", None) is not None,
        backends=reader.get("RATELIMIT_BACKENDS", {}, backends.named),
        fail_mode=reader.get("RATELIMIT_FAIL_MODE", "local", _fail_mode),
        key_prefix=reader.get("RATELIMIT_KEY_PREFIX", "tollway", _key_prefix),
        connect_timeout=reader.get("RATELIMIT_CONNECT_TIMEOUT", 1.0, seconds),
        command_timeout=reader.get("RATELIMIT_COMMAND_TIMEOUT", 0.1, seconds),
        max_keys=reader.get("RATELIMIT_MAX_KEYS", 1_000_000, whole),
        algorithm=reader.get("RATELIMIT_ALGORITHM", "gcra", _algorithm),
        default_limit=reader.get("RATELIMIT_DEFAULT_LIMIT", None, _rates),
        rules=_rules(reader),
        answers=read_answers(source),
        bounds={bound.name: reader.get(bound.name, bound.default, bound.read) for bound in BOUNDS},
        tls_cert=reader.get("BOLT_TLS_CERT", None, text),
        tls_key=reader.get("BOLT_TLS_KEY", None, text),
        auth=reader.get("BOLT_AUTHENTICATION_CLASSES", (), _backends),
        guards=reader.get("BOLT_DEFAULT_PERMISSION_CLASSES", (), _guards),
        trusted_origins=reader.get("CSRF_TRUSTED_ORIGINS", nothing, tuple),
        file_roots=reader.get("BOLT_ALLOWED_FILE_PATHS", None, _folders),
        emit_signals=reader.get("BOLT_EMIT_SIGNALS", False, flag),
    )


def unknown_settings(source: Any) -> list[tuple[str, str]]:
    """Names that begin with ``BOLT_`` and mean nothing here, each with a hint (or none)."""
    known = [name.removeprefix("BOLT_") for name in READ]
    found = []
    for name in dir(source):
        if name.startswith("BOLT_") and name not in READ:
            near = get_close_matches(name.removeprefix("BOLT_"), known, n=1)
            found.append((name, f"Did you mean BOLT_{near[0]}?" if near else ""))
    return found


class _Reader:
    """Reads one setting after the other, with errors that name it."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def get(self, name: str, default: T, read: Callable[[Any], T]) -> T:
        value = getattr(self.source, name, None)
        if value is None:
            return default
        try:
            return read(value)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"setting {name}: {error}") from None


def _rules(reader: _Reader) -> Rules | None:
    nothing: tuple[AccessList, ...] = ()
    lists = reader.get("RATELIMIT_ACCESS_LISTS", nothing, stated_lists)
    rules = reader.get("RATELIMIT_RULES", None, lambda stated: stated_rules(stated, lists))
    return Rules(lists=lists) if rules is None and lists else rules


def _backends(value: Any) -> tuple[Any, ...]:
    from tollway.bolt.auth.plan import stated_backends

    return stated_backends(value)


def _guards(value: Any) -> tuple[Any, ...]:
    from tollway.bolt.auth.plan import stated_guards

    return stated_guards(value)


def _networks(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f'{value!r} is not a list of networks such as ["10.0.0.0/8"]')
    ClientAddress(tuple(value))
    return tuple(value)


def _apis(value: Any) -> tuple[str, ...]:
    wrong = ConfigError(f'{value!r} is not a list of APIs such as ["shop.api:api"]')
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise wrong
    for item in value:
        module, _, name = item.partition(":") if isinstance(item, str) else ("", "", "")
        if not module or not name.isidentifier():
            raise wrong
    return tuple(value)


def _folders(value: Any) -> list[str]:
    if isinstance(value, str | bytes | Path) or not value:
        raise ConfigError(f'{value!r} is not a list of folders such as ["/srv/reports"]')
    folders = [Path(item) for item in value]
    for folder in folders:
        if not folder.is_absolute():
            raise ConfigError(f"{str(folder)!r} is not an absolute path")
        if not folder.is_dir():
            raise ConfigError(f"{str(folder)!r} is no folder: make it, or leave it out")
    return [str(folder) for folder in folders]


def _fail_mode(value: Any) -> str:
    Limiter(fail_mode=text(value))
    return text(value)


def _key_prefix(value: Any) -> str:
    Limiter(prefix=text(value))
    return text(value)


def _algorithm(value: Any) -> str:
    Policy("check", "1/s", algorithm=text(value))
    return text(value)


def _rates(value: Any) -> Any:
    Policy("check", value)
    return value
