"""Throttles for Django REST framework that take the place of its own.

Change ``DEFAULT_THROTTLE_CLASSES`` and nothing else::

    REST_FRAMEWORK = {
        "DEFAULT_THROTTLE_CLASSES": [
            "tollway.django.throttles.AnonRateThrottle",
            "tollway.django.throttles.UserRateThrottle",
        ],
        "DEFAULT_THROTTLE_RATES": {"anon": "100/day", "user": "1000/day"},
    }

They count atomically, on the backend of ``RATELIMIT_BACKEND``; all throttles of a view are one
check, all or nothing, in one round trip; and a client cannot change who it is by a header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from rest_framework import throttling
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.settings import api_settings

from tollway import ClientAddress, ConfigError, Decision, Limiter, Rate
from tollway.answer import UNAVAILABLE_SECONDS, policy_name, tightest, unavailable_text
from tollway.backends import Backend
from tollway.django import conf, identity
from tollway.django.passage import Passage, plain, record, subject_of, tell
from tollway.django.steps import Charge, run
from tollway.errors import StoreError
from tollway.identity import text
from tollway.rules import Rules, Subject

_ATTRIBUTE = "_tollway_throttles"


class StoreAway(APIException):
    """503 with ``Retry-After``: the store is away and the fail mode is "closed"."""

    status_code = 503
    default_detail = unavailable_text()
    default_code = "store_unavailable"
    wait = UNAVAILABLE_SECONDS


class SimpleRateThrottle(throttling.SimpleRateThrottle):
    """The base of the others, for throttles of your own: override ``get_cache_key``.

    ``rate``, ``scope``, ``THROTTLE_RATES``, ``get_rate``, ``parse_rate``, ``get_ident`` and
    ``wait`` are REST framework's. A rate may be anything that :class:`tollway.Rate` reads, so
    ``"10/s; 1000/h"`` and ``"5/30s"`` too. ``cache`` and ``timer`` are not used.

    ``algorithm`` and ``backend`` are those of the settings unless the class names its own; ``cost``
    is what one request takes, or override ``get_cost``.
    """

    algorithm: ClassVar[str | None] = None
    backend: ClassVar[Backend | None] = None
    cost: ClassVar[int] = 1

    rate: str | None
    key: str | None = None
    decision: Decision | None = None
    """What was decided, once it has been asked."""

    def parse_rate(self, rate: str | None) -> tuple[int | None, float | None]:
        """How many requests in how many seconds; of several rates, the first."""
        if rate is None:
            return (None, None)
        parsed = _parsed(rate)
        return (parsed[0].permits, parsed[0].period) if parsed else (0, 1)

    def get_ident(self, request: Any) -> str:
        """The client's address, IPv6 by its network.

        ``NUM_PROXIES`` says how many proxies to believe; without it ``RATELIMIT_TRUSTED_PROXIES``
        and ``RATELIMIT_PROXY_HOPS`` do. ``X-Forwarded-For`` alone is never who somebody is.
        """
        setup = conf.current()
        proxies = api_settings.NUM_PROXIES
        if proxies is None:
            return identity.address_key(plain(request), setup)
        rule = _behind(proxies, setup.settings.ipv6_prefix)
        return rule.key(*identity.hops(request))

    def get_cost(self, request: Any, view: Any) -> int:
        """What this request takes: ``cost``, unless overridden. 0 is free."""
        return self.cost

    def allow_request(self, request: Any, view: Any) -> bool:
        """Whether the request may pass, as far as this throttle is concerned."""
        if not self.applies(request, view):
            return True
        refused = _refuses_alone(self, request, view)
        if refused is None:
            refused = _Answers.of(request).refuses(self, request, view)
        return self.throttle_failure() if refused else self.throttle_success()

    def applies(self, request: Any, view: Any) -> bool:
        """Find out rate and key; false when the request is not to be counted."""
        if self.rate is None:
            return False
        self.key = self.get_cache_key(request, view)
        return self.key is not None

    def throttle_success(self) -> bool:
        """Called when the request may pass."""
        return True

    def throttle_failure(self) -> bool:
        """Called when this throttle refuses the request."""
        return False

    def wait(self) -> float | None:
        """Seconds until the same request can pass; ``None`` when it never can."""
        decision = self.decision
        if decision is None or decision.allowed or decision.reason == "cost_above_limit":
            return None
        return decision.retry_after

    def rates(self) -> tuple[Rate, ...]:
        """The rates to check: what ``rate`` says, or an overridden ``parse_rate`` made of it."""
        if type(self).parse_rate is SimpleRateThrottle.parse_rate:
            return _parsed(str(self.rate))
        number, seconds = self.num_requests, self.duration
        if not number or not seconds:
            return ()
        return (Rate(int(number), f"{round(seconds * 1000)}ms"),)


class AnonRateThrottle(SimpleRateThrottle, throttling.AnonRateThrottle):
    """Limits those who are not logged in, by address. Its scope is ``anon``."""


class UserRateThrottle(SimpleRateThrottle, throttling.UserRateThrottle):
    """Limits users, and those who are not logged in by address. Its scope is ``user``."""


class ScopedRateThrottle(SimpleRateThrottle, throttling.ScopedRateThrottle):
    """Limits views that have a ``throttle_scope``, each scope by its own rate."""

    def __init__(self) -> None:
        # Which scope it is, the view says.
        self.rate = None

    def applies(self, request: Any, view: Any) -> bool:
        """Find out the view's scope, its rate and the key."""
        self.scope = getattr(view, self.scope_attr, None)
        if not self.scope:
            return False
        self.rate = self.get_rate()
        self.num_requests, self.duration = self.parse_rate(self.rate)
        return super().applies(request, view)


def _refuses_alone(throttle: SimpleRateThrottle, request: Any, view: Any) -> bool | None:
    """Whether the one throttle of a view refuses; ``None`` when there is more to be asked.

    Most views are so, and need no bookkeeping between throttles: their way is as short as it can
    be.
    """
    setup = conf.current()
    if not setup.plain or setup.usage is not None or not _is_alone(view):
        return None
    toll = _toll(setup, throttle, request, view)
    if toll is None:
        return None
    limiter, charge = toll
    try:
        decision = limiter.check(*charge)
    except StoreError as error:
        raise StoreAway from error
    throttle.decision = decision
    _note(Passage.join(request), decision, request, view)
    return not decision.allowed


def _is_alone(view: Any) -> bool:
    """Whether a view has one throttle, stated as REST framework states it."""
    make = getattr(view, "get_throttles", None)
    if getattr(make, "__module__", "") != "rest_framework.views":
        return False
    return len(view.throttle_classes) == 1


class _Answers:
    """What was decided on one request, for the throttles of its view that will ask next.

    The first throttle asks for all. Those with an ``allow_request`` of their own may pass a request
    unasked, so each of these asks for itself.
    """

    def __init__(self, request: Any) -> None:
        self.passage = Passage.join(request)
        self.ready: list[tuple[type, Decision | None, bool]] = []

    @classmethod
    def of(cls, request: Any) -> _Answers:
        """The answers on a request, made at the first question."""
        # Past `Request.__getattr__`, which looks for what is missing three times.
        found: _Answers | None = vars(request).get(_ATTRIBUTE)
        if found is None:
            found = cls(request)
            setattr(request, _ATTRIBUTE, found)
        return found

    def refuses(self, throttle: SimpleRateThrottle, request: Any, view: Any) -> bool:
        """Whether this throttle refuses the request."""
        kinds = [kind for kind, _, _ in self.ready]
        if type(throttle) not in kinds:
            asking = [throttle, *_others(throttle, request, view)]
            self.ready = _decided(self.passage, asking, request, view)
            kinds = [kind for kind, _, _ in self.ready]
        _, throttle.decision, refused = self.ready.pop(kinds.index(type(throttle)))
        return refused


def _others(throttle: SimpleRateThrottle, request: Any, view: Any) -> list[SimpleRateThrottle]:
    """The view's other throttles that may be asked together with this one."""
    if _is_alone(view):
        return []
    make = getattr(view, "get_throttles", None)
    stated = make() if callable(make) and _asks_plainly(throttle) else []
    kinds = [type(one) for one in stated]
    if type(throttle) not in kinds:
        return []
    del stated[kinds.index(type(throttle))]
    return [one for one in stated if _asks_plainly(one) and one.applies(request, view)]


def _asks_plainly(throttle: object) -> bool:
    """Whether it is one of ours, and its ``allow_request`` too."""
    return (
        isinstance(throttle, SimpleRateThrottle)
        and type(throttle).allow_request is SimpleRateThrottle.allow_request
    )


def _decided(
    passage: Passage, throttles: list[SimpleRateThrottle], request: Any, view: Any
) -> list[tuple[type, Decision | None, bool]]:
    """Ask for several throttles: for each its decision and whether it is the one that refuses."""
    setup = conf.current()
    tolls = [_toll(setup, one, request, view) for one in throttles]
    closed = [toll is None for toll in tolls]
    if any(closed) or not setup.settings.enable:  # where a rate is 0, nobody is charged
        shut = setup.settings.enable
        return [(type(one), None, shut and no) for one, no in zip(throttles, closed, strict=True)]
    by_limiter: dict[Limiter, dict[tuple[str, str], Charge]] = {}
    for limiter, charge in filter(None, tolls):
        by_limiter.setdefault(limiter, {})[(charge[0].name, charge[1])] = charge
    ruling = setup.ruling
    asking = run(subject_of(setup, request, passage)) if ruling.stated else None
    check = Asking(ruling.rules if ruling.stated else None, asking)
    decision = check.all({limiter: list(some.values()) for limiter, some in by_limiter.items()})
    record(setup, request, decision, [toll[1] for toll in filter(None, tolls)])
    if decision.reason == "exempt":
        return [(type(one), None, False) for one in throttles]
    _note(passage, decision, request, view)
    if decision.reason == "denied":
        raise PermissionDenied(decision.text())
    # Rules may refuse under names that are no throttle's: then the first one says so.
    names = [toll[1][0].name for toll in filter(None, tolls)]
    place = names.index(decision.policy) if decision.policy in names else 0
    return [
        (type(one), decision, not decision.allowed and number == place)
        for number, one in enumerate(throttles)
    ]


def _toll(
    setup: conf.Setup, throttle: SimpleRateThrottle, request: Any, view: Any
) -> tuple[Limiter, Charge] | None:
    """What a throttle charges, and where; ``None`` when its rate is 0."""
    rates = throttle.rates()
    if not rates:
        return None
    name = policy_name("throttle", throttle.scope or type(throttle).__qualname__)
    policy = setup.policy(name, rates, throttle.algorithm)
    cost = throttle.get_cost(request, view)
    return setup.limiter(throttle.backend), (policy, text(throttle.key), cost)


@dataclass(frozen=True, slots=True)
class Asking:
    """How limiters are asked: by the rules in force, for somebody; or plainly."""

    rules: Rules | None
    subject: Subject | None

    def all(self, by_limiter: dict[Limiter, list[Charge]]) -> Decision:
        """One decision: what one backend has charged is given back when another refuses."""
        speaks: Decision | None = None
        charged: list[tuple[Limiter, Charge]] = []
        try:
            for limiter, charges in by_limiter.items():
                decision = self._one(limiter, charges)
                speaks = tightest(speaks, decision)
                if not decision.allowed:
                    for other, (policy, who, cost) in charged:
                        other.refund(policy, who, cost)
                    break
                charged += [(limiter, charge) for charge in charges]
        except StoreError as error:
            raise StoreAway from error
        assert speaks is not None, "there is at least one throttle"
        return speaks

    def _one(self, limiter: Limiter, charges: list[Charge]) -> Decision:
        if self.rules is None:
            return limiter.check_all(charges)
        return self.rules.check(limiter, charges, self.subject)


def _note(passage: Passage, decision: Decision, request: Any, view: Any) -> None:
    """Let the view see the decision, and have its answer carry the headers."""
    passage.note(request, decision, not decision.allowed)
    passage.stand()
    headers = getattr(view, "headers", None)
    if isinstance(headers, dict):
        passage.also = headers
        tell(passage)


@lru_cache(maxsize=64)
def _behind(proxies: int, ipv6_prefix: int) -> ClientAddress:
    return ClientAddress((), proxies, ipv6_prefix)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> tuple[Rate, ...]:
    """The rates in a text; none for a rate of 0, which lets nobody pass."""
    if text.strip().startswith("0/"):
        return ()
    try:
        return tuple(Rate.parse(text))
    except ConfigError as error:
        raise ImproperlyConfigured(f"throttle rate: {error}") from error
