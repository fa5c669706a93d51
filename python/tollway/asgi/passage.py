"""One request on its way through an application, and the limiter that is asked about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tollway import Decision, Limiter
from tollway.answer import tightest
from tollway.asgi.addresses import Addresses
from tollway.asgi.answering import Body, read_body
from tollway.asgi.asking import answered, user_id
from tollway.asgi.wire import Scope, inner_path
from tollway.rules import Rules, Subject
from tollway.tokens import Verifier

Facts = Callable[[Scope], Any]
"""Tells what the door cannot know: a dict of ``user``, ``key``, ``org``, ``tier``."""

log = logging.getLogger("tollway.asgi")

_SCOPE_KEY: Final = "tollway"


@dataclass(frozen=True, slots=True)
class _Default:
    limiter: Limiter
    address: Addresses
    rules: Rules | None = None
    facts: Facts | None = None
    verifier: Verifier | None = None
    body: Body = "problem"


_default: _Default | None = None


def set_limiter(
    limiter: Limiter,
    *,
    trusted_proxies: Sequence[str] = (),
    proxy_hops: int = 0,
    ipv6_prefix: int = 64,
    rules: Rules | None = None,
    facts: Facts | None = None,
    verifier: Verifier | None = None,
    body: Body = "problem",
) -> None:
    """Make ``limiter`` the one that is used where none is named, and say which proxies to trust.

    ``trusted_proxies`` are networks (``"10.0.0.0/8"``) whose ``X-Forwarded-For`` is believed;
    by default nobody's is. ``proxy_hops`` believes that many proxies, whatever their address.
    ``ipv6_prefix`` is how many bits of an IPv6 address are one client. ``rules`` say who gets
    which limit; ``facts`` is a function of the scope, async if need be, that tells them and keys
    such as ``"org"`` what the door cannot know: a dict with any of ``user``, ``key``, ``org`` and
    ``tier``. ``verifier`` verifies the tokens of keys such as ``"jwt:sub"``. ``body`` is how a
    refusal is worded where nothing else is said: see :data:`tollway.asgi.Body`.
    """
    global _default
    address = Addresses(trusted_proxies, proxy_hops, ipv6_prefix)
    _default = _Default(limiter, address, rules, facts, verifier, read_body(body))


def get_limiter() -> Limiter:
    """The default limiter: that of :func:`set_limiter`, else one of this process' own memory."""
    global _default
    if _default is None:
        log.info("no limiter was set: counting in the memory of this process; see set_limiter()")
        _default = _Default(Limiter("memory://"), _UNTRUSTING)
    return _default.limiter


_UNTRUSTING: Final = Addresses()


class Passage:
    """What is known of one request: the decision that speaks, and how to find its client.

    It lies in ``scope["tollway"]``, so that a limit checked deep inside an application reaches
    the answer's headers without the handler's help.
    """

    # What most requests leave as it is stands on the class: making one is on everybody's way.
    decision: Decision | None = None
    address: Addresses | None = None
    rules: Rules | None = None
    facts: Facts | None = None
    verifier: Verifier | None = None
    body: Body | None = None
    route: str | None = None
    asked = False

    @cached_property
    def answers(self) -> dict[object, Decision]:
        """The decisions of limits that were checked already."""
        return {}

    @classmethod
    def of(cls, scope: Scope) -> Passage:
        """The passage of a request, made at the first question."""
        found: Passage | None = scope.get(_SCOPE_KEY)
        if found is None:
            found = scope[_SCOPE_KEY] = cls()
        return found

    def note(self, decision: Decision) -> None:
        """Take in one more decision; of several the tightest speaks."""
        before = self.decision
        self.decision = decision if before is None else tightest(before, decision)


def rate_limit_of(scope: Scope) -> Decision | None:
    """The decision that speaks for a request so far; ``None`` when no limit was checked."""
    found = scope.get(_SCOPE_KEY)
    return found.decision if isinstance(found, Passage) else None


def client_ip(scope: Scope) -> str:
    """The client's address: the peer, or what a trusted proxy says about it."""
    return address_rule(scope).resolve(scope)


def address_rule(scope: Scope) -> Addresses:
    """How the client's address is found: as the middleware around says, else the default."""
    passage = scope.get(_SCOPE_KEY) or Passage.of(scope)
    return passage.address or (_UNTRUSTING if _default is None else _default.address)


def facts_of(scope: Scope) -> Facts | None:
    """What tells the facts: of the middleware around, else the default."""
    return Passage.of(scope).facts or (None if _default is None else _default.facts)


def verifier_of(scope: Scope) -> Verifier | None:
    """What verifies tokens: of the middleware around, else the default."""
    return Passage.of(scope).verifier or (None if _default is None else _default.verifier)


def body_of(scope: Scope) -> Body:
    """How a refusal is worded: as the middleware around says, else the default."""
    return Passage.of(scope).body or ("problem" if _default is None else _default.body)


def rules_of(scope: Scope) -> Rules | None:
    """The rules for a request: of the middleware around, else the default."""
    passage = scope.get(_SCOPE_KEY) or Passage.of(scope)
    return passage.rules or (None if _default is None else _default.rules)


async def subject_of(scope: Scope) -> Subject:
    """Who is asking, for rules: what the scope says, and what the facts add."""
    passage = Passage.of(scope)
    facts = facts_of(scope)
    told = {} if facts is None else await answered(facts(scope))
    user = scope.get("user")
    if "user" not in told and getattr(user, "is_authenticated", False):
        told = {**told, "user": user_id(user)}
    charged, passage.asked = passage.asked, True
    return Subject(
        address=address_rule(scope).resolve(scope),
        method=scope.get("method", "GET"),
        path=inner_path(scope),
        path_charged=charged,
        **told,
    )
