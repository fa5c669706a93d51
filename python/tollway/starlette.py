"""Rate limits for Starlette: ``@rate_limit("5/10s")`` on an endpoint.

A route is counted by its template, mounts included. Decorators that are stacked are one check, one
round trip and one set of headers. Answers that are raised carry headers once
``Middleware(LimiterMiddleware)`` is there.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from tollway import Decision
from tollway.asgi import (
    LimiterMiddleware,
    client_ip,
    compose,
    get_limiter,
    rate_limit_of,
    set_limiter,
)
from tollway.asgi.answering import Answer, decision_headers, refuse
from tollway.asgi.limits import STACK, Decorator, Stack, route_name

__all__ = [
    "LimiterMiddleware",
    "client_ip",
    "compose",
    "get_limiter",
    "rate_limit",
    "rate_limit_of",
    "set_limiter",
]


def _limited(endpoint: Any, stack: Stack) -> Any:
    is_async = inspect.iscoroutinefunction(endpoint)

    @functools.wraps(endpoint)
    async def limited(*arguments: Any, **named: Any) -> Any:
        connection = next(item for item in arguments if isinstance(item, HTTPConnection))
        scope = connection.scope
        method = None if arguments[0] is connection else endpoint.__name__.upper()
        route = route_name(scope, scope.get("route"), method)
        answer = await stack.turned_away(scope, connection, route)
        if answer is not None:
            return await _turn_away(connection, answer)
        if is_async:
            response = await endpoint(*arguments, **named)
        else:
            response = await run_in_threadpool(endpoint, *arguments, **named)
        decision = rate_limit_of(scope)
        if decision is not None and isinstance(response, Response):
            return _told(response, decision)
        return response

    setattr(limited, STACK, stack)
    return limited


def _told(response: Response, decision: Decision) -> Response:
    """The same answer with headers of a decision, which are this request's alone.

    An endpoint may return one object for ever, and others may return it, too.
    """
    own = copy.copy(response)
    own.raw_headers = decision_headers(decision, response.status_code, response.raw_headers)
    vars(own).pop("_headers", None)  # what ``headers`` has kept of the others
    return own


rate_limit = Decorator(_limited)
"""Limits an endpoint: a function, sync or async, for requests or a WebSocket, or a method of an
``HTTPEndpoint``. ``rate_limit_of(request.scope)`` is the decision."""


async def _turn_away(connection: HTTPConnection, answer: Answer) -> Response | None:
    if isinstance(connection, WebSocket):
        await refuse(connection.scope, connection.receive, connection.send, answer)
        return None
    status, headers, body = answer
    response = Response(body, status)
    response.raw_headers = headers
    return response
