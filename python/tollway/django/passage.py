"""One request's way through its limits: what was asked, what was decided, what is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponseBase

from tollway import ConfigError, Decision, Limiter
from tollway.answer import tightest
from tollway.django import conf, identity, responses
from tollway.django.limits import Limit
from tollway.django.steps import Call, Charge, Check, Steps, User
from tollway.errors import StoreError

_ATTRIBUTE = "_tollway_passage"


class Passage:
    """What is known of one request: the limits it has met, and the decision that speaks."""

    __slots__ = ("_at_door", "_inside", "decision", "exceeded", "held", "met")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.exceeded = False
        self.held = False
        self.met: set[int] = set()
        self._at_door: tuple[Decision | None, bool] = (None, False)
        self._inside = False

    @classmethod
    def of(cls, request: Any) -> Passage:
        """The passage of a request, made at the first question."""
        found = getattr(_plain(request), _ATTRIBUTE, None)
        return cls.start(request) if found is None else found

    @classmethod
    def start(cls, request: Any) -> Passage:
        """A new passage for a request: the middleware starts one, since it comes first."""
        passage = cls()
        setattr(_plain(request), _ATTRIBUTE, passage)
        return passage

    def hold(self) -> None:
        """Keep what the middleware decided: each call of a view begins from there.

        The middleware writes the headers in the end, so the views inside it need not.
        """
        self._at_door = (self.decision, self.exceeded)
        self.held = True

    def enter(self) -> bool:
        """Enter a decorated view. True for the outermost, which must :meth:`leave` in the end.

        A view that is called twice with one request object, as tests like to do, is two calls.
        """
        if self._inside:
            return False
        self._inside = True
        self.decision, self.exceeded = self._at_door
        return True

    def leave(self) -> None:
        """The outermost view is done."""
        self._inside = False
        self.met.clear()

    def note(self, request: Any, decision: Decision | None, exceeded: bool) -> None:
        """Take in one more answer, and let the view see what speaks now."""
        if decision is not None:
            self.decision = tightest(self.decision, decision)
        self.exceeded = self.exceeded or exceeded
        request.rate_limit = self.decision
        request.rate_limit_exceeded = self.exceeded
        inner = _plain(request)
        if inner is not request:
            inner.rate_limit = self.decision
            inner.rate_limit_exceeded = self.exceeded


def _plain(request: Any) -> Any:
    """Django's request inside that of REST framework."""
    return getattr(request, "_request", request)


@dataclass(slots=True)
class _Toll:
    """A limit that applies to this request, with what it costs and to whom."""

    limit: Limit
    charge: Charge


def admit(
    request: Any, passage: Passage, limits: Iterable[tuple[Limit, str]]
) -> Steps[HttpResponseBase | None]:
    """Decide over a request; the answer that turns it away, or ``None`` when it may pass.

    ``limits`` are pairs of a limit and the scope that names it. Those met before on the same
    request are left out, so a stack of decorators is one check. Blocking limits are asked first,
    together and all or nothing; only a request that passes them is charged to the others.
    """
    setup = conf.current()
    tolls: dict[tuple[bool, Limiter], list[_Toll]] = {}
    if setup.settings.enable:
        for limit, scope in limits:
            if limit.serial in passage.met:
                continue
            passage.met.add(limit.serial)
            toll = yield from _toll(setup, request, limit, scope)
            if toll is not None:
                where = (limit.block, setup.limiter(limit.backend))
                tolls.setdefault(where, []).append(toll)
    if not tolls:
        passage.note(request, None, False)
        return None
    groups = tolls.items() if len(tolls) == 1 else sorted(tolls.items(), key=_hard_first)
    for (block, limiter), group in groups:
        refused = yield from _ask(request, passage, limiter, group, block=block)
        if refused is not None:
            return refused
    return None


def _hard_first(group: tuple[tuple[bool, Limiter], list[_Toll]]) -> bool:
    return not group[0][0]


def finish(passage: Passage, response: HttpResponseBase) -> HttpResponseBase:
    """Write the headers of the decision that speaks."""
    decision = passage.decision
    if decision is not None and hasattr(response, "headers"):
        responses.write_headers(response, decision, conf.current().settings)
    return response


def _toll(setup: conf.Setup, request: Any, limit: Limit, scope: str) -> Steps[_Toll | None]:
    if not limit.applies(request.method):
        return None
    if limit.skip_if is not None and (yield Call("skip_if", limit.skip_if, request)):
        return None
    cost = limit.cost
    if callable(cost):
        cost = yield Call("cost", cost, request)
        if isinstance(cost, bool) or not isinstance(cost, int) or cost < 0:
            raise ConfigError(f"the cost function of {limit.name(scope)!r} returned {cost!r}")
    if limit.by_address:
        who = identity.address_key(request, setup)
    else:
        who = yield from _identity(setup, request, limit)
    return _Toll(limit, (limit.policy(setup, scope), who, cost))


def _identity(setup: conf.Setup, request: Any, limit: Limit) -> Steps[str]:
    key = limit.key
    if callable(key):
        value = yield Call("key", key, request)
        return identity.address_key(request, setup) if value in (None, "") else str(value)
    if key.kind in ("user", "user_or_ip"):
        named = identity.user_value((yield User(request)))
    else:
        named = identity.named_value(request, key)
    return identity.address_key(request, setup) if named is None else named


def _ask(
    request: Any, passage: Passage, limiter: Limiter, group: list[_Toll], *, block: bool
) -> Steps[HttpResponseBase | None]:
    try:
        decision: Decision = yield Check(limiter, _merged(group))
    except StoreError:  # the limiter has told the log
        if block:
            return responses.unavailable(request)
        passage.note(request, None, True)
        return None
    passage.note(request, decision, not decision.allowed)
    if decision.allowed or not block:
        return None
    return (yield from _refusal(request, decision, group))


def _merged(group: list[_Toll]) -> list[Charge]:
    """The charges of a group; a limit that is stated twice is charged once, at the higher cost."""
    if len(group) == 1:
        return [group[0].charge]
    charges: dict[tuple[str, str], Charge] = {}
    for toll in group:
        policy, who, cost = toll.charge
        known = charges.get((policy.name, who))
        if known is None or known[2] < cost:
            charges[(policy.name, who)] = toll.charge
    return list(charges.values())


def _refusal(request: Any, decision: Decision, group: list[_Toll]) -> Steps[HttpResponseBase]:
    callback: Callable[..., Any] | None = next(
        (toll.limit.response_callback for toll in group if toll.charge[0].name == decision.policy),
        None,
    )
    callback = callback or conf.current().settings.response_callback
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
    for position, argument in enumerate(arguments[:2]):
        if isinstance(_plain(argument), HttpRequest):
            return argument, arguments[0] if position else None
    raise ConfigError(
        "rate_limit found no request among the view's first two arguments: "
        "decorate a view, and write @rate_limit() with parentheses"
    )
