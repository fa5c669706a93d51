"""Rate limits for Litestar: ``guards=[limit("5/10s")]`` on a handler, controller, router or app.

A route is counted by its template. All limits of one route are one check, one round trip and one
set of headers. :class:`LimiterPlugin` writes the headers of every answer and the body of refusals,
and limits the whole application if you give it a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from litestar import Request, Response
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.plugins import InitPlugin

from tollway import Limiter
from tollway.answer import policy_name
from tollway.asgi import (
    Body,
    Cost,
    Key,
    LimiterMiddleware,
    Policies,
    client_ip,
    compose,
    get_limiter,
    rate_limit_of,
    set_limiter,
)
from tollway.asgi.answering import Answer
from tollway.asgi.limits import RouteLimit, Share, Stack
from tollway.asgi.passage import Passage

__all__ = [
    "Limit",
    "LimiterMiddleware",
    "LimiterPlugin",
    "RateLimited",
    "client_ip",
    "compose",
    "get_limiter",
    "limit",
    "rate_limit_of",
    "set_limiter",
]


class RateLimited(HTTPException):
    """A limit refused (429), rules deny the client (403), or nobody can count (503)."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        status, headers, _ = answer
        pairs = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers[2:]}
        super().__init__(status_code=status, headers=pairs)


class Limit(RouteLimit):
    """A guard. Made by :func:`limit`."""

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """Check this limit with the others of its route; the first one checks them all."""
        scope: Any = connection.scope
        answers = Passage.of(scope).answers
        if self in answers:
            return
        limits = list(dict.fromkeys(g for g in handler.resolve_guards() if isinstance(g, Limit)))
        methods = "+".join(sorted(getattr(handler, "http_methods", None) or ("WEBSOCKET",)))
        name = policy_name(methods, scope.get("root_path", ""), scope["path_template"])
        answer = await Stack(limits or [self]).turned_away(scope, connection, name)
        if answer is not None:
            raise RateLimited(answer)
        spoken = rate_limit_of(scope)
        if spoken is not None:
            answers.update(dict.fromkeys(limits, spoken))


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
    """A guard that limits routes.

    The parameters are those of :func:`tollway.fastapi.limit`; functions are given the connection.
    ``rate_limit_of(request.scope)`` is the decision.

    Raises :class:`tollway.ConfigError` where it is written, on a bad rate or key.
    """
    return Limit(policy, limiter, cost, key, share, body, skip_if)


class LimiterPlugin(InitPlugin):
    """Puts :class:`LimiterMiddleware` around every route and words what guards refuse.

    The arguments are those of the middleware; without any it limits nothing of its own.
    """

    def __init__(
        self,
        limiter: Limiter | None = None,
        policy: Policies | Sequence[Policies] | None = None,
        **options: Any,
    ) -> None:
        self._middleware = DefineMiddleware(
            LimiterMiddleware,  # type: ignore[arg-type]
            limiter=limiter,
            policy=policy,
            **options,
        )

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """What Litestar calls."""
        app_config.middleware.insert(0, self._middleware)
        handlers: Any = app_config.exception_handlers
        handlers.setdefault(RateLimited, _worded)
        return app_config


def _worded(request: Request[Any, Any, Any], error: RateLimited) -> Response[bytes]:
    status, headers, body = error.answer
    pairs = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    media_type = pairs.pop("content-type")
    pairs.pop("content-length")
    return Response(body, status_code=status, headers=pairs, media_type=media_type)
