"""Who is asking: a key and a Django request give the text that is counted.

A request that lacks what a key asks for (no such header, nobody logged in) is counted by its
client address, never in one bucket shared by everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.http.request import split_domain_port

from tollway import ConfigError, hash_identity
from tollway.django import conf
from tollway.django.ruling import key_of, meta_name
from tollway.django.steps import Call, Steps, User, arun, run
from tollway.identity import KeySpec, joined, method_of, parse_key, text

Key = str | Callable[..., Any]
"""A key as people write it: a text that :func:`tollway.identity.parse_key` reads, or a function."""


def get_client_ip(request: HttpRequest) -> str:
    """The client's address: the peer, or what a trusted proxy says about it.

    ``X-Forwarded-For`` and ``Forwarded`` count only when the peer is one of
    ``RATELIMIT_TRUSTED_PROXIES``, or as far as ``RATELIMIT_PROXY_HOPS`` reaches.
    """
    return conf.current().address.resolve(*hops(request))


def address_key(request: Any, setup: conf.Setup) -> str:
    """The address as it is counted: an IPv6 address stands for its network, /64 by default."""
    meta = request.META
    if "HTTP_X_FORWARDED_FOR" in meta or "HTTP_FORWARDED" in meta:
        return setup.address.key(*hops(request))
    return setup.peer_key(meta.get("REMOTE_ADDR") or None)


def hops(request: Any) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """What a request says of its way: its peer, ``X-Forwarded-For`` and ``Forwarded``."""
    meta = request.META
    forwarded_for = meta.get("HTTP_X_FORWARDED_FOR")
    forwarded = meta.get("HTTP_FORWARDED")
    return (
        meta.get("REMOTE_ADDR") or None,
        (text(forwarded_for),) if forwarded_for else (),
        (text(forwarded),) if forwarded else (),
    )


def generate_key(request: HttpRequest, key: Key) -> str:
    """The text that a limit with this key counts a request under, for ``limiter.reset`` and so on.

    Raises ConfigError on a key that does not read, as the decorator does.
    """
    return run(who(conf.current(), request, key if callable(key) else parse_key(key)))


async def agenerate_key(request: HttpRequest, key: Key) -> str:
    """:func:`generate_key` for async code: async key functions and users are awaited."""
    return await arun(who(conf.current(), request, key if callable(key) else parse_key(key)))


def who(setup: conf.Setup, request: Any, key: KeySpec | Callable[..., Any]) -> Steps[str]:
    """The text that is counted for a request under a key."""
    if callable(key):
        value = yield Call("key", key, request)
        found = None if value in (None, "") else text(value)
    else:
        found = yield from _named(setup, request, key)
    return address_key(request, setup) if found is None else found


def _named(setup: conf.Setup, request: Any, spec: KeySpec) -> Steps[str | None]:
    match spec.kind:
        case "ip":
            return address_key(request, setup)
        case "user" | "user_or_ip":
            return user_value((yield User(request)))
        case "org":
            return (yield from _organisation(setup, request))
        case "composite" | "template":
            parts: list[str] = []
            for part in spec.parts:
                parts.append(
                    part if isinstance(part, str) else (yield from _part(setup, request, part))
                )
            return joined(parts)
        case _:
            return named_value(setup, request, spec)


def _part(setup: conf.Setup, request: Any, spec: KeySpec) -> Steps[str]:
    found = yield from _named(setup, request, spec)
    return address_key(request, setup) if found is None else found


def named_value(setup: conf.Setup, request: Any, spec: KeySpec) -> str | None:
    """What a request carries under the name a key asks for; ``None`` when there is nothing.

    Headers and cookies may be secrets: they are hashed before they are counted.
    """
    name = spec.name
    match spec.kind:
        case "header":
            return _secret(f"header:{name.lower()}", request.META.get(meta_name(name)))
        case "api_key":
            hashed, _issued = key_of(setup.settings, setup.ruling, request)
            return None if hashed is None else f"api_key:{hashed}"
        case "cookie":
            return _secret(f"cookie:{name}", request.COOKIES.get(name))
        case "jwt":
            return _claim(setup, request, name)
        case "param":
            value = request.GET.get(name)
        case "post":
            value = _posted(request, name)
        case "global":
            return "global"
        case "method":
            return method_of(request.method)
        case "host":
            return _host(request)
        case _:  # "route": parse_key knows no others
            return route(request)
    return f"{spec}:{text(value)}" if value not in (None, "") else None


def _secret(label: str, value: str | None) -> str | None:
    return f"{label}:{hash_identity(text(value))}" if value else None


def _posted(request: Any, name: str) -> Any:
    """A field of a posted form; for REST framework of whatever body it has parsed."""
    data = getattr(request, "data", None)
    if data is None:
        data = request.POST
    value = data.get(name) if hasattr(data, "get") else None
    return value if isinstance(value, str | int) else None


def _claim(setup: conf.Setup, request: Any, name: str) -> str | None:
    verifier = setup.settings.jwt
    if verifier is None:
        raise ConfigError(
            f'the key "jwt:{name}" needs RATELIMIT_JWT: a claim counts only when its token has '
            "been verified"
        )
    token = verifier.token(request.META.get("HTTP_AUTHORIZATION"), request.COOKIES)
    value = verifier.claim(token, name)
    return None if value is None else f"jwt:{name}:{text(value)}"


def _host(request: Any) -> str:
    """The site that is asked for, in one spelling; of those that are not served, one for all.

    A client may write case and port as it likes, and any name at all.
    """
    try:
        return split_domain_port(request.get_host())[0]
    except DisallowedHost:
        return "other"


def _organisation(setup: conf.Setup, request: Any) -> Steps[str | None]:
    function = setup.settings.org
    if function is not None:
        value = yield Call("RATELIMIT_ORG", function, request)
    elif hasattr(request, "tenant"):
        value = request.tenant
    else:
        raise ConfigError(
            f"a limit on {request.path} counts by organisation, but the request has no tenant: "
            "set RATELIMIT_ORG to a function that names it"
        )
    value = getattr(value, "pk", value)
    return f"org:{text(value)}" if value not in (None, "") else None


def route(request: Any) -> str:
    """The route's template, such as ``items/<int:pk>/``; ``unmatched`` when no route was found."""
    match = getattr(request, "resolver_match", None)
    return "unmatched" if match is None else f"/{match.route}"


def user_value(user: Any) -> str | None:
    """The text for a user who is logged in; ``None`` for anybody else."""
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    return f"user:{user.pk}"
