"""Rate limits for any ASGI application: FastAPI, Starlette, Litestar, Quart, Django.

:class:`LimiterMiddleware` speaks plain ASGI and imports no framework::

    app = LimiterMiddleware(app, Limiter("redis://127.0.0.1:6379/0"), "100/m")

It limits HTTP requests, WebSocket upgrades and WebSocket messages, and writes the headers of every
answer that passes through it, those of limits checked further in included.
"""

from tollway.asgi.answering import Body, decision_headers
from tollway.asgi.asking import Cost
from tollway.asgi.extractors import Key, compose
from tollway.asgi.limits import Policies
from tollway.asgi.middleware import LimiterMiddleware
from tollway.asgi.passage import (
    Facts,
    client_ip,
    get_limiter,
    rate_limit_of,
    set_limiter,
)
from tollway.asgi.wire import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "ASGIApp",
    "Body",
    "Cost",
    "Facts",
    "Key",
    "LimiterMiddleware",
    "Message",
    "Policies",
    "Receive",
    "Scope",
    "Send",
    "client_ip",
    "compose",
    "decision_headers",
    "get_limiter",
    "rate_limit_of",
    "set_limiter",
]
