"""Who is asking: a key kind and a Django request give the text that is counted.

A request that lacks what a key asks for (no such header, nobody logged in) is counted by its
client address, never in one bucket shared by everybody.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from tollway import ConfigError, hash_identity
from tollway.django import conf
from tollway.identity import KeySpec


def get_client_ip(request: HttpRequest) -> str:
    """The client's address: the peer, or what a trusted proxy says about it.

    ``X-Forwarded-For`` and ``Forwarded`` count only when the peer is one of
    ``RATELIMIT_TRUSTED_PROXIES``, or as far as ``RATELIMIT_PROXY_HOPS`` reaches.
    """
    return conf.current().address.resolve(*_hops(request))


def address_key(request: HttpRequest, setup: conf.Setup) -> str:
    """The address as it is counted: an IPv6 address stands for its network, /64 by default."""
    return setup.address.key(*_hops(request))


def _hops(request: HttpRequest) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    meta = request.META
    forwarded_for = meta.get("HTTP_X_FORWARDED_FOR")
    forwarded = meta.get("HTTP_FORWARDED")
    return (
        meta.get("REMOTE_ADDR") or None,
        (forwarded_for,) if forwarded_for else (),
        (forwarded,) if forwarded else (),
    )


def named_value(request: HttpRequest, spec: KeySpec) -> str | None:
    """What a request carries under the name a key asks for; ``None`` when there is nothing.

    Headers and cookies may be secrets: they are hashed before they are counted.
    """
    name = spec.name
    match spec.kind:
        case "global":
            return "global"
        case "header":
            value = request.META.get(_meta_name(name))
            return f"header:{name.lower()}:{hash_identity(value)}" if value else None
        case "cookie":
            value = request.COOKIES.get(name)
            return f"cookie:{name}:{hash_identity(value)}" if value else None
        case "param":
            value = request.GET.get(name)
        case "post":
            value = request.POST.get(name)
        case kind:
            raise ConfigError(
                f"the key {kind!r} is not served by the Django door; "
                "pass a function of the request as key="
            )
    return f"{spec}:{value}" if value else None


def _meta_name(header: str) -> str:
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def user_value(user: Any) -> str | None:
    """The text for a user who is logged in; ``None`` for anybody else."""
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    return f"user:{user.pk}"


def missing_user(request: HttpRequest) -> ConfigError:
    """What to say when a key asks for the user and nothing puts one on the request."""
    return ConfigError(
        f"a limit on {request.path} counts by user, but the request has no user yet: put "
        "django.contrib.auth.middleware.AuthenticationMiddleware before it in MIDDLEWARE"
    )
