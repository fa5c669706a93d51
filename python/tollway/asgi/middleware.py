"""The middleware: limits whatever passes through it, and writes the headers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from tollway import ClientAddress, ConfigError, Decision, Limiter, Policy
from tollway.asgi.answering import (
    Answer,
    Body,
    decision_headers,
    read_body,
    refusal,
    refuse,
    unavailable,
)
from tollway.asgi.asking import Cost, Key, cost_of, read_cost, read_key
from tollway.asgi.limits import Policies, as_policies, check
from tollway.asgi.passage import Facts, Passage, Ruled, body_of, get_limiter, identify
from tollway.asgi.wire import ASGIApp, Message, Receive, Scope, Send, inner_path
from tollway.errors import StoreError
from tollway.identity import KeySpec
from tollway.rules import Rules

_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")

Charged = list[tuple[Policy, KeySpec | Callable[..., Any]]]


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
    and ``facts``, for what lies further in, too. ``body`` is how refusals are worded, see
    :data:`tollway.asgi.Body`. ``messages`` are policies for each message of a WebSocket; at the
    first one too many the connection is closed with code 1008, counted by the same ``key``.

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
        body: Body | None = None,
        messages: Policies | Sequence[Policies] | None = None,
    ) -> None:
        if policy is None and limiter is not None:
            policy = limiter.default_policy
        self.app = app
        self.limiter = limiter
        self.policies = () if policy is None else as_policies(policy)
        self.cost = read_cost(cost)
        self.messages = () if messages is None else as_policies(messages)
        self._charged = [(item, read_key(key or item.key or "ip")) for item in self.policies]
        self._charged_messages = [
            (item, read_key(key or item.key or "ip")) for item in self.messages
        ]
        self._limits = bool(self.policies or self.messages or rules is not None)
        self._body = None if body is None else read_body(body)
        self._excludes = Excludes(exclude_paths, exclude_methods)
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
        if self._body is not None:
            passage.body = self._body
        if self._limits and not self._excludes.holds(scope):
            answer = await self._turned_away(scope, passage)
            if answer is not None:
                await refuse(scope, receive, send, answer)
                return
            if self.messages and scope["type"] == "websocket":
                receive, send = self._with_limited_messages(scope, receive, send)
        await self.app(scope, receive, self._with_headers(passage, send))

    async def _turned_away(self, scope: Scope, passage: Passage) -> Answer | None:
        if not self.policies and self._ruled is None:
            return None
        try:
            decision = await self._checked(self._charged, await cost_of(self.cost, scope), scope)
        except StoreError:  # the limiter has told the log
            return unavailable()
        passage.note(decision)
        return None if decision.allowed else refusal(decision, scope, body_of(scope))

    async def _checked(self, charged: Charged, cost: int, scope: Scope) -> Decision:
        charges = [(policy, await identify(key, scope, scope), cost) for policy, key in charged]
        return await check(self.limiter or get_limiter(), charges, scope)

    def _with_limited_messages(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Receive, Send]:
        """Close the connection at the first message too many; the application is told so."""
        closed: Message | None = None

        async def limited_receive() -> Message:
            nonlocal closed
            if closed is not None:
                return closed
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            try:
                decision = await self._checked(self._charged_messages, 1, scope)
            except StoreError:  # the limiter has told the log
                code, reason = 1013, "requests cannot be counted"
            else:
                if decision.allowed:
                    return message
                code = 1008
                reason = f"rate limited, try again in {decision.retry_after_seconds} s"
            closed = {"type": "websocket.disconnect", "code": code, "reason": reason}
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return closed

        async def open_send(message: Message) -> None:
            if closed is None:  # to a client that is gone nothing is sent
                await send(message)

        return limited_receive, open_send

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


class Excludes:
    """Paths and methods that are never limited."""

    def __init__(self, paths: Iterable[str], methods: Iterable[str]) -> None:
        if isinstance(paths, str):
            raise ConfigError(f'exclude_paths={paths!r}: write a list such as ["/docs*"]')
        if isinstance(methods, str):
            raise ConfigError(f'exclude_methods={methods!r}: write a list such as ["OPTIONS"]')
        expressions = [fnmatch.translate(pattern) for pattern in paths]
        self._paths = re.compile("|".join(expressions)) if expressions else None
        self._methods = frozenset(method.upper() for method in methods)

    def holds(self, scope: Scope) -> bool:
        """Whether this request is one of them."""
        if scope.get("method") in self._methods:
            return True
        return self._paths is not None and self._paths.match(inner_path(scope)) is not None
