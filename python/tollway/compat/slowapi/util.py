"""Functions for ``key_func=``."""

from __future__ import annotations

from starlette.requests import Request

from tollway.asgi.passage import address_rule


def get_remote_address(request: Request) -> str:
    """The client's address as it is counted: the peer's, or what a trusted proxy says of it.

    One of IPv6 stands for its /64 network, of which a client has every address.

    Proxies are named in ``tollway.asgi.set_limiter(..., trusted_proxies=[...])`` or in a
    ``LimiterMiddleware``.
    """
    return address_rule(request.scope).key(request.scope)


def get_ipaddr(request: Request) -> str:
    """The same: ``X-Forwarded-For`` is believed of trusted proxies only."""
    return address_rule(request.scope).key(request.scope)
