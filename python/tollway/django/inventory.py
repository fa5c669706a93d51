"""Which limits a project states, and what each of them has counted for somebody."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings as django_settings
from django.urls import get_resolver

from tollway import ConfigError, Decision, Limiter, Policy, hash_identity
from tollway.answer import policy_name
from tollway.django import conf, rules
from tollway.django.database import DatabaseSource
from tollway.django.decorators import limits_of
from tollway.django.limits import Limit
from tollway.django.settings import rates
from tollway.django.sources import with_shadows
from tollway.identity import KeySpec
from tollway.rules import AccessList, Rules, Subject

MIDDLEWARE: Final = "tollway.django.middleware.RateLimitMiddleware"
_METHODS: Final = ("get", "post", "put", "patch", "delete", "head", "options", "trace")


@dataclass(frozen=True, slots=True)
class Stated:
    """A limit that the code, the settings or the database states."""

    name: str
    """What the limit is called where it is counted."""
    rate: str
    by: str
    where: str
    """Where it is stated: a file and line, a setting, a table."""
    policy: Policy | None
    """What is charged; ``None`` when a function says how much."""
    limiter: Limiter
    limit: Limit | None = None
    throttle: Any = None
    by_user: bool = True
    """Whether a throttle counts those who are logged in."""

    @property
    def in_memory(self) -> bool:
        """Whether each process counts for itself, so that no other one can look or reset."""
        return self.limiter.url.startswith("memory:")

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        algorithm = None if self.policy is None else self.policy.algorithm
        return {
            "name": self.name,
            "rate": self.rate,
            "by": self.by,
            "algorithm": algorithm,
            "backend": self.limiter.url,
            "where": self.where,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """What a limit has counted for somebody."""

    stated: Stated
    policy: Policy
    key: str
    rule: str
    decision: Decision

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        decision = self.decision
        return {
            "limit": self.policy.name,
            "key": self.key,
            "rule": self.rule,
            "allowed": decision.allowed,
            "remaining": decision.remaining,
            "of": decision.limit,
            "retry_after": round(decision.retry_after, 3),
            "reset_after": round(decision.reset_after, 3),
        }


class Who:
    """Somebody, as people name them: an address, ``user:7``, ``org:acme``, ``key:HASH``.

    Any other text is the key that a limit counts by, as it is (``raw:`` before it is left out).

    Raises :class:`tollway.ConfigError` on nothing and on a network, but for one that is counted as
    one client.
    """

    def __init__(self, text: str) -> None:
        text = text.strip()
        if not text:
            raise ConfigError("nobody is named: write an address, user:ID, org:ID or key:HASH")
        self.text = text
        self.subject: Subject | None = None
        if text.startswith("tw_"):
            text = f"key:{hash_identity(text)}"
            self.text = text
        try:
            found = AccessList([f"deny {text}"]).entries()[0].split()[1]
        except ConfigError:
            if text.startswith("key:"):
                raise
            self.text = text.removeprefix("raw:")
            return
        address = found.partition("/")[0]
        # The network of an IPv6 client is one client.
        if "/" in found and conf.current().address.key(address) != found:
            raise ConfigError(f"{found} is a network, and limits count single addresses: name one")
        self.text = found
        kind, _, name = found.partition(":")
        if kind in ("user", "org", "key") and name:
            ruling = conf.current().ruling
            tier = ruling.tier(name, None) if kind == "user" else None
            tier = ruling.tier(None, name) if kind == "org" else tier
            if kind == "key" and ruling.keys is not None:
                issued = ruling.keys.find(name)
                tier = None if issued is None else issued.tier
            named: dict[str, Any] = {kind: name, "tier": tier}
            self.subject = Subject(**named)
        else:
            self.subject = Subject(address=address)

    def key_at(self, stated: Stated) -> str | None:
        """The text that a limit counts them by; ``None`` when it cannot count them."""
        subject = self.subject
        if subject is None:
            return self.text
        if stated.throttle is not None:
            ident = subject.user if stated.by_user else None
            if subject.address is not None:
                ident = conf.current().address.key(subject.address)
            if ident is None:
                return None
            return str(stated.throttle.cache_format % {"scope": stated.by, "ident": ident})
        if subject.address is not None:
            return conf.current().address.key(subject.address)
        key = None if stated.limit is None else stated.limit.key
        if not isinstance(key, KeySpec):
            return None
        if subject.user is not None and key.kind in ("user", "user_or_ip"):
            return f"user:{subject.user}"
        if subject.org is not None and key.kind == "org":
            return f"org:{subject.org}"
        if subject.key is not None and key.kind == "api_key":
            return f"api_key:{subject.key}"
        return None


def inventory() -> list[Stated]:
    """Every limit of the project: decorators, throttles, middleware and rules by path.

    The URLs are loaded, and rules that are followed are read.
    """
    setup = conf.current()
    found = [*_of_middleware(setup), *_of_views(setup), *_of_rules(setup)]
    unique = {(one.name, one.limiter.url): one for one in reversed(found)}
    return sorted(unique.values(), key=lambda one: one.name)


def rules_data() -> dict[str, Any]:
    """The rules as they are now, as data; empty when they are not data."""
    setup = conf.current()
    stated = setup.settings.rules
    if isinstance(stated, Mapping):
        return dict(stated)
    source = setup.ruling.source
    found = None if source is None else source.load(None)
    data = {} if found is None else found[1]
    data = json.loads(data) if isinstance(data, str) else data
    return dict(data) if isinstance(data, Mapping) else {}


def standings(who: Who, limits: Iterable[Stated], *, counts: bool = True) -> Iterator[Standing]:
    """What each limit has counted for somebody, rules considered; one round trip for each.

    Limits that cannot count them are left out, and without ``counts`` those that have counted
    nothing.
    """
    data = {
        name: value for name, value in rules_data().items() if name not in ("deny", "allow", "skip")
    }
    ruling = Rules(with_shadows(data))
    for stated in limits:
        for policy, key, rule in _charged(stated, who, ruling):
            # Of a cost of 0 it tells what is there, of 1 what the next request would meet.
            decision = stated.limiter.peek(policy, key, 1 if counts else 0)
            if counts or decision.remaining < decision.limit or decision.reset_after > 0:
                yield Standing(stated, policy, key, rule, decision)


def _charged(stated: Stated, who: Who, ruling: Rules) -> Iterator[tuple[Policy, str, str]]:
    key = who.key_at(stated)
    told: Any
    if stated.limit is None and stated.throttle is None:
        data = rules_data()["limits"][stated.name]
        methods, _space, path = str(data["paths"][0]).rpartition(" ")
        asking = _at(who, methods.split(",")[0] or "GET", path.replace("*", "x"))
        told = [one for one in ruling.explain([], asking) if _about(one, stated.name)]
    elif key is None or stated.policy is None:
        return
    else:
        told = ruling.explain([(stated.policy, key)], who.subject)
    for charge in told if isinstance(told, list) else []:
        policy = stated.policy
        if policy is None or charge["policy"] != policy.name or charge["rule"]:
            with suppress(ConfigError):  # an algorithm of the project's own
                algorithm = charge["algorithm"]
                policy = Policy(charge["policy"], charge["rates"], algorithm=algorithm)
        if policy is not None:
            yield policy, charge["key"], charge["rule"]


def _about(charge: Any, name: str) -> bool:
    """Whether a charge belongs to a rule, one of its tiers or one of its levels."""
    return isinstance(charge, dict) and (
        charge["policy"] == name or charge["policy"].startswith((f"{name}@", f"{name}/"))
    )


def _at(who: Who, method: str, path: str) -> Subject:
    known = who.subject or Subject()
    return Subject(
        address=known.address,
        user=known.user,
        key=known.key,
        org=known.org,
        tier=known.tier,
        method=method,
        path=path,
    )


def _of_limit(setup: conf.Setup, limit: Limit, scope: str, where: str) -> Stated:
    policy = None
    if limit.rate_of is None:
        with suppress(ConfigError):  # manage.py check says what is wrong with it
            policy = limit.policy(setup, scope)
    return Stated(
        name=limit.name(scope) if policy is None else policy.name,
        rate=limit.rate_name if policy is None else "; ".join(map(str, policy.rates)),
        by=limit.key_name,
        where=_short(where),
        policy=policy,
        limiter=setup.limiter(limit.backend),
        limit=limit,
    )


def _short(where: str) -> str:
    """A place without the folder that the command runs in."""
    return where.removeprefix(os.getcwd() + os.sep)


def _of_middleware(setup: conf.Setup) -> Iterator[Stated]:
    if MIDDLEWARE not in django_settings.MIDDLEWARE:
        return
    read, _problems = rules.read(setup.settings)
    for pattern, limit in read.rules:
        if not limit.per_route:
            where = f"RATELIMIT_MIDDLEWARE[{pattern.text!r}]"
            yield _of_limit(setup, limit, f"middleware {pattern.text}", where)
    if read.default is not None:
        yield _of_limit(setup, read.default, "middleware", "RATELIMIT_DEFAULT_LIMIT")


def _of_rules(setup: conf.Setup) -> Iterator[Stated]:
    from_rows = isinstance(setup.settings.rules, DatabaseSource)
    place = "the database" if from_rows else "RATELIMIT_RULES"
    for name, data in (rules_data().get("limits") or {}).items():
        if isinstance(data, Mapping) and data.get("paths"):
            yield Stated(
                name=name,
                rate=str(data.get("rate", "")),
                by=str(data.get("by", "")),
                where=f"{place}: {', '.join(map(str, data['paths']))}",
                policy=Policy(name, rates(data["rate"]), algorithm=data.get("algorithm") or None),
                limiter=setup.limiter(),
            )


def _of_views(setup: conf.Setup) -> Iterator[Stated]:
    for view in _views(get_resolver().url_patterns):
        owner = getattr(view, "view_class", None) or getattr(view, "cls", None)
        thing = view if owner is None else owner
        scope = f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
        for limit in limits_of(view):
            yield _of_limit(setup, limit, scope, limit.where)
        if owner is None:
            continue
        actions: Mapping[str, str] = getattr(view, "actions", None) or {}
        for name in {actions.get(method, method) for method in _METHODS}:
            for limit in limits_of(getattr(owner, name, None)):
                yield _of_limit(setup, limit, f"{scope}.{name}", limit.where)
        for throttle in getattr(owner, "throttle_classes", ()):
            yield from _of_throttle(setup, throttle, owner)


def _views(patterns: Iterable[Any]) -> Iterator[Any]:
    for pattern in patterns:
        inner = getattr(pattern, "url_patterns", None)
        if inner is not None:
            yield from _views(inner)
        elif getattr(pattern, "callback", None) is not None:
            yield pattern.callback


def _of_throttle(setup: conf.Setup, kind: type, owner: Any) -> Iterator[Stated]:
    from tollway.django.throttles import (
        AnonRateThrottle,
        ScopedRateThrottle,
        SimpleRateThrottle,
    )

    if not issubclass(kind, SimpleRateThrottle):
        return
    throttle: Any = kind()
    if isinstance(throttle, ScopedRateThrottle):
        throttle.scope = getattr(owner, "throttle_scope", None)
        if not throttle.scope:
            return
        throttle.rate = throttle.get_rate()
    if throttle.rate is None or not throttle.rates():
        return
    scope = throttle.scope or kind.__qualname__
    name = policy_name("throttle", scope)
    yield Stated(
        name=name,
        rate=str(throttle.rate),
        by=scope,
        where=f"{kind.__module__}.{kind.__qualname__}",
        policy=setup.policy(name, throttle.rates(), throttle.algorithm),
        limiter=setup.limiter(throttle.backend),
        throttle=throttle,
        by_user=not isinstance(throttle, AnonRateThrottle),
    )
