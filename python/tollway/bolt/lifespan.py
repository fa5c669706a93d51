"""What an API sets up before the first request and takes down after the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollway.bolt.api import BoltAPI

__all__ = ["Lifespan", "lifespans"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""An async context manager made for an API: ``@asynccontextmanager async def lifespan(api)``."""


@asynccontextmanager
async def lifespans(apis: Iterable[BoltAPI]) -> AsyncIterator[None]:
    """Enter the lifespan of each API, mounted ones after those that hold them; leave in reverse.

    One that fails on the way in keeps the process from serving; what was entered is left again.
    """
    async with AsyncExitStack() as stack:
        for api in apis:
            for holder in (api, *api.holders()):
                lifespan: Lifespan | None = getattr(holder, "lifespan", None)
                if lifespan is not None:
                    await stack.enter_async_context(lifespan(holder))
        yield
