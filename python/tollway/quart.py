"""Rate limits for Quart: ``@rate_limit("5/10s")`` below the route.

A route is counted by its rule (``/items/<int:item>``). Decorators that are stacked are one check,
one round trip and one set of headers. For a whole application::

    app.asgi_app = LimiterMiddleware(app.asgi_app, limiter, "100/m")
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from quart import (
    Response,
    after_this_request,
    current_app,
    has_websocket_context,
    request,
    websocket,
)

from tollway.answer import policy_name
from tollway.asgi import (
    LimiterMiddleware,
    client_ip,
    compose,
    get_limiter,
    rate_limit_of,
    set_limiter,
)
from tollway.asgi.answering import Answer, written
from tollway.asgi.limits import STACK, Decorator, Stack

__all__ = [
    "LimiterMiddleware",
    "client_ip",
    "compose",
    "get_limiter",
    "rate_limit",
    "rate_limit_of",
    "set_limiter",
]


def _limited(view: Any, stack: Stack) -> Any:
    @functools.wraps(view)
    async def limited(*arguments: Any, **named: Any) -> Any:
        is_websocket = has_websocket_context()
        asked: Any = websocket if is_websocket else request
        scope = asked.scope
        answer = await stack.turned_away(scope, asked, _route_name(asked.url_rule, is_websocket))
        if answer is not None:
            return _response(answer)
        if not is_websocket:
            after_this_request(_with_headers(scope))
        return await current_app.ensure_async(view)(*arguments, **named)

    setattr(limited, STACK, stack)
    return limited


rate_limit = Decorator(_limited)
"""Limits a view or a WebSocket. ``rate_limit_of(request.scope)`` is the decision."""


def _with_headers(scope: Any) -> Callable[[Any], Any]:
    async def write(response: Any) -> Any:
        decision = rate_limit_of(scope)
        if decision is not None:
            for name, value in written(decision, response.status_code):
                response.headers[name] = value
        return response

    return write


def _route_name(rule: Any, is_websocket: bool) -> str:
    methods = {"WEBSOCKET"} if is_websocket else set(rule.methods) - {"HEAD", "OPTIONS"}
    return policy_name("+".join(sorted(methods)), rule.rule)


def _response(answer: Answer) -> Response:
    status, headers, body = answer
    pairs = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return Response(body, status, pairs)
