"""System checks: ``manage.py check`` names what is wrong with the ``RATELIMIT_*`` settings."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.utils.module_loading import import_string

from tollway import ConfigError
from tollway.django import conf, rules

_FOREIGN: Final = {
    "RATELIMIT_FAIL_OPEN": 'RATELIMIT_FAIL_MODE = "open" or "closed"',
    "RATELIMIT_USE_CACHE": 'RATELIMIT_BACKEND = "redis://…"',
    "RATELIMIT_CACHE_PREFIX": "RATELIMIT_KEY_PREFIX",
    "RATELIMIT_IP_META_KEY": "RATELIMIT_TRUSTED_PROXIES",
    "RATELIMIT_TRUST_FORWARDED_HEADERS": "RATELIMIT_TRUSTED_PROXIES",
    "RATELIMIT_IPV6_MASK": "RATELIMIT_IPV6_PREFIX",
    "RATELIMIT_REDIS": 'RATELIMIT_BACKEND = "redis://…"',
    "RATELIMIT_VIEW": "RATELIMIT_RESPONSE_CALLBACK",
    "RATELIMIT_RESPONSE_HANDLER": "RATELIMIT_RESPONSE_CALLBACK",
    "RATELIMIT_MEMORY_MAX_KEYS": "RATELIMIT_MAX_KEYS",
}
"""What the same thing is called here, for people who come from other limiters."""


def register() -> None:
    """Register every check; done by the app's ``ready``."""
    for check in (unknown_settings, bad_settings, middleware_order, memory_backend):
        checks.register(check, "ratelimit")


def unknown_settings(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """W001: a setting that nothing reads, with the one that was probably meant."""
    messages: list[checks.CheckMessage] = []
    known = tuple(conf.SETTINGS)
    for name in dir(django_settings):
        if not name.startswith("RATELIMIT_") or not name.isupper() or name in conf.SETTINGS:
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


def _short(name: str) -> str:
    """A setting's name without the prefix that makes all of them look alike."""
    return name.removeprefix("RATELIMIT_")


def bad_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """E001: a setting that cannot be used: a bad rate, an unknown scheme, a wrong type."""
    settings, problems = conf.read()
    problems += rules.read(settings)[1]
    if not problems:
        try:
            conf.Setup(settings)
        except ConfigError as error:
            problems.append(conf.SettingsError(str(error)))
    return [checks.Error(str(problem), id="tollway.E001") for problem in problems]


def middleware_order(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """W002: rules without the middleware. E002: a key by user before the user is known."""
    settings, _problems = conf.read()
    stack = list(django_settings.MIDDLEWARE)
    ours = _position(stack, "tollway.django.middleware.RateLimitMiddleware")
    if ours is None:
        if not settings.middleware:
            return []
        hint = 'Add "tollway.django.middleware.RateLimitMiddleware" to MIDDLEWARE.'
        text = "RATELIMIT_MIDDLEWARE is set, but the middleware is not in MIDDLEWARE."
        return [checks.Warning(text, hint=hint, id="tollway.W002")]
    found, _problems = rules.read(settings)
    limits = [limit for _, limit in found.rules] + ([found.default] if found.default else [])
    if not any(limit.key_name in ("user", "user_or_ip") for limit in limits):
        return []
    users = _position(stack, "django.contrib.auth.middleware.AuthenticationMiddleware")
    if users is None or users > ours:
        text = "RateLimitMiddleware counts by user, but runs before the user is known."
        hint = "Put AuthenticationMiddleware before RateLimitMiddleware in MIDDLEWARE."
        return [checks.Error(text, hint=hint, id="tollway.E002")]
    return []


def memory_backend(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """I001: with ``memory://`` each process counts on its own; said outside DEBUG."""
    settings, _problems = conf.read()
    backend = settings.backend
    url = backend if isinstance(backend, str) else backend.url
    if django_settings.DEBUG or not settings.enable or not url.startswith("memory:"):
        return []
    return [
        checks.Info(
            "RATELIMIT_BACKEND is memory://: each server process counts on its own, "
            "so N processes admit N times the rate.",
            hint="With more than one process, set RATELIMIT_BACKEND to redis://host:6379/0.",
            id="tollway.I001",
        )
    ]


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
