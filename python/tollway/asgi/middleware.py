"""The middleware: limits whatever passes through it, and writes the headers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tollway import ConfigError, Decision, Limiter, Policy
from tollway.asgi.addresses import Addresses
from tollway.asgi.answering import Body, decision_headers, read_body, refuse, with_headers
from tollway.asgi.asking import Cost
from tollway.asgi.extractors import Key
from tollway.asgi.limits import Policies, RouteLimit, Stack, charges_of, check, refuse_twins
from tollway.asgi.passage import Facts, Passage
from tollway.asgi.wire import ASGIApp, Message, Receive, Scope, Send, inner_path
from tollway.errors import StoreError
from tollway.rules import Rules
from tollway.tokens import Verifier


class LimiterMiddleware:
    """Limit every request and WebSocket upgrade of an ASGI application.

    ``limiter`` is where counts are kept (default: :func:`get_limiter`), ``policy`` a
    :class:`tollway.Policy`, a rate such as ``"100/m"``, or a list of these, checked together;
    without one it is the limiter's default policy. With neither the middleware limits nothing and
    writes the headers of the limits checked further in.

    ``key`` is ``"ip"``, ``"user"``, ``"api_key"``, ``"header:X"`` and so on, a :func:`compose` of
    several, or a function of the scope, async if need be; ``cost`` a number or such a function.
    ``exclude_paths`` are globs, ``exclude_methods`` methods that are never limited, and ``skip_if``
    is a function of the scope that says so of a request. ``trusted_proxies``, ``proxy_hops`` and
    ``ipv6_prefix`` are those of :func:`set_limiter`, for this application, and so are ``rules``,
    ``facts`` and ``verifier``, for what lies further in,
    too. ``body`` is how refusals are worded, see
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
        verifier: Verifier | None = None,
        body: Body | None = None,
        messages: Policies | Sequence[Policies] | None = None,
        skip_if: Callable[..., Any] | None = None,
    ) -> None:
        if policy is None and limiter is not None:
            policy = limiter.default_policy
        self.app = app
        self._stack: Stack | None = None
        if policy is not None:
            self._stack = Stack([RouteLimit(policy, limiter, cost, key, "policy", None, skip_if)])
        elif rules is not None:
            self._stack = Stack([_ByRules(None, limiter, cost, key, "policy", None, skip_if)])
        self._messages: RouteLimit | None = None
        if messages is not None:
            self._messages = _PerMessage(messages, limiter, 1, key, "route", None)
            refuse_twins("", [self._messages])
        self._excludes = Excludes(exclude_paths, exclude_methods)
        address = None
        if trusted_proxies is not None or proxy_hops or ipv6_prefix != 64:
            address = Addresses(trusted_proxies or (), proxy_hops, ipv6_prefix)
        told = {
            "address": address,
            "rules": rules,
            "facts": facts,
            "verifier": verifier,
            "body": None if body is None else read_body(body),
        }
        self._told = {name: value for name, value in told.items() if value is not None}
        self._headers = partial(decision_headers, x_headers=x_headers, ietf=ietf_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        passage = Passage.of(scope)
        if self._told:
            vars(passage).update(self._told)
        if not self._excludes.holds(scope):
            if self._stack is not None:
                answer = await self._stack.turned_away(scope, scope, "")
                if answer is not None:
                    await refuse(scope, receive, send, answer)
                    return
            if self._messages is not None and scope["type"] == "websocket":
                receive, send = self._with_limited_messages(self._messages, scope, receive, send)
        await self.app(scope, receive, with_headers(passage, send, self._headers))

    def _with_limited_messages(
        self, limit: RouteLimit, scope: Scope, receive: Receive, send: Send
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
                charges = await charges_of([limit], scope, scope, "")
                decision = await check(limit.own_limiter(), charges, scope)
            except StoreError:  # the limiter has told the log
                code, reason = 1013, "requests cannot be counted"
            else:
                if decision.allowed:
                    return message
                code, reason = 1008, _why(decision)
            closed = {"type": "websocket.disconnect", "code": code, "reason": reason}
            with suppress(OSError):  # the client is gone already: the application is told so
                await send({"type": "websocket.close", "code": code, "reason": reason})
            return closed

        async def open_send(message: Message) -> None:
            if closed is None:  # to a client that is gone nothing is sent
                await send(message)

        return limited_receive, open_send


def _why(decision: Decision) -> str:
    """Why a connection is closed, in the 123 bytes that there are for it."""
    if decision.status == 403:
        return "denied"
    seconds = decision.retry_after_seconds
    return f"rate limited, try again in {seconds} s" if seconds else "rate limited"


class _ByRules(RouteLimit):
    """No limit of its own, but what rules say of a path."""

    def own_policies(self) -> tuple[Policy, ...]:
        return ()


class _PerMessage(RouteLimit):
    """Counts messages, and never together with the requests that a policy of that name counts."""

    def counted(self, policy: Policy, route: str) -> Policy:
        return super().counted(policy, "messages")


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
