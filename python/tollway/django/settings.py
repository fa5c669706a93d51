"""The ``RATELIMIT_*`` settings: what exists, how each is read, what each means.

:data:`SETTINGS` is the one list. The system checks, the reference in the manual and the readers
all go by it, so a setting that is documented is a setting that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from tollway import ClientAddress, ConfigError, Limiter, Policy, Rate, backends
from tollway.backends import Backend
from tollway.django import database, sources
from tollway.identity import parse_key
from tollway.rules import AccessList, stated_lists
from tollway.tokens import Verifier


class SettingsError(ConfigError, ImproperlyConfigured):
    """A setting that cannot be used. Says which one, what it holds and what to write instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, typed. The attribute ``fail_mode`` is ``RATELIMIT_FAIL_MODE`` and so on."""

    enable: bool = True
    # Passwords are in these, and pages of errors show what is at hand.
    backend: Backend = field(default="memory://", repr=False)
    backends: Mapping[str, Backend] = field(default_factory=dict, repr=False)
    strategy: str = "first_healthy"
    default_limit: tuple[Rate, ...] | None = None
    algorithm: str = "gcra"
    fail_mode: str = "local"
    key_prefix: str = "tollway"
    trusted_proxies: tuple[str, ...] = ()
    proxy_hops: int = 0
    ipv6_prefix: int = 64
    api_key_header: str = "X-API-Key"
    api_key_param: str | None = None
    api_key_cookie: str | None = None
    api_keys: bool = False
    org: Callable[..., Any] | None = None
    tier: Callable[..., Any] | None = None
    jwt: Verifier | None = None
    connect_timeout: float = 1.0
    command_timeout: float = 0.1
    max_keys: int = 1_000_000
    near_cache: float = 1.0
    x_headers: bool = True
    ietf_headers: str | None = "draft-10"
    response_callback: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    template: str | None = None
    middleware: Mapping[str, Any] = field(default_factory=dict)
    rules: Any = None
    usage: bool = False
    access_lists: tuple[AccessList, ...] = ()


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


def _seconds_or_none(value: object) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else _seconds(value)


def _optional_rates(value: object) -> tuple[Rate, ...] | None:
    return None if value is None else rates(value)


def _algorithm(value: object) -> str:
    name = _text(value)
    Policy("check", ["1/s"], algorithm=name)
    return name


def _fail_mode(value: object) -> str:
    return choose("fail mode", _text(value), ("open", "closed", "local"))


def _strategy(value: object) -> str:
    name = _text(value)
    Limiter(["memory://", "memory://"], strategy=name)
    return name


def _proxies(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ConfigError(f'{value!r} is not a list of networks such as ["10.0.0.0/8"]')
    networks = tuple(_text(item) for item in value)
    ClientAddress(networks)
    return networks


def _header(value: object) -> str:
    name = _text(value)
    parse_key(f"header:{name}")
    return name


def _api_keys(value: object) -> bool:
    if _boolean(value):
        database.installed("API keys")
    return value is True


def _usage(value: object) -> bool:
    if _boolean(value):
        database.installed("counts of usage")
    return value is True


def _jwt(value: object) -> Verifier | None:
    return None if value is None else Verifier.from_mapping(value)


DRAFTS: Final = ("draft-10", "draft-07", "draft-06")


def _ietf(value: object) -> str | None:
    if isinstance(value, bool):
        return DRAFTS[0] if value else None
    return choose("draft", _text(value), DRAFTS)


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


def _callbacks(value: object) -> dict[str, Callable[..., Any]]:
    stated = value if isinstance(value, Mapping) else {"*/*": value}
    found: dict[str, Callable[..., Any]] = {}
    for media, callback in stated.items():
        if not isinstance(media, str) or media.count("/") != 1:
            raise ConfigError(f'{media!r} is no media type; write one such as "text/html"')
        called = function(callback)
        if called is not None:
            found[media.lower()] = called
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is not a mapping")
    return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how it is read, and what the manual says of it.

    ``read`` raises ConfigError on a value it cannot use.
    """

    read: Callable[[Any], Any]
    meaning: str


SETTINGS: Final[Mapping[str, Setting]] = {
    "RATELIMIT_ENABLE": Setting(_boolean, "`False` switches every limit off"),
    "RATELIMIT_BACKEND": Setting(
        backends.known,
        "where counts are kept: a URL, a list of URLs that stand in for each other, a name in "
        "`RATELIMIT_BACKENDS`, the dotted path of a `tollway.stores.Store` or of a "
        "`tollway.Limiter`, or either of them",
    ),
    "RATELIMIT_BACKENDS": Setting(
        backends.named, 'names for other backends, for `backend="logins"`'
    ),
    "RATELIMIT_STRATEGY": Setting(
        _strategy, "how a list of backends is used: `first_healthy`, `priority` or `round_robin`"
    ),
    "RATELIMIT_DEFAULT_LIMIT": Setting(
        _optional_rates, "the rate of the middleware, and of decorators that name none"
    ),
    "RATELIMIT_ALGORITHM": Setting(_algorithm, "the algorithm where none is named"),
    "RATELIMIT_FAIL_MODE": Setting(
        _fail_mode, "what holds while the store is away: `local`, `open` or `closed`"
    ),
    "RATELIMIT_KEY_PREFIX": Setting(_text, "what every key in the store begins with"),
    "RATELIMIT_TRUSTED_PROXIES": Setting(_proxies, "networks whose forwarded headers are believed"),
    "RATELIMIT_PROXY_HOPS": Setting(
        _whole(0, 32), "how many proxies to believe, whatever their address"
    ),
    "RATELIMIT_IPV6_PREFIX": Setting(
        _whole(1, 128), "how many bits of an IPv6 address are one client"
    ),
    "RATELIMIT_API_KEY_HEADER": Setting(_header, "the header that `api_key` reads"),
    "RATELIMIT_API_KEY_PARAM": Setting(
        _optional_text, "the query parameter that `api_key` reads when there is no such header"
    ),
    "RATELIMIT_API_KEY_COOKIE": Setting(
        _optional_text, "the cookie that `api_key` reads when there is neither"
    ),
    "RATELIMIT_API_KEYS": Setting(
        _api_keys,
        "whether API keys are those issued by this app: others count as none, and are answered "
        "with 401 where a key is required",
    ),
    "RATELIMIT_ORG": Setting(
        function,
        "a function of the request, or its dotted path, that names the organisation for `org`; "
        "without it `request.tenant` does",
    ),
    "RATELIMIT_TIER": Setting(
        function, "a function of the request, or its dotted path, that names the client's tier"
    ),
    "RATELIMIT_JWT": Setting(
        _jwt, "how tokens are verified for `jwt:CLAIM`: `KEY`, `ALGORITHMS` and more"
    ),
    "RATELIMIT_CONNECT_TIMEOUT": Setting(_seconds, "seconds to connect to a store"),
    "RATELIMIT_COMMAND_TIMEOUT": Setting(_seconds, "seconds to wait for a store's answer"),
    "RATELIMIT_MAX_KEYS": Setting(
        _whole(1, 2**32), "how many keys `memory://` holds; the longest idle make room"
    ),
    "RATELIMIT_NEAR_CACHE": Setting(
        _seconds_or_none,
        "seconds for which a refused client may be refused again without asking the store; 0 asks "
        "always",
    ),
    "RATELIMIT_X_HEADERS": Setting(_boolean, "whether to write `X-RateLimit-*`"),
    "RATELIMIT_IETF_HEADERS": Setting(
        _ietf,
        "whether to write `RateLimit` and `RateLimit-Policy`; or which draft of them: "
        "`draft-10` (the same as `True`), `draft-07`, `draft-06`",
    ),
    "RATELIMIT_RESPONSE_CALLBACK": Setting(
        _callbacks,
        "the function that makes refusals, or its dotted path; or a mapping of media types to "
        "functions, chosen by `Accept`",
    ),
    "RATELIMIT_TEMPLATE": Setting(_optional_text, "the template of refusals for browsers"),
    "RATELIMIT_MIDDLEWARE": Setting(_mapping, "the middleware's rules"),
    "RATELIMIT_RULES": Setting(
        sources.stated_rules,
        "who gets which limit: a mapping, `database` for what the admin holds, a `.toml` or "
        "`.json` file that is followed, a `tollway.rules.Source`, `tollway.rules.Rules`, or the "
        "dotted path of one of them",
    ),
    "RATELIMIT_USAGE": Setting(
        _usage,
        "whether to sum up in the database what was allowed and refused, for `ratelimit_report`",
    ),
    "RATELIMIT_ACCESS_LISTS": Setting(
        stated_lists,
        "access lists besides: files that are followed, `tollway.rules.AccessList` objects, or "
        "their dotted paths",
    ),
}
"""Every setting: its reader and its meaning."""


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
    for name, setting in SETTINGS.items():
        if not hasattr(django_settings, name):
            continue
        try:
            values[_attribute(name)] = setting.read(getattr(django_settings, name))
        except ConfigError as error:
            problems.append(SettingsError(f"{name}: {error}"))
    return Settings(**values), problems


def reference() -> str:
    """The table of the manual: name, default and meaning of every setting.

    >>> "| `RATELIMIT_FAIL_MODE` | `'local'` |" in reference()
    True
    """
    lines = ["| Setting | Default | What it is |", "|---|---|---|"]
    defaults = Settings()
    for name, setting in SETTINGS.items():
        default = getattr(defaults, _attribute(name))
        if name == "RATELIMIT_IETF_HEADERS":
            default = True
        empty = default is None or (default in ((), {}) and not isinstance(default, bool | int))
        shown = "none" if empty else f"`{default!r}`"
        lines.append(f"| `{name}` | {shown} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


if {_attribute(name) for name in SETTINGS} != {item.name for item in fields(Settings)}:
    raise AssertionError("SETTINGS and Settings name different things")
