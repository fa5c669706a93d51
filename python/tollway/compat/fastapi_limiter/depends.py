"""The dependencies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import Response, WebSocket
from fastapi.requests import HTTPConnection

from tollway import ConfigError, Decision, Policy
from tollway import Limiter as Engine
from tollway.asgi import get_limiter
from tollway.asgi.asking import answered
from tollway.asgi.limits import check
from tollway.asgi.passage import Passage
from tollway.compat.fastapi_limiter import FastAPILimiter
from tollway.compat.fastapi_limiter.decorators import SKIPS
from tollway.compat.fastapi_limiter.rates import Limiter, Rate
from tollway.errors import StoreError
from tollway.fastapi import Limit, RateLimitUnavailable
from tollway.identity import joined

BLOCKING_SECONDS: Final = 60.0
"""How long ``blocking=True`` waits for a place at most."""


class _Limited(Limit):
    """What both dependencies are: the limit, and whose callback answers a refusal."""

    def __init__(
        self,
        times: int | Limiter = 1,
        milliseconds: int = 0,
        seconds: int = 0,
        minutes: int = 0,
        hours: int = 0,
        identifier: Callable[..., Any] | None = None,
        callback: Callable[..., Any] | None = None,
        *,
        limiter: Limiter | None = None,
        blocking: bool = False,
    ) -> None:
        if isinstance(times, Limiter):
            limiter, times = times, 1
        self._needs_init = limiter is None
        if limiter is None:
            span = milliseconds + 1000 * (seconds + 60 * (minutes + 60 * hours))
            limiter = Limiter(Rate(times, span))
        # As there: windows that begin with the first request, and a log of requests.
        algorithm = "fixed_window:first" if self._needs_init else "sliding_log"
        name = "+".join(str(rate) for rate in limiter.rates)
        policy = Policy(name.replace(" ", "_"), limiter.rates, algorithm=algorithm)
        self._identifier, self._callback = identifier, callback
        self._blocking = blocking
        super().__init__(policy, limiter.engine, 1, self._who, "route", None)

    async def _who(self, connection: HTTPConnection) -> Any:
        return await answered((self._identifier or FastAPILimiter.identifier)(connection))

    def own_limiter(self) -> Engine:
        """Where this limit is counted."""
        if self.limiter is not None:
            return self.limiter
        if FastAPILimiter.engine is None and self._needs_init:
            raise ConfigError(
                "nothing says where requests are counted: call FastAPILimiter.init() when the "
                "application starts"
            )
        return FastAPILimiter.engine or get_limiter()


class RateLimiter(_Limited):
    """``Depends(RateLimiter(times=2, seconds=5))``, or ``RateLimiter(limiter=Limiter(...))``.

    ``identifier`` tells who is counted, ``callback(request, response, pexpire)`` what happens to a
    request too many; ``blocking=True`` waits for a place, 60 seconds at most.

    Raises :class:`tollway.ConfigError` where it is written, on a rate that counts nothing.
    """

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision | None:  # type: ignore[override]
        """What FastAPI calls."""
        if getattr(connection.scope.get("endpoint"), SKIPS, False):
            return None
        if self._blocking:
            return await self._wait(connection, response)
        return await super().__call__(connection, response)

    async def _wait(self, connection: HTTPConnection, response: Response) -> Decision:
        ((policy, key, cost),) = await self.charged(connection)
        engine = self.own_limiter()
        try:
            decision = await engine.aacquire(policy, key, cost, timeout=BLOCKING_SECONDS)
        except StoreError as error:  # the limiter has told the log
            raise RateLimitUnavailable from error
        Passage.of(connection.scope).note(decision)
        if not decision.allowed:
            await self.refuse(connection, response, decision)
        return decision

    async def refuse(
        self, connection: HTTPConnection, response: Response, decision: Decision
    ) -> None:
        """Have the callback answer; a request whose callback raises nothing goes on."""
        given = (connection, response, _milliseconds(decision))
        await _call(self._callback or FastAPILimiter.http_callback, given)


class WebSocketRateLimiter(_Limited):
    """``await WebSocketRateLimiter(times=1, seconds=5)(websocket, context_key=...)`` a message."""

    async def __call__(self, ws: WebSocket, context_key: str = "") -> None:  # type: ignore[override]
        """Count a message; the callback raises when it is one too many."""
        charges = [
            (policy, joined([key, context_key]), cost)
            for policy, key, cost in await self.charged(ws)
        ]
        decision = await check(self.own_limiter(), charges, ws.scope)
        if not decision.allowed:
            given = (ws, _milliseconds(decision))
            await _call(self._callback or FastAPILimiter.ws_callback, given)


def _milliseconds(decision: Decision) -> int:
    return -(-decision.retry_after_ns // 1_000_000)


async def _call(callback: Callable[..., Any], given: Sequence[Any]) -> None:
    """Call it with as many of these as it takes."""
    found = inspect.signature(callback).parameters.values()
    takes = len(given)
    if not any(item.kind is item.VAR_POSITIONAL for item in found):
        takes = sum(
            item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) for item in found
        )
    await answered(callback(*given[:takes]))
