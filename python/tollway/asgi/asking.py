"""Who is asking, and what it costs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from tollway import ConfigError, hash_identity
from tollway.asgi.wire import Scope, values
from tollway.identity import KeySpec, parse_key

Key = str | Callable[..., Any]
Cost = int | Callable[..., Any]

_KINDS: Final = ("ip", "user", "user_or_ip", "header", "param", "cookie", "global")


def read_key(key: Key) -> KeySpec | Callable[..., Any]:
    """A key as it was written, checked. Raises ConfigError on one that this door cannot read."""
    if callable(key):
        return key
    spec = parse_key(key)
    if spec.kind == "post":
        raise ConfigError(
            f"the key {key!r} needs the request's body, which ASGI hands out only once: "
            "pass an async function that reads it as key="
        )
    if spec.kind not in _KINDS:
        raise ConfigError(
            f"the key {key!r} is not served here: use {', '.join(_KINDS)}, or pass a function "
            "of the request as key="
        )
    return spec


def read_cost(cost: Cost) -> Cost:
    """A cost as it was written, checked."""
    if not callable(cost) and (isinstance(cost, bool) or cost < 1):
        raise ConfigError(f"cost={cost!r}: a cost is a whole number from 1, or a function of it")
    return cost


async def cost_of(cost: Cost, argument: object) -> int:
    """What a request costs: a number, or what a function of it says. 0 is free."""
    if not callable(cost):
        return cost
    value = await answered(cost(argument))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"the cost function {cost!r} returned {value!r}, not a whole number")
    return value


async def named(key: KeySpec | Callable[..., Any], scope: Scope, argument: object) -> str | None:
    """The text that is counted; ``None`` when the request lacks what the key asks for."""
    if callable(key):
        value = await answered(key(argument))
        return str(value) if value not in (None, "") else None
    return _named(key, scope)


async def answered(value: Any) -> Any:
    """What a function of the project returned, awaited when it is async."""
    return await value if inspect.isawaitable(value) else value


def _named(key: KeySpec, scope: Scope) -> str | None:
    name = key.name
    match key.kind:
        case "header":
            value = next(values(scope, name.lower().encode("latin-1", "replace")), None)
            return f"header:{name.lower()}:{hash_identity(value)}" if value else None
        case "cookie":
            value = _cookie(scope, name)
            return f"cookie:{name}:{hash_identity(value)}" if value else None
        case "param":
            query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
            value = next((given for asked, given in query if asked == name), None)
            return f"param:{name}:{value}" if value else None
        case "user" | "user_or_ip":
            return _user(scope)
        case "global":
            return "global"
    return None


def _cookie(scope: Scope, name: str) -> str | None:
    for line in values(scope, b"cookie"):
        for pair in line.split(";"):
            asked, _, value = pair.strip().partition("=")
            if asked == name:
                return value
    return None


_USER_NAMES: Final = ("pk", "id", "identity", "username", "display_name")


def _user(scope: Scope) -> str | None:
    if "user" not in scope:
        raise ConfigError(
            "a limit counts by user, but nothing has put a user into the ASGI scope: add an "
            "authentication middleware outside the limit, or pass a function as key="
        )
    user = scope["user"]
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    return f"user:{user_id(user)}"


def user_id(user: Any) -> str:
    """What tells a user from others."""
    for name in _USER_NAMES:
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # what Starlette's BaseUser says of a name it does not have
            continue
        if value not in (None, ""):
            return str(value)
    raise ConfigError(
        f"the user {type(user).__name__} has none of {', '.join(_USER_NAMES)}: "
        "pass a function as key="
    )
