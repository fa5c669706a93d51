"""The middleware: default limits and limits of the whole application."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match

from tollway import Decision
from tollway.asgi.answering import refuse, unavailable, with_headers
from tollway.asgi.passage import Passage
from tollway.asgi.wire import ASGIApp, Headers, Receive, Scope, Send
from tollway.compat.slowapi.errors import RateLimitExceeded
from tollway.compat.slowapi.extension import (
    EXEMPT,
    WRITTEN,
    Limiter,
    _rate_limit_exceeded_handler,
)
from tollway.errors import StoreError


class SlowAPIASGIMiddleware:
    """Asks the limits of ``app.state.limiter`` for endpoints that have none of their own.

    Endpoints with a decorator ask theirs together with those of the application. Headers are
    written on every answer, whatever made it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        limiter = getattr(scope["app"].state, "limiter", None) if "app" in scope else None
        if scope["type"] != "http" or not isinstance(limiter, Limiter) or not limiter.enabled:
            await self.app(scope, receive, send)
            return
        endpoint = _endpoint(scope["app"].routes, scope)
        decorated = hasattr(endpoint, WRITTEN) or hasattr(endpoint, EXEMPT)

        def headers(
            decision: Decision, status: int, among: Iterable[tuple[bytes, bytes]]
        ) -> Headers:
            own = [(name.lower().encode(), v.encode()) for name, v in limiter.headers(decision)]
            names = dict(own)
            return [*(item for item in among if item[0].lower() not in names), *own]

        send = with_headers(Passage.of(scope), send, headers)
        if endpoint is not None and not decorated and limiter.auto_check:
            request: Any = Request(scope)
            try:
                await limiter.acheck(request, limiter.charges(request, endpoint))
            except RateLimitExceeded as error:
                handlers = scope["app"].exception_handlers
                handler = handlers.get(RateLimitExceeded, _rate_limit_exceeded_handler)
                response: Any = handler(request, error)
                if inspect.isawaitable(response):
                    response = await response
                await response(scope, receive, send)
                return
            except HTTPException as error:
                if not isinstance(error.__cause__, StoreError):
                    raise
                await refuse(scope, receive, send, unavailable())
                return
        await self.app(scope, receive, send)


SlowAPIMiddleware = SlowAPIASGIMiddleware
"""The same: there is no slower one here."""


def _endpoint(routes: Iterable[Any], scope: Scope) -> Any:
    """The endpoint that will answer, as the framework will find it; ``None`` for none."""
    for item in routes:
        route = getattr(item, "starlette_route", None) or item
        if not hasattr(route, "matches"):
            continue
        match, child = route.matches(scope)
        if match is Match.FULL:
            # A router that FastAPI has included, or a mount, or the route itself.
            included = getattr(route, "effective_route_contexts", None)
            inner = included() if included is not None else getattr(route, "routes", None)
            if inner:
                return _endpoint(inner, {**scope, **child})
            return child.get("endpoint", getattr(route, "endpoint", None))
    return None
