"""Who is counted, unless something else is said."""

from __future__ import annotations

from fastapi.requests import HTTPConnection

from tollway.asgi.passage import address_rule


async def default_identifier(request: HTTPConnection) -> str:
    """The client's address and the path; an address of IPv6 stands for its /64 network.

    ``X-Forwarded-For`` is believed of trusted proxies only, which ``tollway.asgi.set_limiter()`` or
    a ``LimiterMiddleware`` names.
    """
    return f"{address_rule(request.scope).key(request.scope)}:{request.scope['path']}"
