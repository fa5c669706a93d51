"""What happens to a request too many, unless something else is said."""

from __future__ import annotations

from typing import NoReturn

from fastapi import HTTPException, Request, Response, WebSocket

from tollway.asgi import rate_limit_of


async def default_callback(request: Request, response: Response, pexpire: int) -> NoReturn:
    """429, "Too Many Requests" and ``Retry-After``; ``pexpire`` is the wait in milliseconds."""
    decision = rate_limit_of(request.scope)
    headers = {} if decision is None else dict(decision.headers())
    headers["Retry-After"] = str(-(-pexpire // 1000))
    raise HTTPException(429, "Too Many Requests", headers=headers)


async def ws_default_callback(ws: WebSocket, pexpire: int) -> NoReturn:
    """The same for a message of a WebSocket: the handler catches it."""
    headers = {"Retry-After": str(-(-pexpire // 1000))}
    raise HTTPException(429, "Too Many Requests", headers=headers)
