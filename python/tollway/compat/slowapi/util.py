"""Functions for ``key_func=``."""

from __future__ import annotations

from starlette.requests import Request

from tollway.asgi import client_ip


def get_remote_address(request: Request) -> str:
    """The client's address: the peer, or what a trusted proxy says of it.

    Proxies are named in ``tollway.asgi.set_limiter(..., trusted_proxies=[...])`` or in a
    ``LimiterMiddleware``.
    """
    return client_ip(request.scope)


def get_ipaddr(request: Request) -> str:
    """The same: ``X-Forwarded-For`` is believed of trusted proxies only."""
    return client_ip(request.scope)
