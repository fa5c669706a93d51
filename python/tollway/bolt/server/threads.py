"""Plain functions that an async handler waits for, on threads of their own.

A context variable that such a function sets is set for the handler too. A thread cannot be
stopped: when the client goes away, what runs is waited for, so that nothing is cleaned up while
it is still in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any

__all__ = ["Threads", "Wrapper"]

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What makes a function of a function."""


class Threads:
    """At most ``count`` threads, started when they are first needed.

    ``around`` is put around everything that runs there. What waits for a thread is bounded by
    the number of handlers that may be suspended.
    """

    def __init__(self, count: int = 4, around: Wrapper | None = None) -> None:
        self.count = count
        self.around = around or (lambda call: call)
        self._executor: ThreadPoolExecutor | None = None

    def called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """An async function that calls ``function`` on a thread."""
        return partial(self.run, self.around(function))

    def entered(self, manager: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
        """An async context manager that enters and leaves that of ``manager`` on a thread."""

        @asynccontextmanager
        async def opened(*values: Any, **named: Any) -> AsyncIterator[Any]:
            inner = manager(*values, **named)
            enter, leave = self.around(inner.__enter__), self.around(inner.__exit__)
            try:
                value = await self.run(enter)
            except asyncio.CancelledError as error:
                # It was entered all the same: the thread did not hear of it.
                await self.run(leave, type(error), error, error.__traceback__)
                raise
            try:
                yield value
            except BaseException as error:
                if not await self.run(leave, type(error), error, error.__traceback__):
                    raise
            else:
                await self.run(leave, None, None, None)

        return opened

    async def run(self, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Call ``function`` on a thread and wait for its end."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.count, thread_name_prefix="tollway-dependency")
        context = copy_context()
        call = partial(context.run, function, *values, **named)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()
            raise cancelled
        _adopt(context)
        return future.result()


def _adopt(context: Context) -> None:
    """Set what was set in ``context``."""
    here = copy_context()
    for variable, value in context.items():
        if here.get(variable, Threads) is not value:
            variable.set(value)
