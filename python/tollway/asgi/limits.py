"""The limits of a route: what was written of them, and how they are asked together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from inspect import iscoroutinefunction
from typing import Any, Final, Literal, TypeVar

from tollway import ConfigError, Decision, Limiter, Policy, Rate
from tollway.answer import policy_name
from tollway.asgi.answering import Answer, Body, read_body, refusal, unavailable
from tollway.asgi.asking import Cost, answered, cost_of, read_cost
from tollway.asgi.extractors import Extractor, Key, extractor, settled, waits
from tollway.asgi.passage import (
    Passage,
    address_rule,
    body_of,
    get_limiter,
    rules_of,
    subject_of,
)
from tollway.asgi.wire import Scope
from tollway.errors import StoreError
from tollway.rules import Rules

Policies = Policy | Rate | str
"""A policy, or a rate that becomes one named after itself."""
Share = Literal["route", "policy"]
Charge = tuple[Policy, str, int]


def as_policies(stated: Policies | Sequence[Policies]) -> tuple[Policy, ...]:
    """Policies from what a person wrote; a bare rate is named after itself."""
    items = [stated] if isinstance(stated, Policy | Rate | str) else list(stated)
    if not items:
        raise ConfigError('no policy was given; write one like limit("100/m")')
    return tuple(
        item if isinstance(item, Policy) else Policy(policy_name(str(item)), [item])
        for item in items
    )


STACK: Final = "_tollway_stack"
"""The attribute of an endpoint that holds its :class:`Stack`."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Ask = Callable[[Limiter, Sequence[Charge], Scope], Awaitable[Decision]]


def check(limiter: Limiter, charges: Sequence[Charge], scope: Scope) -> Awaitable[Decision]:
    """Ask a limiter, by the rules if there are any, all or nothing, in one round trip."""
    rules = rules_of(scope)
    if rules is not None:
        return _ruled(rules, limiter, charges, scope)
    return limiter.acheck(*charges[0]) if len(charges) == 1 else limiter.acheck_all(charges)


async def _ruled(
    rules: Rules, limiter: Limiter, charges: Sequence[Charge], scope: Scope
) -> Decision:
    return await rules.acheck(limiter, charges, await subject_of(scope))


def named(policy: Policy, name: str) -> Policy:
    """A policy under another name, the same in all else."""
    refill = policy.refill_every
    return Policy(
        name,
        policy.rates,
        key=policy.key,
        algorithm=policy.algorithm,
        fail_mode=policy.fail_mode,
        refill_every=f"{round(refill * 1000)}ms" if refill else None,
        initial_tokens=policy.initial_tokens,
        tokens_per_request=policy.tokens_per_request,
        allow_partial=policy.allow_partial,
    )


class RouteLimit:
    """One limit as it is written on a route; the doors of frameworks build upon it."""

    def __init__(
        self,
        policy: Policies | Sequence[Policies] | None,
        limiter: Limiter | None,
        cost: Cost,
        key: Key | None,
        share: Share,
        body: Body | None,
        skip_if: Callable[..., Any] | None = None,
    ) -> None:
        if share not in ("route", "policy"):
            raise ConfigError(f'share={share!r}: it is "route" or "policy"')
        if policy is None and limiter is not None:
            policy = limiter.default_policy
        self.policies = None if policy is None else as_policies(policy)
        self.limiter = limiter
        self.cost = read_cost(cost)
        self.key = key
        self.share = share
        self.body = None if body is None else read_body(body)
        if skip_if is not None and not callable(skip_if):
            raise ConfigError(f"skip_if={skip_if!r}: it is a function of the request")
        self.skip_if = skip_if
        self._asked = None if self.policies is None else self._asking(self.policies)
        self.is_plain = skip_if is None and self._names_at_once()
        """Whether a request tells at once that it is limited, and whom it is counted for."""
        self._scoped: dict[tuple[str, str], Policy] = {}

    def __deepcopy__(self, known: object) -> RouteLimit:
        """Frameworks copy their routes; a limit stays the one it is."""
        return self

    def own_limiter(self) -> Limiter:
        """Where this limit is counted."""
        return self.limiter or get_limiter()

    def own_policies(self) -> tuple[Policy, ...]:
        """The policies of this limit, else the default limiter's."""
        if self.policies is not None:
            return self.policies
        policy = self.own_limiter().default_policy
        if policy is None:
            raise ConfigError(
                "limit() names no policy and the limiter has no default one: "
                'write limit("100/m") or Limiter(url, default_policy=Policy(...))'
            )
        return (policy,)

    def _asking(self, policies: Iterable[Policy]) -> list[tuple[Policy, Extractor]]:
        return [(item, extractor(self.key or item.key or "ip")) for item in policies]

    def waits(self) -> bool:
        """Whether its key is a function, which may need what others before it leave."""
        return any(waits(self.key or policy.key) for policy in self.own_policies())

    def _names_at_once(self) -> bool:
        if self.limiter is None and type(self).own_limiter is not RouteLimit.own_limiter:
            return False
        return self._asked is not None and all(
            isinstance(self.key or policy.key or "ip", str) and not iscoroutinefunction(extract)
            for policy, extract in self._asked
        )

    def asked(self) -> list[tuple[Policy, Extractor]]:
        """Its policies, each with what tells who is counted."""
        return self._asked or self._asking(self.own_policies())

    def counted(self, policy: Policy, route: str) -> Policy:
        """The policy as it counts: one count a route, unless it is shared on purpose."""
        if self.share == "policy":
            return policy
        known = self._scoped.get((policy.name, route))
        if known is None:
            name = policy_name(policy.name, route)
            known = named(policy, name)
            self._scoped[(policy.name, route)] = known
        return known


async def due(limits: Sequence[RouteLimit], argument: object) -> Sequence[RouteLimit]:
    """Those of some limits that are not skipped."""
    if all(item.skip_if is None for item in limits):
        return limits
    return [
        item
        for item in limits
        if item.skip_if is None or not await answered(item.skip_if(argument))
    ]


async def charges_of(
    limits: Iterable[RouteLimit], scope: Scope, argument: object, route: str
) -> list[Charge]:
    """What several limits of one route cost a request, and whom; ``argument`` is what functions
    are given, ``route`` is empty before any routing.

    A limit that is said twice, on a router and on its route, is one.
    """
    if route:
        Passage.of(scope).route = route
    charges = []
    for item in limits:
        cost = item.cost
        if cost.__class__ is not int:
            cost = await cost_of(cost, argument)
        for policy, extract in item.asked():
            found = extract(scope, argument)
            if found.__class__ is not str or not found:
                found = await settled(found, scope)
            charges.append((item.counted(policy, route), found, cost))
    return charges if len(charges) == 1 else list(dict.fromkeys(charges))


Plain = list[tuple[Policy, Extractor, int]]


def plain(limits: Sequence[RouteLimit], route: str) -> Plain | None:
    """What limits of one limiter ask of every request of a route, when each of them is plain."""
    asked: Plain = []
    for item in limits:
        cost = item.cost
        if not item.is_plain or item.limiter is not limits[0].limiter or not isinstance(cost, int):
            return None
        asked += [(item.counted(policy, route), extract, cost) for policy, extract in item.asked()]
    return asked or None


def plain_charges(asked: Plain, scope: Scope, argument: object) -> list[Charge]:
    """What :func:`charges_of` answers for plain limits, at once."""
    charges = []
    for policy, extract, cost in asked:
        found = extract(scope, argument) or address_rule(scope).key(scope)
        charges.append((policy, found, cost))
    return charges if len(charges) == 1 else list(dict.fromkeys(charges))


class Stack:
    """The limits of one route, checked together: one check for each limiter there is."""

    def __init__(self, limits: Iterable[RouteLimit] = ()) -> None:
        self.limits = list(limits)
        self._plain: dict[str, Plain | None] = {}

    @classmethod
    def on(cls, endpoint: Any, limit: RouteLimit) -> Stack | None:
        """Put a limit before those that ``endpoint`` has already; ``None`` if it has none yet."""
        found = getattr(endpoint, STACK, None)
        if not isinstance(found, cls):
            return None
        found.limits.insert(0, limit)
        found._plain.clear()
        return found

    async def turned_away(
        self, scope: Scope, argument: object, route: str, ask: Ask = check
    ) -> Answer | None:
        """What to answer in place of the endpoint, if it shall not be called."""
        if route not in self._plain:
            refuse_twins(route, self.limits)
            self._plain[route] = plain(self.limits, route)
        known = self._plain[route]
        passage = Passage.of(scope)
        if route:
            passage.route = route
        groups = self._groups() if known is None else ((self.limits[0].own_limiter(), self.limits),)
        for limiter, group in groups:
            if known is not None:
                charges = plain_charges(known, scope, argument)
            else:
                asked = await due(group, argument)
                if not asked:
                    continue
                charges = await charges_of(asked, scope, argument, route)
            try:
                decision = await ask(limiter, charges, scope)
            except StoreError:  # the limiter has told the log
                return unavailable()
            passage.note(decision)
            if not decision.allowed:
                return refusal(decision, scope, group[0].body or body_of(scope))
        return None

    def _groups(self) -> Iterable[tuple[Limiter, list[RouteLimit]]]:
        """The limits by where they are counted."""
        groups: dict[Limiter, list[RouteLimit]] = {}
        for item in self.limits:
            groups.setdefault(item.own_limiter(), []).append(item)
        return groups.items()


class Decorator:
    """The ``rate_limit`` of a framework, made of how it puts an endpoint behind a stack."""

    def __init__(self, limited: Callable[[Any, Stack], Any]) -> None:
        self._limited = limited

    def __call__(
        self,
        policy: Policies | Sequence[Policies] | None = None,
        limiter: Limiter | None = None,
        cost: Cost = 1,
        key: Key | None = None,
        *,
        share: Share = "route",
        body: Body | None = None,
        skip_if: Callable[..., Any] | None = None,
    ) -> Callable[[Endpoint], Endpoint]:
        """Limit an endpoint, written between the route and the function.

        The parameters are those of :func:`tollway.fastapi.limit`; functions are given the request
        of the framework. Decorators that are stacked are one check.

        Raises :class:`tollway.ConfigError` where it is written, on a bad rate or key.
        """
        item = RouteLimit(policy, limiter, cost, key, share, body, skip_if)

        def decorate(endpoint: Any) -> Any:
            return endpoint if Stack.on(endpoint, item) else self._limited(endpoint, Stack([item]))

        return decorate


def refuse_twins(route: str, limits: Iterable[RouteLimit]) -> None:
    """Two policies of one name on one route would share a count that neither means."""
    seen: dict[tuple[str, object], Policy] = {}
    for item in limits:
        for policy in item.own_policies():
            twin = seen.setdefault((policy.name, item.key or policy.key), policy)
            if twin.rates != policy.rates:
                raise ConfigError(
                    f"two policies on {route or 'one middleware'} are both named {policy.name!r}: "
                    "give each Policy its own name"
                )


_NO_ROUTE: Final = "unrouted"


def route_name(scope: Scope, route: Any, method: str | None = None) -> str:
    """The name that a route of Starlette or FastAPI is counted under: methods and template.

    ``method`` is the one of an endpoint that has a function for each.
    Where it was mounted is part of it, as written: ``/{tenant}/items/{id}`` is one route.
    """
    methods = {method} if method else set(getattr(route, "methods", None) or _kinds(scope))
    if "GET" in methods:
        methods.discard("HEAD")  # which Starlette adds by itself
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template is None:
        endpoint = scope.get("endpoint")
        module = getattr(endpoint, "__module__", "")
        template = f"{module}.{getattr(endpoint, '__qualname__', _NO_ROUTE)}"
    return policy_name("+".join(sorted(methods)), _mounted_at(scope), template)


def _kinds(scope: Scope) -> tuple[str]:
    return ("WEBSOCKET",) if scope["type"] == "websocket" else ("ANY",)


def _mounted_at(scope: Scope) -> str:
    """Where the application that answers is mounted, with the names of parameters in it."""
    root: str = scope.get("root_path", "")
    above: str | None = scope.get("app_root_path")
    if above is None or not scope.get("path_params"):
        return root
    # What was matched is not kept by the mounts, so the way is gone once more.
    probe = {**scope, "root_path": above, "path_params": {}}
    routes = getattr(scope.get("router"), "routes", ())
    template = above
    while probe["root_path"] != root:
        step = next(
            (
                (route, child)
                for route in routes
                if hasattr(route, "app") and hasattr(route, "routes")
                for child in (route.matches(probe)[1],)
                if child
            ),
            None,
        )
        if step is None:  # behind what cannot be looked into; clients choose the rest of the root
            break
        template += getattr(step[0], "path", "")  # which a Host has not
        probe.update(step[1])
        routes = _routes_below(step[0])
    return template


def _routes_below(route: Any) -> Sequence[Any]:
    """The routes of what is mounted, be it behind middleware."""
    app, routes = route.app, route.routes
    while not routes and hasattr(app, "app"):
        app = app.app
        routes = getattr(app, "routes", ())
    found: Sequence[Any] = routes
    return found
