"""Rate limits for FastAPI: ``Depends(limit("5/10s"))`` or ``@rate_limit("5/10s")`` on a route.

A route is counted by its template (``/items/{item_id}``), not by the path of each request. All
limits of one route are checked together, all or nothing, in one round trip.

Headers: an answer that FastAPI makes of a handler's return value carries them as it is. Answers
that a handler makes itself (``return StreamingResponse(...)``) and errors that it raises carry
them once ``app.add_middleware(LimiterMiddleware)`` is there, since that works on the ASGI level;
handler signatures stay as they are.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fastapi import Depends, HTTPException, Response, WebSocket
from fastapi.requests import HTTPConnection

from tollway import Decision, Limiter
from tollway.answer import PROBLEM_JSON, UNAVAILABLE_SECONDS, unavailable_text
from tollway.asgi import (
    Body,
    Cost,
    Key,
    LimiterMiddleware,
    Policies,
    Scope,
    client_ip,
    compose,
    get_limiter,
    set_limiter,
)
from tollway.asgi.answering import decision_headers, pacer_detail, refusal, unavailable
from tollway.asgi.limits import (
    Charge,
    Plain,
    RouteLimit,
    Share,
    charges_of,
    check,
    due,
    plain,
    plain_charges,
    refuse_twins,
    route_name,
)
from tollway.asgi.passage import Passage, body_of
from tollway.errors import StoreError

__all__ = [
    "LimiterMiddleware",
    "RateLimitUnavailable",
    "RateLimited",
    "client_ip",
    "compose",
    "get_limiter",
    "limit",
    "rate_limit",
    "set_limiter",
]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class RateLimited(HTTPException):
    """A limit refused, or rules deny the client. Answered with 429 or 403 and problem+json, unless
    the application has an exception handler for it: ``@app.exception_handler(RateLimited)``."""

    def __init__(self, decision: Decision, scope: Scope, body: Body) -> None:
        self.decision = decision
        self._answer = refusal(decision, scope, body)
        headers = {name.decode(): value.decode() for name, value in self._answer[1][2:]}
        pacer = body == "pacer" and decision.status == 429
        detail = pacer_detail(decision) if pacer else decision.text()
        super().__init__(decision.status, detail=detail, headers=headers)

    def answer(self) -> Response:
        """The answer as bytes on the wire."""
        return _response(self._answer)


class RateLimitUnavailable(HTTPException):
    """The store is away and the limiter fails closed. Answered with 503 and ``Retry-After``."""

    def __init__(self) -> None:
        headers = {"Retry-After": str(UNAVAILABLE_SECONDS), "Content-Type": PROBLEM_JSON}
        super().__init__(503, detail=unavailable_text(), headers=headers)

    def answer(self) -> Response:
        """The answer as bytes on the wire."""
        return _response(unavailable())


def _response(answer: tuple[int, list[tuple[bytes, bytes]], bytes]) -> Response:
    status, headers, body = answer
    response = Response(body, status)
    response.raw_headers = headers
    return response


async def _handle(connection: Any, error: Any) -> Response | None:
    response: Response = error.answer()
    if not isinstance(connection, WebSocket):
        return response
    if "websocket.http.response" in connection.scope.get("extensions", {}):
        await connection.send_denial_response(response)
    else:
        await connection.close(1008, "rate limited")
    return None


def _turn_away(connection: HTTPConnection, error: RateLimited | RateLimitUnavailable) -> None:
    """Raise ``error``, and have it answered in problem+json without any set-up.

    Starlette keeps an application's exception handlers in the scope. One for this class that the
    application has registered itself stays; where the scope has none of this, FastAPI's own
    handler of HTTPException answers, with the same status, headers and sentence.
    """
    handlers = connection.scope.get("starlette.exception_handlers")
    if handlers is not None:
        handlers[0].setdefault(type(error), _handle)
    raise error


class Limit(RouteLimit):
    """What ``Depends(limit(...))`` calls. Made by :func:`limit`."""

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision:
        """Check this limit, and those of the route that can be checked with it."""
        passage = Passage.of(connection.scope)
        decision = passage.answers.get(self)
        if decision is None:
            decision = await _check_together(self, connection, passage)
        if not decision.allowed:
            await self.refuse(connection, response, decision)
        if passage.decision is not None:
            told = decision_headers(passage.decision, 200, response.raw_headers)
            response.raw_headers[:] = told
        return decision

    async def refuse(
        self, connection: HTTPConnection, response: Response, decision: Decision
    ) -> None:
        """Turn a request away."""
        body = self.body or body_of(connection.scope)
        _turn_away(connection, RateLimited(decision, connection.scope, body))

    async def check(self, connection: HTTPConnection) -> Decision:
        """Ask once more and raise nothing on a refusal: for each message of a WebSocket, say.

        Raises:
            RateLimitUnavailable: when the store is away and the limiter fails closed.
        """
        charges = await self.charged(connection)
        try:
            return await check(self.own_limiter(), charges, connection.scope)
        except StoreError as error:  # the limiter has told the log
            raise RateLimitUnavailable from error

    async def charged(self, connection: HTTPConnection) -> list[Charge]:
        """What this limit alone costs a request."""
        return await charges_of([self], connection.scope, connection, _route_of(connection).name)


def limit(
    policy: Policies | Sequence[Policies] | None = None,
    limiter: Limiter | None = None,
    cost: Cost = 1,
    key: Key | None = None,
    *,
    share: Share = "route",
    body: Body | None = None,
    skip_if: Callable[..., Any] | None = None,
) -> Limit:
    """A dependency that limits a route and returns the :class:`tollway.Decision`.

    ``policy`` is a :class:`tollway.Policy`, a rate such as ``"5/10s"``, or a list of these that
    are checked together. ``limiter`` is where counts are kept, by default that of
    :func:`set_limiter`. ``cost`` is what one request takes, ``key`` by what is counted: each a
    function of the request too, sync or async; requests of which ``skip_if`` is true are not
    limited. ``share="policy"`` makes all routes with this
    policy one count; by default each route has its own. ``body`` is how a refusal is worded, see
    :data:`tollway.asgi.Body`::

        @app.get("/ping")
        async def ping(decision: Annotated[Decision, Depends(limit("5/10s"))]):
            return {"left": decision.remaining}

        router = APIRouter(dependencies=[Depends(limit(["10/s", "1000/h"], key="header:X-Key"))])

    Raises :class:`tollway.ConfigError` where it is written, on a bad rate or key.
    """
    return Limit(policy, limiter, cost, key, share, body, skip_if)


def rate_limit(
    policy: Policies | Sequence[Policies] | None = None,
    limiter: Limiter | None = None,
    cost: Cost = 1,
    key: Key | None = None,
    *,
    share: Share = "route",
    body: Body | None = None,
    skip_if: Callable[..., Any] | None = None,
) -> Callable[[Endpoint], Endpoint]:
    """:func:`limit` as a decorator, written between the route and its handler::

    @app.get("/ping")
    @rate_limit("5/10s")
    async def ping(): ...
    """
    dependency = limit(policy, limiter, cost, key, share=share, body=body, skip_if=skip_if)

    def decorate(endpoint: Endpoint) -> Endpoint:
        limited: Endpoint = _with_dependency(endpoint, dependency)
        return limited

    return decorate


def _with_dependency(endpoint: Any, dependency: Limit) -> Any:
    """``endpoint`` with one parameter more, which FastAPI fills and the endpoint does not see."""
    try:
        signature = inspect.signature(endpoint, eval_str=True)
    except NameError:  # an annotation that only type checkers can resolve: FastAPI will say so
        signature = inspect.signature(endpoint)
    name = f"tollway_{sum(item.startswith('tollway_') for item in signature.parameters)}"

    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def limited(*arguments: Any, **named: Any) -> Any:
            named.pop(name, None)
            return await endpoint(*arguments, **named)
    else:

        @functools.wraps(endpoint)
        def limited(*arguments: Any, **named: Any) -> Any:
            named.pop(name, None)
            return endpoint(*arguments, **named)

    extra = inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=Depends(dependency), annotation=Any
    )
    parameters = list(signature.parameters.values())
    at = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        at -= 1
    parameters.insert(at, extra)
    setattr(limited, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
    return limited


@dataclass(frozen=True, slots=True)
class _Route:
    """The route that answers: the name it is counted under, and the limits on it."""

    name: str
    limits: tuple[Limit, ...]
    plain: Plain | None
    dependant: Any


_KNOWN: Final = "_tollway_routes"


def _route_of(connection: HTTPConnection) -> _Route:
    # FastAPI keeps the route as it was included (prefix, dependencies and all) apart from the
    # route as it was written; older versions know only the one.
    scope = connection.scope
    included = scope.get("fastapi", {}).get("effective_route_context")
    found = included if hasattr(included, "dependant") else scope.get("route")
    # Kept on the route itself, which it lives as long as: by its name, and by where the
    # application is, unless that has names of parameters in it.
    routes: dict[Any, _Route] | None = getattr(found, _KNOWN, None)
    if routes is None:
        routes = {}
        if found is not None:
            setattr(found, _KNOWN, routes)
    root = scope.get("root_path", "")
    place = (scope["type"], root)
    known = routes.get(place)
    if known is None:
        name = route_name(scope, found)
        known = routes.get(name)
        if known is None:
            dependant = getattr(found, "dependant", None)
            limits = tuple(dict.fromkeys(_limits_in(dependant)))
            refuse_twins(name, limits)
            known = routes[name] = _Route(name, limits, plain(limits, name), dependant)
        if root == scope.get("app_root_path", root) or not scope.get("path_params"):
            routes[place] = known
    return known


def _limits_in(dependant: Any, overridden: Mapping[Any, Any] | None = None) -> Iterator[Limit]:
    """The limits of dependencies and of those that they have, unless something stands in."""
    for inner in getattr(dependant, "dependencies", ()):
        if overridden and inner.call in overridden:
            continue
        if isinstance(inner.call, Limit):
            yield inner.call
        yield from _limits_in(inner, overridden)


_SPARED: Final = Limiter("memory://", max_keys=64)
"""What decides for requests that every limit skips: nothing is counted."""


def _due_with(
    own: Limit,
    route: _Route,
    limiter: Limiter,
    passage: Passage,
    overridden: Mapping[Any, Any],
) -> list[Limit]:
    """A limit and those of its route that are still to be checked and can be with it."""
    limits = dict.fromkeys(_limits_in(route.dependant, overridden)) if overridden else route.limits
    return [own] + [
        item
        for item in limits
        if item is not own
        and item not in passage.answers
        and item.own_limiter() is limiter
        and not item.waits()
    ]


async def _check_together(own: Limit, connection: HTTPConnection, passage: Passage) -> Decision:
    """Check a limit with all others of its route that are due, in one round trip.

    A limit whose key is a function waits for its own turn, since the function may need what
    earlier dependencies leave behind; write its policies as one list to have them together.
    """
    route = _route_of(connection)
    limiter = own.own_limiter()
    overridden = getattr(connection.scope.get("app"), "dependency_overrides", {})
    is_first = own in route.limits[:1] and not passage.answers and not overridden
    group: Sequence[Limit] = route.limits
    if route.plain is not None and is_first:
        passage.route = route.name
        charges = plain_charges(route.plain, connection.scope, connection)
    else:
        group = _due_with(own, route, limiter, passage, overridden)
        asked = await due(group, connection)
        if not asked:
            spared = _SPARED.peek(own.own_policies()[0], "spared", 0)
            passage.answers.update(dict.fromkeys(group, spared))
            return spared
        charges = await charges_of(asked, connection.scope, connection, route.name)
    try:
        decision = await check(limiter, charges, connection.scope)
    except StoreError:  # the limiter has told the log
        _turn_away(connection, RateLimitUnavailable())
        raise
    passage.note(decision)
    passage.answers.update(dict.fromkeys(group, decision))
    return decision
