"""System checks: ``manage.py check`` names what is wrong with the limits of a project."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.utils.module_loading import import_string

from tollway import ConfigError, backends
from tollway.django import conf, limits, rules, settings
from tollway.django.limits import Limit
from tollway.django.ruling import unread
from tollway.django.sources import Shadowed
from tollway.identity import KeySpec
from tollway.rules import FileSource, Rules

_FOREIGN: Final = {
    "RATELIMIT_FAIL_OPEN": 'RATELIMIT_FAIL_MODE = "open" or "closed"',
    "RATELIMIT_USE_CACHE": 'RATELIMIT_BACKEND = "redis://…"',
    "RATELIMIT_CACHE_PREFIX": "RATELIMIT_KEY_PREFIX",
    "RATELIMIT_IP_META_KEY": "RATELIMIT_TRUSTED_PROXIES",
    "RATELIMIT_TRUST_FORWARDED_HEADERS": "RATELIMIT_TRUSTED_PROXIES",
    "RATELIMIT_IPV6_MASK": "RATELIMIT_IPV6_PREFIX",
    "RATELIMIT_REDIS": 'RATELIMIT_BACKEND = "redis://…"',
    "RATELIMIT_MULTI_BACKENDS": 'RATELIMIT_BACKEND = ["redis://…", "redis://…"]',
    "RATELIMIT_MULTI_BACKEND_STRATEGY": "RATELIMIT_STRATEGY",
    "RATELIMIT_VIEW": "RATELIMIT_RESPONSE_CALLBACK",
    "RATELIMIT_RESPONSE_HANDLER": "RATELIMIT_RESPONSE_CALLBACK",
    "RATELIMIT_MEMORY_MAX_KEYS": "RATELIMIT_MAX_KEYS",
}
"""What the same thing is called here, for people who come from other limiters."""

_COMPAT: Final = "tollway.compat.django_ratelimit"
_MIDDLEWARE: Final = "tollway.django.middleware.RateLimitMiddleware"
_AUTHENTICATION: Final = "django.contrib.auth.middleware.AuthenticationMiddleware"


def register() -> None:
    """Register every check; done by the app's ``ready``."""
    for check in (unknown_settings, bad_settings, middleware, stated_limits):
        checks.register(check, "ratelimit")
    for check in (throttle_rates, many_processes):
        checks.register(check, "ratelimit")
    checks.register(trusted_everywhere, "ratelimit", checks.Tags.security)
    checks.register(memory_backend, "ratelimit", deploy=True)


def unknown_settings(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """W001: a setting that nothing reads, with the one that was probably meant."""
    messages: list[checks.CheckMessage] = []
    known = (*settings.SETTINGS, *_of_compat())
    for name in dir(django_settings):
        if not name.startswith("RATELIMIT_") or not name.isupper() or name in known:
            continue
        if name in _FOREIGN:
            hint = f"Here it is {_FOREIGN[name]}."
        else:
            near = get_close_matches(_short(name), map(_short, known), n=1)
            hint = (
                f"Did you mean RATELIMIT_{near[0]}?"
                if near
                else f"Known settings: {', '.join(known)}."
            )
        messages.append(
            checks.Warning(f"{name} is no setting of Tollway.", hint=hint, id="tollway.W001")
        )
    return messages


def _of_compat() -> tuple[str, ...]:
    """The settings of the layer for django-ratelimit, when a project uses it."""
    module = sys.modules.get(f"{_COMPAT}.core")
    return () if module is None else tuple(module.SETTINGS)


def _short(name: str) -> str:
    """A setting's name without the prefix that makes all of them look alike."""
    return name.removeprefix("RATELIMIT_")


def bad_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """E001: a setting that cannot be used: a bad rate, an unknown scheme, a missing extra."""
    found, problems = settings.read()
    problems += rules.read(found)[1]
    if not problems:
        try:
            conf.Setup(found, follows=False)
        except ConfigError as error:
            problems.append(settings.SettingsError(str(error)))
        problems += _file_of_rules(found)
    return [checks.Error(str(problem), id="tollway.E001") for problem in problems]


def _file_of_rules(found: settings.Settings) -> list[settings.SettingsError]:
    """What is wrong with a file that is followed; other sources may not be there yet."""
    if not isinstance(found.rules, FileSource):
        return []
    try:
        Rules((Shadowed(found.rules).load(None) or (None, {}))[1])
    except (ConfigError, OSError) as error:
        return [unread(error)]
    return []


def middleware(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """W002: rules without the middleware. E002: rules by user, but nothing that knows the user."""
    found, _problems = settings.read()
    stack = list(django_settings.MIDDLEWARE)
    if _position(stack, _MIDDLEWARE) is None:
        if not found.middleware:
            return []
        hint = f'Add "{_MIDDLEWARE}" to MIDDLEWARE.'
        text = "RATELIMIT_MIDDLEWARE is set, but the middleware is not in MIDDLEWARE."
        return [checks.Warning(text, hint=hint, id="tollway.W002")]
    read, _problems = rules.read(found)
    stated = [limit for _, limit in read.rules] + ([read.default] if read.default else [])
    if not any("user" in kinds for kinds in map(_kinds, stated)):
        return []
    if _position(stack, _AUTHENTICATION) is None:
        text = "RateLimitMiddleware counts by user, but no middleware knows the user."
        hint = f'Add "{_AUTHENTICATION}" to MIDDLEWARE.'
        return [checks.Error(text, hint=hint, id="tollway.E002")]
    return []


def _kinds(limit: Limit) -> set[str]:
    """What a limit counts by, ``user_or_ip`` being a ``user`` too."""
    if not isinstance(limit.key, KeySpec):
        return set()
    return {leaf.kind.removesuffix("_or_ip") for leaf in limit.key.leaves()}


def stated_limits(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """E003: a decorator that cannot work: no rate, an unknown backend, a key without its setting.
    W005: nobody knows, because the URLs do not load.

    It loads the URLs first, as Django's own checks do, so that the views are known.
    """
    found, problems = settings.read()
    if problems:
        return []  # E001 says those
    messages: list[checks.CheckMessage] = []
    try:
        _load_urls()
    except Exception as error:  # any module of the project may be imported by them
        text = f"The URLs do not load, so limits on their views were not all looked at: {error!r}"
        messages.append(checks.Warning(text, id="tollway.W005"))
    try:
        setup = conf.Setup(found, follows=False)
    except ConfigError:
        return messages  # E001 says it
    for limit in sorted(limits.STATED, key=lambda limit: limit.serial):
        for text in _wrong_with(limit, setup):
            messages.append(checks.Error(f"rate_limit at {limit.where}: {text}", id="tollway.E003"))
    return messages


def _load_urls() -> None:
    from django.urls import get_resolver

    if getattr(django_settings, "ROOT_URLCONF", None):
        len(get_resolver().url_patterns)


def _wrong_with(limit: Limit, setup: conf.Setup) -> Iterator[str]:
    found = setup.settings
    if limit.rates is None and limit.rate_of is None and found.default_limit is None:
        yield "it names no rate: pass rate= or set RATELIMIT_DEFAULT_LIMIT"
    elif limit.rates is not None and not callable(limit.backend):
        try:  # whether the backend is known, and keeps the algorithm
            require = getattr(setup.limiter(limit.backend), "require", None)
            if require is not None:
                require(limit.policy(setup, "check"))
        except ConfigError as error:
            yield str(error)
    if "jwt" in _kinds(limit) and found.jwt is None:
        yield f'the key "{limit.key}" needs RATELIMIT_JWT: only verified tokens count'


def throttle_rates(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """E004: a rate of REST framework's settings that our throttles cannot read."""
    stated = getattr(django_settings, "REST_FRAMEWORK", None) or {}
    classes = stated.get("DEFAULT_THROTTLE_CLASSES", ())
    if not any(str(name).startswith("tollway.") for name in classes):
        return []
    messages: list[checks.CheckMessage] = []
    for scope, rate in (stated.get("DEFAULT_THROTTLE_RATES") or {}).items():
        try:
            if rate is not None and not str(rate).startswith("0/"):
                settings.rates(rate)
        except ConfigError as error:
            text = f"REST_FRAMEWORK['DEFAULT_THROTTLE_RATES'][{scope!r}]: {error}"
            messages.append(checks.Error(text, id="tollway.E004"))
    return messages


def many_processes(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """W003: ``memory://`` where the environment says that there are several processes."""
    stated = os.environ.get("WEB_CONCURRENCY", "")
    if not stated.isdecimal() or int(stated) < 2 or not _in_memory():
        return []
    text = (
        f"RATELIMIT_BACKEND is memory://, but WEB_CONCURRENCY asks for {stated} processes: "
        "each counts on its own."
    )
    return [checks.Warning(text, hint=_ONE_COUNT, id="tollway.W003")]


def memory_backend(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """I001, under ``check --deploy``: with ``memory://`` each process counts on its own."""
    if not _in_memory():
        return []
    text = (
        "RATELIMIT_BACKEND is memory://: each server process counts on its own, "
        "so N processes admit N times the rate."
    )
    return [checks.Info(text, hint=_ONE_COUNT, id="tollway.I001")]


_ONE_COUNT: Final = (
    "With more than one process, set RATELIMIT_BACKEND to a backend that they share, such as "
    "redis://host:6379/0."
)


def _in_memory() -> bool:
    found, _problems = settings.read()
    return found.enable and backends.url_of(found.backend).startswith("memory:")


def trusted_everywhere(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """W004: forwarded headers are believed from everybody, so anybody can be anybody."""
    found, _problems = settings.read()
    everywhere = [network for network in found.trusted_proxies if network.endswith("/0")]
    if not everywhere:
        return []
    text = (
        f"RATELIMIT_TRUSTED_PROXIES trusts {', '.join(everywhere)}: "
        "any client can write itself another address."
    )
    hint = "Name the networks of your proxies, or set RATELIMIT_PROXY_HOPS to how many there are."
    return [checks.Warning(text, hint=hint, id="tollway.W004")]


def _position(stack: list[str], path: str) -> int | None:
    """Where a middleware stands: itself, or else the first that is a subclass of it."""
    if path in stack:
        return stack.index(path)
    for position, name in enumerate(stack):
        try:
            item = import_string(name)
        except ImportError:  # said by Django when the server starts
            continue
        bases = getattr(item, "__mro__", ())
        if path in (f"{base.__module__}.{base.__qualname__}" for base in bases):
            return position
    return None
