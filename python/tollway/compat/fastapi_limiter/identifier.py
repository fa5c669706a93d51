"""Who is counted, unless something else is said."""

from __future__ import annotations

from fastapi.requests import HTTPConnection

from tollway.asgi import client_ip


async def default_identifier(request: HTTPConnection) -> str:
    """The client's address and the path. ``X-Forwarded-For`` is believed of trusted proxies only,
    which ``tollway.asgi.set_limiter()`` or a ``LimiterMiddleware`` names."""
    return f"{client_ip(request.scope)}:{request.scope['path']}"
