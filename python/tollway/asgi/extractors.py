"""Who is asking: a key as it was written becomes a function that names whom to count.

A request that lacks what its key asks for is counted by its client address, never in one count
with all others that lack it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from tollway import ConfigError, hash_identity
from tollway.asgi.asking import answered, user_id
from tollway.asgi.passage import Passage, address_rule, facts_of, verifier_of
from tollway.asgi.wire import Scope, cookies, header
from tollway.identity import KeySpec, host_of, joined, method_of, parse_key, text

Key = str | Callable[..., Any]
"""A key as people write it: a text such as ``"api_key"``, :func:`compose`, or a function."""

Extractor = Callable[[Scope, Any], Any]
"""Given the scope and what key functions are given, answers with the text that is counted, with
``None`` when the request lacks it, or with an awaitable of these."""


class Composed:
    """Several keys that are counted together. Made by :func:`compose`."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.parts = tuple(extractor(key) for key in keys)
        self.waits = any(waits(key) for key in keys)

    async def __call__(self, scope: Scope, argument: Any) -> str:
        """The texts of the parts, as one."""
        return joined([await identified(part, scope, argument) for part in self.parts])


def compose(*keys: Key) -> Composed:
    """A key of several: ``compose("api_key", "ip")``, functions among them.

    A part that a request lacks is counted by its address. Different parts never become one count.

    >>> compose("user", lambda request: request["path"]).waits
    True

    Raises:
        ConfigError: when there are fewer than two keys, or one does not read.
    """
    if len(keys) < 2:
        raise ConfigError('compose() needs two keys or more: write compose("user", "ip")')
    return Composed(keys)


def waits(key: Key | Composed | None) -> bool:
    """Whether a function has its say, which may need what others before it leave."""
    return key.waits if isinstance(key, Composed) else callable(key)


def extractor(key: Key) -> Extractor:
    """A key as it was written, ready to be asked.

    Raises ConfigError on one that this door cannot read.
    """
    if isinstance(key, Composed):
        return key
    if callable(key):
        return _function(key)
    return _of_spec(parse_key(key))


async def identified(extract: Extractor, scope: Scope, argument: Any) -> str:
    """The text that is counted for a request."""
    found = extract(scope, argument)
    return found if found.__class__ is str and found else await settled(found, scope)


async def settled(found: Any, scope: Scope) -> str:
    """What an extractor answered as text, the client's address in place of nothing."""
    value = await answered(found)
    told = "" if value is None else text(value)
    return told or address_rule(scope).key(scope)


def _function(key: Callable[..., Any]) -> Extractor:
    def ask(scope: Scope, argument: Any) -> Any:
        found = key(argument)
        return text(found) if found.__class__ is str else found

    return ask


@lru_cache(maxsize=1024)
def _of_spec(spec: KeySpec) -> Extractor:
    match spec.kind:
        case "composite" | "template":
            return _joined(spec)
        case "header":
            return _header(spec.name)
        case "post":
            raise ConfigError(
                f'the key "{spec}" needs the request\'s body, which ASGI hands out only once: '
                "pass an async function that reads it as key="
            )
        case "param" | "cookie" | "jwt":
            ask = _NAMED[spec.kind]
            name = spec.name
            return lambda scope, argument: ask(name, scope)
        case kind:  # parse_key knows no others
            return _PLAIN[kind]


def _joined(spec: KeySpec) -> Extractor:
    parts = [part if isinstance(part, str) else _of_spec(part) for part in spec.parts]

    async def ask(scope: Scope, argument: Any) -> str:
        return joined(
            [
                part if isinstance(part, str) else await identified(part, scope, argument)
                for part in parts
            ]
        )

    return ask


def _header(name: str) -> Extractor:
    wire_name, label = name.lower().encode("latin-1", "replace"), f"header:{name.lower()}"

    def ask(scope: Scope, argument: Any) -> str | None:
        value = header(scope, wire_name)
        return f"{label}:{hash_identity(value)}" if value else None

    return ask


def _cookie(name: str, scope: Scope) -> str | None:
    value = cookies(scope).get(name)
    return f"cookie:{name}:{hash_identity(value)}" if value else None


def _param(name: str, scope: Scope) -> str | None:
    query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
    told = {given for asked, given in query if asked == name}
    # Of two, some frameworks take the first and some the last.
    return f"param:{name}:{told.pop()}" if len(told) == 1 else None


def _claim(name: str, scope: Scope) -> str | None:
    verifier = verifier_of(scope)
    if verifier is None:
        raise ConfigError(
            f'the key "jwt:{name}" needs verifier=tollway.tokens.Verifier(…), in the middleware or '
            "in set_limiter(): a claim counts only when its token has been verified"
        )
    token = verifier.token(header(scope, b"authorization"), cookies(scope))
    value = verifier.claim(token, name)
    return None if value is None else f"jwt:{name}:{text(value)}"


def _address(scope: Scope, argument: Any) -> str:
    return address_rule(scope).key(scope)


def _everybody(scope: Scope, argument: Any) -> str:
    return "global"


async def _told(scope: Scope, name: str) -> str | None:
    """What the facts say, if there are any."""
    facts = facts_of(scope)
    value = None if facts is None else (await answered(facts(scope))).get(name)
    return None if value in (None, "") else text(value)


async def _user(scope: Scope, argument: Any) -> str | None:
    told = await _told(scope, "user")
    if told is not None:
        return f"user:{told}"
    if "user" not in scope:
        if facts_of(scope) is not None:
            return None
        raise ConfigError(
            "a limit counts by user, but nothing has put a user into the ASGI scope: add an "
            "authentication middleware outside the limit, tell facts=, or pass a function as key="
        )
    user = scope["user"]
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    return f"user:{user_id(user)}"


async def _api_key(scope: Scope, argument: Any) -> str | None:
    value = await _told(scope, "key") or header(scope, b"x-api-key")
    return f"api_key:{hash_identity(value)}" if value else None


async def _organisation(scope: Scope, argument: Any) -> str | None:
    if facts_of(scope) is None:
        raise ConfigError(
            "a limit counts by organisation, which only you can tell: give facts=, a function of "
            'the scope that returns {"org": …}, to the middleware or to set_limiter()'
        )
    told = await _told(scope, "org")
    return None if told is None else f"org:{told}"


def _method(scope: Scope, argument: Any) -> str:
    return method_of(str(scope.get("method", "GET")))


def _host(scope: Scope, argument: Any) -> str:
    return host_of(header(scope, b"host") or "")


def _route(scope: Scope, argument: Any) -> str:
    route = Passage.of(scope).route
    if route is None:
        raise ConfigError(
            "a key asks for {route}, but this limit is asked before any routing: write it on "
            "routes, or use {method} and a function of the scope"
        )
    return route


_NAMED: Final = {"param": _param, "cookie": _cookie, "jwt": _claim}
_PLAIN: Final[dict[str, Extractor]] = {
    "ip": _address,
    "user": _user,
    "user_or_ip": _user,
    "api_key": _api_key,
    "org": _organisation,
    "global": _everybody,
    "method": _method,
    "host": _host,
    "route": _route,
}
