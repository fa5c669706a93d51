"""Ask by hand: ``get_usage`` and ``is_ratelimited``, and how keys, rates and settings are read."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections.abc import Callable, Iterable
from functools import partial, wraps
from inspect import signature
from typing import Any, Final, ParamSpec, TypeVar

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from tollway import ConfigError, Decision, Limiter, Rate, hash_identity
from tollway.answer import policy_name
from tollway.django import conf, identity
from tollway.django.ruling import meta_name
from tollway.errors import StoreError
from tollway.identity import text

ALL: Final = None
"""Every HTTP method."""

UNSAFE: Final = ("DELETE", "PATCH", "POST", "PUT")
"""The methods that change something."""

SETTINGS: Final = (
    "RATELIMIT_CACHE_PREFIX",
    "RATELIMIT_FAIL_OPEN",
    "RATELIMIT_HASH_ALGORITHM",
    "RATELIMIT_IPV4_MASK",
    "RATELIMIT_IPV6_MASK",
    "RATELIMIT_IP_META_KEY",
    "RATELIMIT_USE_CACHE",
    "RATELIMIT_VIEW",
)
"""The settings that this layer reads besides those of the Django door."""

Rates = Any
_RATE: Final = re.compile(r"([0-9]+)/([0-9]*)([smhd])?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}


def get_usage_extended(
    request: Any,
    group: str | None = None,
    fn: Callable[..., Any] | None = None,
    key: Any = None,
    rate: Rates = None,
    method: str | Iterable[str] | None = ALL,
    increment: bool = False,
) -> dict[str, Any] | None:
    """How much of a limit is used: ``count``, ``limit``, ``should_limit`` and ``time_left``, with
    ``rate``, ``period``, ``group``, ``key``, ``value`` and more.

    ``None`` when the limit does not apply: another method, no rate, limits switched off. With
    ``increment`` the request is counted, unless it is over the limit: a refusal costs nothing.
    Without, ``should_limit`` says whether one more request would be refused.
    """
    if group is None and fn is None:
        raise ImproperlyConfigured("get_usage cannot tell what to count: pass group= or fn=")
    if not key:
        raise ImproperlyConfigured("get_usage cannot tell whom to count: pass key=")
    group = group or group_of(fn)
    setup = conf.current()
    names = methods(method)
    if not setup.settings.enable or (names is not None and request.method not in names):
        return None
    stated = rate_of(rate)(group, request)
    if stated is None:
        return None
    who = key_of(key)(group, request) or identity.address_key(request, setup)
    usage = {
        "group": group,
        "key": key,
        "value": who,
        "rate": rate,
        "method": names,
        "timestamp": int(time.time()),
    }
    if isinstance(stated, int):
        usage |= {"count": 1, "limit": 0, "should_limit": True, "time_left": 0, "period": 0}
        return usage
    policy = setup.policy(
        policy_name(group, rate_name(rate), "+".join(sorted(names or ()))),
        (stated,),
        algorithm(),
    )
    try:
        ask = limiter().check if increment else limiter().peek
        decision = ask(policy, who)
    except StoreError:  # the limiter has told the log
        usage |= {"count": 0, "limit": stated.capacity, "should_limit": True, "time_left": 1}
        return usage | {"period": stated.period}
    return usage | _told(decision, stated, counted=increment)


def _told(decision: Decision, rate: Rate, *, counted: bool) -> dict[str, Any]:
    wait = decision.reset_after if decision.allowed else decision.retry_after
    if not decision.allowed:
        count = decision.limit + (1 if counted else 0)
    else:
        count = decision.limit - decision.remaining - (0 if counted else 1)
    return {
        "count": count,
        "limit": decision.limit,
        "should_limit": not decision.allowed,
        "time_left": math.ceil(wait) if math.isfinite(wait) else 0,
        "period": rate.period,
    }


Asked = ParamSpec("Asked")
Usage = dict[str, Any]
Told = TypeVar("Told")


def _asked_as(
    extended: Callable[Asked, Usage | None],
) -> Callable[[Callable[[Any, Usage | None], Told]], Callable[Asked, Told]]:
    """Makes a function of the request and its usage one that is asked as ``extended`` is."""

    def made(tell: Callable[[Any, Usage | None], Told]) -> Callable[Asked, Told]:
        @wraps(tell)
        def ask(*given: Asked.args, **named: Asked.kwargs) -> Told:
            request = given[0] if given else named["request"]
            return tell(request, extended(*given, **named))

        setattr(ask, "__signature__", signature(extended))  # noqa: B010
        return ask

    return made


@_asked_as(get_usage_extended)
def get_usage(request: Any, usage: Usage | None) -> Usage | None:
    """:func:`get_usage_extended` with ``count``, ``limit``, ``should_limit`` and ``time_left``."""
    if usage is None:
        return None
    return {name: usage[name] for name in ("count", "limit", "should_limit", "time_left")}


@_asked_as(get_usage_extended)
def is_ratelimited(request: Any, usage: Usage | None) -> bool:
    """Whether a request is over its limit; see :func:`get_usage_extended`."""
    limited = usage is not None and bool(usage["should_limit"])
    request.limited = getattr(request, "limited", False) or limited
    return limited


def group_of(view: Any) -> str:
    """A view's dotted name."""
    while isinstance(view, partial):
        view = view.func
    view = getattr(view, "view_class", view)
    owner = getattr(view, "__self__", None)
    if owner is not None:
        return f"{type(owner).__module__}.{type(owner).__qualname__}.{view.__name__}"
    name = getattr(view, "__qualname__", type(view).__qualname__)
    return f"{getattr(view, '__module__', type(view).__module__)}.{name}"


def methods(method: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """HTTP methods in capitals; ``None`` for all of them."""
    if method is None:
        return None
    names = [method] if isinstance(method, str) else list(method)
    return tuple(name.upper() for name in names) or None


def rate_name(rate: Rates) -> str:
    """How a rate is called in the name of a count."""
    return getattr(rate, "__qualname__", None) or str(rate)


def rate_of(rate: Rates) -> Callable[[str, Any], Rate | int | None]:
    """A function of group and request that answers with the rate.

    ``None`` is no limit, and 0 lets nobody pass.
    """
    if isinstance(rate, str) and "/" not in rate:
        rate = _loaded(rate, "rate")
    if callable(rate):
        return lambda group, request: parse_rate(rate(group, request))
    parsed = parse_rate(rate)
    return lambda group, request: parsed


def parse_rate(rate: Rates) -> Rate | int | None:
    """``"100/5m"``, ``"100/300"`` (seconds) or ``(100, 300)``; 0 lets nobody pass."""
    if rate is None:
        return None
    if isinstance(rate, tuple):
        count, seconds = rate
    else:
        found = _RATE.fullmatch(str(rate).strip())
        if found is None:
            raise ImproperlyConfigured(f'rate {rate!r} does not read: write one like "100/5m"')
        count = int(found[1])
        seconds = int(found[2] or 1) * _SECONDS[found[3]]
    if count == 0:
        return 0
    try:
        return Rate(count, f"{seconds}s")
    except ConfigError as error:
        raise ImproperlyConfigured(f"rate {rate!r}: {error}") from error


def key_of(key: Any) -> Callable[[str, Any], Any]:
    """A function of group and request that answers with the value to count by."""
    if not callable(key):
        kind, colon, name = str(key).partition(":")
        if colon and kind in _NAMED and name:
            named = partial(_NAMED[kind], name)
            return lambda group, request: named(request)
        if not colon and kind in _PLAIN:
            plain = _PLAIN[kind]
            return lambda group, request: plain(request)
        key = _loaded(str(key), "key")
    asked: Callable[[str, Any], Any] = key
    return asked


def _loaded(path: str, what: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"{what} {path!r} is neither known nor the dotted path of a function"
        ) from error
    return found


def _ip(request: Any) -> str:
    source = getattr(django_settings, "RATELIMIT_IP_META_KEY", None)
    masks = [getattr(django_settings, name, None) for name in SETTINGS[3:5]]
    setup = conf.current()
    if source is None and masks == [None, None]:
        return identity.address_key(request, setup)
    address = identity.get_client_ip(request)
    if source is not None:
        if isinstance(source, str) and "." in source:
            source = import_string(source)
        found = source(request) if callable(source) else request.META.get(source)
        address = str(found or "").strip() or address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return identity.address_key(request, setup)
    mask = masks[0] or 32 if parsed.version == 4 else masks[1] or 64
    return str(ipaddress.ip_network((parsed, int(mask)), strict=False))


def _user(request: Any) -> str | None:
    named = identity.user_value(getattr(request, "user", None))
    return None if named is None else named.partition(":")[2]


def _user_or_ip(request: Any) -> str:
    return _user(request) or _ip(request)


def _get(name: str, request: Any) -> str | None:
    return request.GET.get(name) or None


def _post(name: str, request: Any) -> str | None:
    return request.POST.get(name) or None


def _field(name: str, request: Any) -> str | None:
    return _post(name, request) if request.method == "POST" else _get(name, request)


def _header(name: str, request: Any) -> str | None:
    value = request.META.get(meta_name(name))
    return hash_identity(text(value)) if value else None


_PLAIN: Final[dict[str, Callable[[Any], str | None]]] = {
    "ip": _ip,
    "user": _user,
    "user_or_ip": _user_or_ip,
}
_NAMED: Final = {"get": _get, "post": _post, "field": _field, "header": _header}


def algorithm() -> str:
    """Fixed windows that begin with the first request, unless ``RATELIMIT_ALGORITHM`` is set."""
    return str(getattr(django_settings, "RATELIMIT_ALGORITHM", "fixed_window:first"))


def limiter() -> Limiter:
    """The limiter of ``RATELIMIT_BACKEND``, else of the cache that ``RATELIMIT_USE_CACHE`` names.

    ``RATELIMIT_FAIL_OPEN`` says what holds while it is away, ``RATELIMIT_CACHE_PREFIX`` what keys
    begin with; without them ``RATELIMIT_FAIL_MODE`` and ``RATELIMIT_KEY_PREFIX`` do.
    """
    setup = conf.current()
    backend = setup.settings.backend
    if not hasattr(django_settings, "RATELIMIT_BACKEND"):
        backend = _of_cache(getattr(django_settings, "RATELIMIT_USE_CACHE", "default"))
    changes = {}
    fail_open = getattr(django_settings, "RATELIMIT_FAIL_OPEN", None)
    if fail_open is not None:
        changes["fail_mode"] = "open" if fail_open else "closed"
    prefix = getattr(django_settings, "RATELIMIT_CACHE_PREFIX", None)
    if prefix is not None:
        changes["prefix"] = str(prefix).strip(":")
    return setup.limiter(backend, **changes)


def _of_cache(name: str) -> str:
    """The backend that counts where a cache of ``CACHES`` keeps its values."""
    cache = django_settings.CACHES.get(name)
    if cache is None:
        raise ImproperlyConfigured(f"RATELIMIT_USE_CACHE: CACHES has no {name!r}")
    kind = str(cache.get("BACKEND", ""))
    if "locmem" in kind or "dummy" in kind:
        return "memory://"
    place = cache.get("LOCATION", "")
    url = place[0] if isinstance(place, list | tuple) and place else str(place).split(",")[0]
    if "redis" in kind.lower() and "://" in url:
        return url.replace("unix://", "redis+unix://")
    raise ImproperlyConfigured(
        f"the cache {name!r} ({kind}) is none that limits can be counted in: set "
        'RATELIMIT_BACKEND, such as "redis://127.0.0.1:6379/0"'
    )
