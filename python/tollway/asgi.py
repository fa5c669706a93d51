"""Rate limits for any ASGI application: FastAPI, Starlette, Litestar, Quart, Django.

:class:`LimiterMiddleware` speaks plain ASGI and imports no framework::

    app = LimiterMiddleware(app, Limiter("redis://127.0.0.1:6379/0"), "100/m")

It limits HTTP requests and WebSocket upgrades, and writes the headers of every answer that passes
through it, those of limits checked further in included.
"""

from __future__ import annotations

import fnmatch
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from tollway import ClientAddress, ConfigError, Decision, Limiter, Policy, Rate, hash_identity
from tollway.answer import (
    PROBLEM_JSON,
    UNAVAILABLE_SECONDS,
    policy_name,
    tightest,
    unavailable_problem,
)
from tollway.errors import StoreError
from tollway.identity import KeySpec, parse_key
from tollway.rules import Rules, Subject

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Policies = Policy | Rate | str
"""A policy, or a rate that becomes one named after itself."""
Key = str | Callable[..., Any]
Cost = int | Callable[..., Any]
Facts = Callable[[Scope], Any]
"""Tells what the door cannot know: a dict of ``user``, ``key``, ``org``, ``tier``."""
Headers = list[tuple[bytes, bytes]]

log = logging.getLogger("tollway.asgi")

_SCOPE_KEY: Final = "tollway"
_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")


# -- the default limiter ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Default:
    limiter: Limiter
    address: ClientAddress
    ruled: Ruled | None = None


@dataclass(frozen=True, slots=True)
class Ruled:
    """Rules, and what tells them the facts."""

    rules: Rules
    facts: Facts | None

    @classmethod
    def by(cls, rules: Rules | None, facts: Facts | None) -> Ruled | None:
        """These rules, if there are any."""
        if rules is None and facts is not None:
            raise ConfigError("facts= tells rules who is asking: give rules= too")
        return None if rules is None else cls(rules, facts)

    async def subject(self, scope: Scope, passage: Passage) -> Subject:
        """Who is asking: what the scope says, and what the facts add."""
        told = {} if self.facts is None else await _answered(self.facts(scope))
        user = scope.get("user")
        if "user" not in told and getattr(user, "is_authenticated", False):
            told = {**told, "user": _user_id(user)}
        return Subject(
            address=_address_rule(scope).resolve(*_hops(scope)),
            method=scope.get("method", "GET"),
            path=_path(scope),
            path_charged=passage.asked,
            **told,
        )


_default: _Default | None = None


def set_limiter(
    limiter: Limiter,
    *,
    trusted_proxies: Sequence[str] = (),
    proxy_hops: int = 0,
    ipv6_prefix: int = 64,
    rules: Rules | None = None,
    facts: Facts | None = None,
) -> None:
    """Make ``limiter`` the one that is used where none is named, and say which proxies to trust.

    ``trusted_proxies`` are networks (``"10.0.0.0/8"``) whose ``X-Forwarded-For`` is believed;
    by default nobody's is. ``proxy_hops`` believes that many proxies, whatever their address.
    ``ipv6_prefix`` is how many bits of an IPv6 address are one client. ``rules`` say who gets
    which limit; ``facts`` is a function of the scope, async if need be, that tells them what the
    door cannot know: a dict with any of ``user``, ``key``, ``org`` and ``tier``.
    """
    global _default
    address = ClientAddress(trusted_proxies, proxy_hops, ipv6_prefix)
    _default = _Default(limiter, address, Ruled.by(rules, facts))


def get_limiter() -> Limiter:
    """The default limiter: that of :func:`set_limiter`, else one of this process' own memory."""
    return _defaults().limiter


def _defaults() -> _Default:
    global _default
    if _default is None:
        log.info("no limiter was set: counting in the memory of this process; see set_limiter()")
        _default = _Default(Limiter("memory://"), ClientAddress())
    return _default


# -- one request -----------------------------------------------------------------------------


class Passage:
    """What is known of one request: the decision that speaks, and how to find its client.

    It lies in ``scope["tollway"]``, so that a limit checked deep inside an application reaches
    the answer's headers without the handler's help.
    """

    __slots__ = ("address", "answers", "asked", "decision", "ruled")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.address: ClientAddress | None = None
        self.ruled: Ruled | None = None
        self.asked = False
        self.answers: dict[object, Decision] = {}

    @classmethod
    def of(cls, scope: Scope) -> Passage:
        """The passage of a request, made at the first question."""
        found = scope.get(_SCOPE_KEY)
        if not isinstance(found, cls):
            found = scope[_SCOPE_KEY] = cls()
        return found

    def note(self, decision: Decision) -> None:
        """Take in one more decision; of several the tightest speaks."""
        self.decision = tightest(self.decision, decision)


def rate_limit_of(scope: Scope) -> Decision | None:
    """The decision that speaks for a request so far; ``None`` when no limit was checked."""
    found = scope.get(_SCOPE_KEY)
    return found.decision if isinstance(found, Passage) else None


def client_ip(scope: Scope) -> str:
    """The client's address: the peer, or what a trusted proxy says about it."""
    return _address_rule(scope).resolve(*_hops(scope))


def _address_rule(scope: Scope) -> ClientAddress:
    return Passage.of(scope).address or _defaults().address


def _hops(scope: Scope) -> tuple[str | None, list[str], list[str]]:
    client = scope.get("client")
    return (
        client[0] if client else None,
        list(_values(scope, b"x-forwarded-for")),
        list(_values(scope, b"forwarded")),
    )


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for header, value in scope["headers"] if header == name)


# -- who is asking ---------------------------------------------------------------------------


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


async def identify(key: KeySpec | Callable[..., Any], scope: Scope, argument: object) -> str:
    """The text that is counted for a request. ``argument`` is what a key function is given.

    A request that lacks what the key asks for is counted by its client address.
    """
    if callable(key):
        value = await _answered(key(argument))
        named = str(value) if value not in (None, "") else None
    else:
        named = _named(key, scope)
    return _address_rule(scope).key(*_hops(scope)) if named is None else named


def read_cost(cost: Cost) -> Cost:
    """A cost as it was written, checked."""
    if not callable(cost) and (isinstance(cost, bool) or cost < 1):
        raise ConfigError(f"cost={cost!r}: a cost is a whole number from 1, or a function of it")
    return cost


async def cost_of(cost: Cost, argument: object) -> int:
    """What a request costs: a number, or what a function of it says. 0 is free."""
    if not callable(cost):
        return cost
    value = await _answered(cost(argument))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"the cost function {cost!r} returned {value!r}, not a whole number")
    return value


async def _answered(value: Any) -> Any:
    """What a function of the project returned, awaited when it is async."""
    return await value if inspect.isawaitable(value) else value


def _named(key: KeySpec, scope: Scope) -> str | None:
    name = key.name
    match key.kind:
        case "header":
            value = next(_values(scope, name.lower().encode("latin-1", "replace")), None)
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
    for line in _values(scope, b"cookie"):
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
    return f"user:{_user_id(user)}"


def _user_id(user: Any) -> str:
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


# -- what is answered ------------------------------------------------------------------------


def decision_headers(decision: Decision, *, x_headers: bool = True, ietf: bool = True) -> Headers:
    """A decision's headers as ASGI wants them."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in decision.headers(x_headers, ietf)
    ]


def refusal(decision: Decision) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal in problem+json: 429, or 403 when rules deny."""
    body = decision.problem()
    return decision.status, [*_content(body), *decision_headers(decision)], body


def unavailable() -> tuple[int, Headers, bytes]:
    """Status, headers and body of a 503: the store is away and the fail mode is "closed"."""
    body = unavailable_problem()
    retry = (b"retry-after", str(UNAVAILABLE_SECONDS).encode())
    return 503, [*_content(body), retry], body


def _content(body: bytes) -> Headers:
    return [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
    ]


async def _refuse(
    scope: Scope, receive: Receive, send: Send, answer: tuple[int, Headers, bytes]
) -> None:
    status, headers, body = answer
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect: nothing may be sent before it
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            # The server turns a close before the accept into a 403.
            await send({"type": "websocket.close", "code": 1008, "reason": "rate limited"})
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


# -- the middleware --------------------------------------------------------------------------


def as_policies(stated: Policies | Sequence[Policies]) -> tuple[Policy, ...]:
    """Policies from what a person wrote; a bare rate is named after itself."""
    items = [stated] if isinstance(stated, Policy | Rate | str) else list(stated)
    if not items:
        raise ConfigError('no policy was given; write one like limit("100/m")')
    return tuple(
        item if isinstance(item, Policy) else Policy(policy_name(str(item)), [item])
        for item in items
    )


class LimiterMiddleware:
    """Limit every request and WebSocket upgrade of an ASGI application.

    ``limiter`` is where counts are kept (default: :func:`get_limiter`), ``policy`` a
    :class:`tollway.Policy`, a rate such as ``"100/m"``, or a list of these, checked together;
    without one it is the limiter's default policy. With neither the middleware limits nothing and
    writes the headers of the limits checked further in.

    ``key`` is ``"ip"``, ``"user"``, ``"header:X"``, ``"param:x"``, ``"cookie:x"`` or a function
    of the scope, async if need be; ``cost`` a number or such a function. ``exclude_paths`` are
    globs, ``exclude_methods`` methods that are never limited. ``trusted_proxies``, ``proxy_hops``
    and ``ipv6_prefix`` are those of :func:`set_limiter`, for this application, and so are ``rules``
    and ``facts``, for what lies further in, too.

    The application is called once whatever it raises, outside of anything that could catch it.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: Limiter | None = None,
        policy: Policies | Sequence[Policies] | None = None,
        *,
        key: Key | None = None,
        cost: Cost = 1,
        exclude_paths: Iterable[str] = (),
        exclude_methods: Iterable[str] = ("OPTIONS",),
        trusted_proxies: Sequence[str] | None = None,
        proxy_hops: int = 0,
        ipv6_prefix: int = 64,
        x_headers: bool = True,
        ietf_headers: bool = True,
        rules: Rules | None = None,
        facts: Facts | None = None,
    ) -> None:
        if policy is None and limiter is not None:
            policy = limiter.default_policy
        self.app = app
        self.limiter = limiter
        self.policies = () if policy is None else as_policies(policy)
        self.cost = read_cost(cost)
        self._keys = [read_key(key or item.key or "ip") for item in self.policies]
        self._excluded_paths = _globs(exclude_paths)
        self._excluded_methods = frozenset(method.upper() for method in exclude_methods)
        self._address = (
            ClientAddress(trusted_proxies or (), proxy_hops, ipv6_prefix)
            if trusted_proxies is not None or proxy_hops or ipv6_prefix != 64
            else None
        )
        self._ruled = Ruled.by(rules, facts)
        self._fields = {"x_headers": x_headers, "ietf": ietf_headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        passage = Passage.of(scope)
        if self._address is not None:
            passage.address = self._address
        if self._ruled is not None:
            passage.ruled = self._ruled
        if (self.policies or self._ruled is not None) and not self._excluded(scope):
            answer = await self._turned_away(scope, passage)
            if answer is not None:
                await _refuse(scope, receive, send, answer)
                return
        await self.app(scope, receive, self._with_headers(passage, send))

    async def _turned_away(
        self, scope: Scope, passage: Passage
    ) -> tuple[int, Headers, bytes] | None:
        cost = await cost_of(self.cost, scope)
        charges = [
            (policy, await identify(key, scope, scope), cost)
            for policy, key in zip(self.policies, self._keys, strict=True)
        ]
        try:
            decision = await check(self.limiter or get_limiter(), charges, scope)
        except StoreError:  # the limiter has told the log
            return unavailable()
        passage.note(decision)
        return None if decision.allowed else refusal(decision)

    def _excluded(self, scope: Scope) -> bool:
        if scope.get("method") in self._excluded_methods:
            return True
        if self._excluded_paths is None:
            return False
        return self._excluded_paths.match(_path(scope)) is not None

    def _with_headers(self, passage: Passage, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS and passage.decision is not None:
                own = decision_headers(passage.decision, **self._fields)
                if message.get("status", 101) < 400:
                    own = [(name, value) for name, value in own if name != b"retry-after"]
                names = {name for name, _ in own}
                kept = [item for item in message.get("headers", ()) if item[0].lower() not in names]
                message = {**message, "headers": kept + own}
            await send(message)

        return send_with_headers


async def check(
    limiter: Limiter, charges: Sequence[tuple[Policy, str, int]], scope: Scope
) -> Decision:
    """Ask a limiter, by the rules if there are any, all or nothing, in one round trip."""
    passage = Passage.of(scope)
    ruled = passage.ruled or (None if _default is None else _default.ruled)
    if ruled is not None:
        subject = await ruled.subject(scope, passage)
        passage.asked = True
        return await ruled.rules.acheck(limiter, charges, subject)
    if len(charges) == 1:
        return await limiter.acheck(*charges[0])
    return await limiter.acheck_all(charges)


def _path(scope: Scope) -> str:
    """The path inside the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def _globs(patterns: Iterable[str]) -> re.Pattern[str] | None:
    if isinstance(patterns, str):
        raise ConfigError(f'exclude_paths={patterns!r}: write a list such as ["/docs*"]')
    expressions = [fnmatch.translate(pattern) for pattern in patterns]
    return re.compile("|".join(expressions)) if expressions else None
