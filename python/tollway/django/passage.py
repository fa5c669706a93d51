"""One request's way through its limits: what was asked, what was decided, what is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from django.http import HttpRequest, HttpResponseBase

from tollway import ConfigError, Decision, Limiter, Policy
from tollway.answer import tightest
from tollway.counter import COUNT_MAX
from tollway.django import conf, identity, responses
from tollway.django.limits import CLOSED, Limit
from tollway.django.ruling import subject
from tollway.django.steps import Call, Charge, Check, Settle, Steps
from tollway.errors import StoreError
from tollway.rules import AccessList, Rules, Subject

_ATTRIBUTE = "_tollway_passage"
_log = logging.getLogger("tollway.django")

Pairs = tuple[tuple[Limit, str], ...]
"""Limits, each with the scope that names it."""


class Passage:
    """What is known of one request: the limits it has met, and the decision that speaks."""

    # Values of the class until a request has others: most never do.
    decision: Decision | None = None
    exceeded = False
    held = False
    met: tuple[int, ...] = ()
    waiting: Pairs = ()
    """The middleware's limits, until somebody inside asks: then all are one check."""
    owed: tuple[Toll, ...] = ()
    """What was charged by estimate and is settled after the answer."""
    exempt = False
    """Whether the rules have said that this request is not counted."""
    asks_rules = False
    """Whether the rules are to be told the path: what they count by path is counted once."""
    subjects: Mapping[bool, Subject] = MappingProxyType({})
    """Who is asking, as the rules see it: without the user, and with."""
    also: dict[str, str] | None = None
    """Where REST framework keeps the headers that it writes last."""
    _at_door: tuple[Decision | None, bool] = (None, False)
    _inside = False

    @classmethod
    def of(cls, request: Any) -> Passage:
        """The passage of a request, made at the first question."""
        found = getattr(plain(request), _ATTRIBUTE, None)
        return cls.start(request) if found is None else found

    @classmethod
    def start(cls, request: Any) -> Passage:
        """A new passage for a request: the middleware starts one, since it comes first."""
        passage = cls()
        setattr(plain(request), _ATTRIBUTE, passage)
        return passage

    @classmethod
    def join(cls, request: Any) -> Passage:
        """The passage that somebody further out has begun, or a new one."""
        found = cls.of(request)
        return found if found.held or found._inside else cls.start(request)

    def hold(self) -> None:
        """The middleware writes the headers in the end, so the views inside it need not."""
        self.held = True
        self.stand()

    @property
    def pending(self) -> bool:
        """Whether there is something that nobody has asked yet."""
        return bool(self.waiting) or self.asks_rules

    def stand(self) -> None:
        """Keep what was decided so far: each call of a view begins from there."""
        if not self._inside:
            self._at_door = (self.decision, self.exceeded)

    def enter(self) -> bool:
        """Enter a decorated view. True for the outermost, which must :meth:`leave` in the end.

        A view that is called twice with one request object, as tests like to do, is two calls.
        """
        if self._inside:
            return False
        self._inside = True
        self.decision, self.exceeded = self._at_door
        if not self.held:
            self.exempt = False
            self.subjects = {}
        return True

    def leave(self) -> None:
        """The outermost view is done."""
        self._inside = False
        self.met = ()

    def note(self, request: Any, decision: Decision | None, exceeded: bool) -> None:
        """Take in one more answer, and let the view see what speaks now."""
        if decision is not None:
            known = self.decision
            self.decision = decision if known is None else _speaking(known, decision)
        self.exceeded = self.exceeded or exceeded
        request.rate_limit = self.decision
        request.rate_limit_exceeded = self.exceeded
        inner = plain(request)
        if inner is not request:
            inner.rate_limit = self.decision
            inner.rate_limit_exceeded = self.exceeded


def _speaking(first: Decision, second: Decision) -> Decision:
    """The decision that speaks for both: the tightest, and a shadow only when it is alone."""
    if first.mode != second.mode:
        return first if second.mode == "shadow" else second
    return tightest(first, second)


def plain(request: Any) -> Any:
    """Django's request inside that of REST framework."""
    return getattr(request, "_request", request)


@dataclass(slots=True)
class Toll:
    """A limit that applies to this request, with what it costs and to whom."""

    limit: Limit
    limiter: Limiter
    charge: Charge


def admit(
    request: Any, passage: Passage, limits: Iterable[tuple[Limit, str]]
) -> Steps[HttpResponseBase | None]:
    """Decide over a request; the answer that turns it away, or ``None`` when it may pass.

    The middleware's limits that wait are decided together with these. Those met before on the same
    request are left out, so a stack of decorators is one check. Blocking limits are asked first,
    together and all or nothing; only a request that passes them is charged to the others.
    """
    setup = conf.current()
    if passage.waiting:
        limits = (*passage.waiting, *limits)
        passage.waiting = ()
    tolls: dict[tuple[bool, Limiter], list[Toll]] = {}
    if setup.settings.enable and not passage.exempt:
        for limit, scope in limits:
            if limit.serial in passage.met:
                continue
            passage.met += (limit.serial,)
            if limit.plain:
                toll: Toll | Decision | None = plain_toll(setup, request, limit, scope)
            else:
                toll = yield from _toll(setup, request, passage, limit, scope)
            if isinstance(toll, Decision):
                record(setup, request, toll, ())
                passage.note(request, toll, True)
                return responses.refusal(request, toll)
            if toll is not None:
                tolls.setdefault((limit.block, toll.limiter), []).append(toll)
        if passage.asks_rules and not tolls:
            tolls[True, setup.limiter()] = []  # the rules may have something to say
    if not tolls:
        passage.note(request, None, False)
        return None
    if len(tolls) == 1:
        ((block, limiter), group) = next(iter(tolls.items()))
        return (yield from _ask(setup, request, passage, limiter, _merged(group), block=block))
    passed: list[Toll] = []
    for (block, limiter), group in sorted(tolls.items(), key=lambda item: not item[0][0]):
        merged = _merged(group)
        refused = yield from _ask(setup, request, passage, limiter, merged, block=block)
        if refused is not None:
            yield from _give_back(passage, passed)
            return refused
        passed += merged
    return None


def finish(passage: Passage, response: HttpResponseBase) -> HttpResponseBase:
    """Write the headers of the decision that speaks."""
    decision = passage.decision
    if decision is not None and hasattr(response, "headers"):
        responses.write_headers(response, decision, conf.current().settings)
        if passage.also is not None:
            tell(passage)
    return response


def tell(passage: Passage) -> None:
    """Have REST framework write the headers of the decision that speaks, whatever the answer."""
    if passage.decision is not None and passage.also is not None:
        settings = conf.current().settings
        told = responses.fields(passage.decision, settings.x_headers, settings.ietf_headers)
        passage.also.update(told)
        passage.also.pop("Retry-After", None)  # REST framework writes its own


def settle(request: Any, passage: Passage, response: HttpResponseBase) -> Steps[None]:
    """Charge what the request cost in the end, for limits whose cost is a function of the answer.

    A store that is away keeps the estimate; the answer is on its way and nobody is told.
    """
    owed, passage.owed = passage.owed, ()
    for toll in owed:
        function = toll.limit.cost_of_answer
        if function is None:
            continue
        actual = _checked_cost(toll.limit, (yield Call("cost", function, request, response)))
        try:
            yield Settle(toll.limiter, toll.charge, actual)
        except StoreError as error:
            _log.warning("the cost of a request could not be settled: %s", error)


def _give_back(passage: Passage, tolls: list[Toll]) -> Steps[None]:
    """What other backends had charged before one refused: a refusal charges nothing."""
    passage.owed = tuple(toll for toll in passage.owed if toll not in tolls)
    for toll in tolls:
        try:
            yield Settle(toll.limiter, toll.charge, 0)
        except StoreError as error:
            _log.warning("a refused request could not be given back: %s", error)


def plain_toll(setup: conf.Setup, request: Any, limit: Limit, scope: str) -> Toll | None:
    """What a limit charges that counts by address and asks nobody."""
    if limit.methods is not None and request.method not in limit.methods:
        return None
    charge = (limit.policy(setup, scope), identity.address_key(request, setup), limit.cost)
    limiter = setup.default if limit.backend is None else setup.limiter(limit.backend)
    return Toll(limit, limiter, cast("Charge", charge))


def _toll(
    setup: conf.Setup, request: Any, passage: Passage, limit: Limit, scope: str
) -> Steps[Toll | Decision | None]:
    """What a limit charges; ``None`` when it does not count, or a decision that denies."""
    if not limit.applies(request.method):
        return None
    if limit.deny is not None or limit.allow is not None:
        verdict = yield from _judged(setup, request, passage, limit)
        if verdict is not True:
            return None if verdict is False else verdict
    if limit.per_route:
        scope = f"{scope} {identity.route(plain(request))}"
    if limit.skip_if is not None and (yield Call("skip_if", limit.skip_if, request)):
        return None
    cost = limit.cost
    if callable(cost):
        arguments = (request,) if limit.cost_of_answer is None else (request, None)
        cost = _checked_cost(limit, (yield Call("cost", cost, *arguments)))
    policy: Policy | None
    named = (limit.group or scope,) if limit.grouped else ()
    if limit.rate_of is None:
        policy = limit.policy(setup, scope)
    else:
        rate = yield Call("rate", limit.rate_of, *named, request)
        policy = limit.policy_for(setup, scope, rate)
        if policy is None:
            return None
        if policy is CLOSED:
            cost = 2
    if limit.by_address:
        who = identity.address_key(request, setup)
    else:
        key = limit.key
        if named and callable(key):
            key = partial(key, *named)
        who = yield from identity.who(setup, request, key)
    return Toll(limit, setup.limiter(limit.backend), (policy, who, cost))


def _checked_cost(limit: Limit, cost: Any) -> int:
    """The cost; what is more than can be counted is as much as can be."""
    if isinstance(cost, bool) or not isinstance(cost, int) or cost < 0:
        raise ConfigError(f"the cost function of {limit.name('')!r} returned {cost!r}")
    return min(cost, COUNT_MAX)


def _judged(
    setup: conf.Setup, request: Any, passage: Passage, limit: Limit
) -> Steps[Decision | bool]:
    """What a limit's own lists say: a refusal, or whether the request counts."""
    asking = yield from subject_of(setup, request, passage, wants_user=limit.wants_user)
    for listed in (limit.deny, limit.allow):
        said = None if listed is None else listed.judge(asking)
        if said is not None and said.startswith("deny"):
            refused: Decision = Rules(lists=[cast("AccessList", listed)]).peek(
                setup.limiter(), [], asking
            )
            return refused
        if said is not None:
            return False
    return True


def subject_of(
    setup: conf.Setup,
    request: Any,
    passage: Passage,
    *,
    wants_user: bool = False,
    whole: bool = False,
) -> Steps[Subject]:
    """Who is asking, found out once a request; with ``whole`` also for what."""
    wants_user = wants_user or setup.ruling.wants_user
    known = passage.subjects.get(wants_user)
    if known is not None and not whole:
        return known
    address = setup.address.resolve(*identity.hops(request))
    asking = yield from subject(
        setup.settings, setup.ruling, address, request, wants_user=wants_user, whole=whole
    )
    if not whole:
        passage.subjects = {**passage.subjects, wants_user: asking}
    return asking


def _ruled(
    setup: conf.Setup,
    request: Any,
    passage: Passage,
    limiter: Limiter,
    charges: list[Charge],
) -> Steps[Decision]:
    whole, passage.asks_rules = passage.asks_rules, False
    asking = yield from subject_of(setup, request, passage, whole=whole)
    ruled: Decision = yield Check(limiter, charges, setup.ruling.rules, asking)
    return ruled


def _ask(
    setup: conf.Setup,
    request: Any,
    passage: Passage,
    limiter: Limiter,
    group: list[Toll],
    *,
    block: bool,
) -> Steps[HttpResponseBase | None]:
    charges = [toll.charge for toll in group]
    shadow = True in [toll.limit.shadow for toll in group]
    if shadow and not setup.ruling.knows_shadows:
        raise ConfigError(
            "shadow=True: RATELIMIT_RULES is a Rules object, which binds all limits alike; give it "
            'the limit {"shadow": {"shadow": True}}, or write the rules as a mapping'
        )
    try:
        if shadow or setup.ruling.stated:
            decision = yield from _ruled(setup, request, passage, limiter, charges)
        else:
            decision = yield Check(limiter, charges)
    except StoreError:
        return away(request, passage, block=block)
    return (yield from answered(setup, request, passage, decision, group, block=block))


def away(request: Any, passage: Passage, *, block: bool) -> HttpResponseBase | None:
    """What holds while the store is away and the fail mode is "closed"; the log has been told."""
    if block:
        return responses.unavailable(request)
    passage.note(request, None, True)
    return None


def answered(
    setup: conf.Setup,
    request: Any,
    passage: Passage,
    decision: Decision,
    group: list[Toll],
    *,
    block: bool,
) -> Steps[HttpResponseBase | None]:
    """What comes of a decision: the answer that turns a request away, or ``None``."""
    if setup.usage is not None:
        record(setup, request, decision, [toll.charge for toll in group])
    if decision.reason == "exempt":
        passage.exempt = decision.rule is not None
        passage.note(request, None, False)
        return None
    passage.note(request, decision, not decision.allowed)
    if decision.reason == "denied":
        return responses.refusal(request, decision)
    if decision.allowed:
        # What rules charged in place of a limit goes by another name: the estimate stays.
        if decision.rule is None:
            passage.owed += tuple(toll for toll in group if toll.limit.cost_of_answer is not None)
        return None
    return (yield from _refusal(request, decision, group)) if block else None


def record(setup: conf.Setup, request: Any, decision: Decision, charges: Sequence[Charge]) -> None:
    """Have a decision summed up, if the project wants that."""
    if setup.usage is None:
        return
    who = ""
    if not decision.allowed:
        named = (who for policy, who, _ in charges if policy.name == decision.policy)
        known = next(named, None) or (charges[0][1] if len(charges) == 1 else None)
        who = identity.address_key(request, setup) if known is None else known
    setup.usage.note(decision, who)


def _merged(group: list[Toll]) -> list[Toll]:
    """The same with a limit that is stated twice charged once, at the higher cost."""
    if len(group) == 1:
        return group
    tolls: dict[tuple[str, str], Toll] = {}
    for toll in group:
        policy, who, cost = toll.charge
        known = tolls.get((policy.name, who))
        if known is None or known.charge[2] < cost:
            tolls[(policy.name, who)] = toll
    return list(tolls.values())


def _refusal(request: Any, decision: Decision, group: list[Toll]) -> Steps[HttpResponseBase]:
    callback: Callable[..., Any] | None = next(
        (toll.limit.response_callback for toll in group if toll.charge[0].name == decision.policy),
        None,
    )
    callback = callback or responses.callback_for(request)
    if callback is None:
        return responses.refusal(request, decision)
    response = yield Call("response_callback", callback, request)
    if not isinstance(response, HttpResponseBase):
        raise ConfigError(
            f"response_callback {callback!r} returned {type(response).__name__}, "
            "not a Django response"
        )
    return response


def request_in(arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """The request among a view's first two arguments, and the object it is a method of, if any."""
    if arguments and isinstance(arguments[0], HttpRequest):
        return arguments[0], None
    for position, argument in enumerate(arguments[:2]):
        if isinstance(plain(argument), HttpRequest):
            return argument, arguments[0] if position else None
    raise ConfigError(
        "rate_limit found no request among the view's first two arguments: "
        "decorate a view, and write @rate_limit() with parentheses"
    )
