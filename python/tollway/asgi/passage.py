"""One request on its way through an application, and the limiter that is asked about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tollway import ClientAddress, ConfigError, Decision, Limiter
from tollway.answer import tightest
from tollway.asgi.answering import Body, read_body
from tollway.asgi.asking import answered, named, user_id
from tollway.asgi.wire import Scope, hops, inner_path
from tollway.identity import KeySpec
from tollway.rules import Rules, Subject

Facts = Callable[[Scope], Any]
"""Tells what the door cannot know: a dict of ``user``, ``key``, ``org``, ``tier``."""

log = logging.getLogger("tollway.asgi")

_SCOPE_KEY: Final = "tollway"


@dataclass(frozen=True, slots=True)
class _Default:
    limiter: Limiter
    address: ClientAddress
    ruled: Ruled | None = None
    body: Body = "problem"


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
        told = {} if self.facts is None else await answered(self.facts(scope))
        user = scope.get("user")
        if "user" not in told and getattr(user, "is_authenticated", False):
            told = {**told, "user": user_id(user)}
        return Subject(
            address=address_rule(scope).resolve(*hops(scope)),
            method=scope.get("method", "GET"),
            path=inner_path(scope),
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
    body: Body = "problem",
) -> None:
    """Make ``limiter`` the one that is used where none is named, and say which proxies to trust.

    ``trusted_proxies`` are networks (``"10.0.0.0/8"``) whose ``X-Forwarded-For`` is believed;
    by default nobody's is. ``proxy_hops`` believes that many proxies, whatever their address.
    ``ipv6_prefix`` is how many bits of an IPv6 address are one client. ``rules`` say who gets
    which limit; ``facts`` is a function of the scope, async if need be, that tells them what the
    door cannot know: a dict with any of ``user``, ``key``, ``org`` and ``tier``. ``body`` is how a
    refusal is worded where nothing else is said: see :data:`tollway.asgi.Body`.
    """
    global _default
    address = ClientAddress(trusted_proxies, proxy_hops, ipv6_prefix)
    _default = _Default(limiter, address, Ruled.by(rules, facts), read_body(body))


def get_limiter() -> Limiter:
    """The default limiter: that of :func:`set_limiter`, else one of this process' own memory."""
    return _defaults().limiter


def _defaults() -> _Default:
    global _default
    if _default is None:
        log.info("no limiter was set: counting in the memory of this process; see set_limiter()")
        _default = _Default(Limiter("memory://"), ClientAddress())
    return _default


class Passage:
    """What is known of one request: the decision that speaks, and how to find its client.

    It lies in ``scope["tollway"]``, so that a limit checked deep inside an application reaches
    the answer's headers without the handler's help.
    """

    __slots__ = ("address", "answers", "asked", "body", "decision", "ruled")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.address: ClientAddress | None = None
        self.ruled: Ruled | None = None
        self.body: Body | None = None
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
    return address_rule(scope).resolve(*hops(scope))


def address_rule(scope: Scope) -> ClientAddress:
    """How the client's address is found: as the middleware around says, else the default."""
    return Passage.of(scope).address or _defaults().address


def body_of(scope: Scope) -> Body:
    """How a refusal is worded: as the middleware around says, else the default."""
    return Passage.of(scope).body or ("problem" if _default is None else _default.body)


async def identify(key: KeySpec | Callable[..., Any], scope: Scope, argument: object) -> str:
    """The text that is counted for a request. ``argument`` is what a key function is given.

    A request that lacks what the key asks for is counted by its client address.
    """
    found = await named(key, scope, argument)
    return address_rule(scope).key(*hops(scope)) if found is None else found


async def ruling(scope: Scope) -> tuple[Rules, Subject] | None:
    """The rules for a request, and who asks; ``None`` where there are no rules."""
    passage = Passage.of(scope)
    ruled = passage.ruled or (None if _default is None else _default.ruled)
    if ruled is None:
        return None
    subject = await ruled.subject(scope, passage)
    passage.asked = True
    return ruled.rules, subject
