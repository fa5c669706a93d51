"""The middleware of one route and its handler as one function.

Everything is written once, as coroutines. Where a route runs on a thread none of them ever waits,
so that one step runs them from the first line to the last, without an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

from tollway.bolt.compiling.scope import Scope, skipped
from tollway.bolt.error_handlers import ErrorHandler
from tollway.bolt.middleware.django_adapter import stack_of
from tollway.bolt.middleware.kinds import Inner, Layer, layer_of, middleware_of
from tollway.bolt.responses import PlainText, Response
from tollway.bolt.server.threads import Threads

__all__ = ["layers_of", "response_of", "wrapped"]


def layers_of(handler: Callable[..., Any], scopes: tuple[Scope, ...]) -> list[Layer]:
    """What stands before a handler, the outermost first: Django's middleware as the nearest holder
    wants it, then what the API says, then its routers, then the handler."""
    skip = skipped(handler)
    django = [scope.django for scope in scopes if scope.django is not None]
    layers: list[Layer] = list(stack_of(django[-1], skip)) if django else []
    layers += [layer_of(item) for scope in scopes for item in scope.middleware]
    layers = [layer for layer in layers if "*" not in skip and not layer.names & skip]
    return [*layers, *(layer_of(item) for item in middleware_of(handler))]


def wrapped(
    call: Callable[..., Any],
    *,
    handler: Callable[..., Any],
    mode: str,
    layers: list[Layer],
    finish: Callable[[Any], Response],
    errors: ErrorHandler,
    threads: Threads,
) -> tuple[str, Callable[..., Any]]:
    """The function of ``(request, *values)`` for the server, and the mode it runs in."""
    colours = {layer.colour for layer in layers}
    kind: type[_Place]
    if mode != "async" and "async" not in colours:
        kind = _OnThread
    else:
        kind = _Mixed if "sync" in colours else _OnLoop
    place = kind(handler, errors, threads)

    def made(*values: Any) -> Response:
        # Where the handler ran: what it returned may ask the database still.
        return finish(call(*values))

    below = call if mode == "async" else place.called(made)

    async def endpoint(request: Any) -> Response:
        try:
            value = await below(*request._values)
        except Exception as error:
            for ask in place.raised:
                found = await ask(request, error)
                if found is not None:
                    return found
            # What the client is to hear of is an answer; the rest is an exception for all.
            answer = errors.expected(error)
            if answer is None:
                raise
            return answered(answer)
        return finish(value) if mode == "async" else value

    chain: Inner = endpoint
    for layer in reversed(layers):
        chain = layer.around(chain, place)
    return ("async" if not place.sync else mode), place.begun(chain)


def answered(answer: tuple[int, list[tuple[str, str]], bytes]) -> Response:
    """An answer as a response that middleware can change."""
    status, headers, body = answer
    return Response(body, status, headers)


def response_of(status_code: int, built: Callable[[Any], Any]) -> Callable[[Any], Response]:
    """What makes a response of whatever a handler returns."""

    def response(value: Any) -> Response:
        if not isinstance(value, Response):
            value = built(value)
        if isinstance(value, Response):
            return value
        if status_code == 204:
            return Response(b"", 204)
        shape = PlainText if isinstance(value, str) else Response
        return shape(value, status_code)

    return response


def step(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a middleware of a plain handler waited for something: write it `async def`")


class _Place:
    """Where the middleware of a route run. See :class:`tollway.bolt.middleware.kinds.Place`."""

    sync = False

    def __init__(self, handler: Callable[..., Any], errors: ErrorHandler, threads: Threads) -> None:
        self.handler = handler
        self.errors = errors
        self.threads = threads
        self.raised: list[Callable[[Any, Exception], Awaitable[Response | None]]] = []

    def plain(self, inner: Any) -> Callable[[Any], Response]:
        made: Callable[[Any], Response] = async_to_sync(inner)
        return made

    def called(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        return self.threads.called(function)

    def begun(self, chain: Inner) -> Callable[..., Any]:
        async def begin(request: Any, *values: Any) -> Response:
            request._values = values
            return await chain(request)

        return begin


class _OnLoop(_Place):
    """Everything on the event loop; a plain handler, and what may wait, on a thread."""


class _OnThread(_Place):
    """Everything on the thread of a plain handler."""

    sync = True

    def plain(self, inner: Any) -> Callable[[Any], Response]:
        return lambda request: step(inner(request))

    def called(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def call(*values: Any) -> Any:
            return function(*values)

        return call

    def begun(self, chain: Any) -> Callable[..., Any]:
        def begin(request: Any, *values: Any) -> Any:
            request._values = values
            return step(chain(request))

        return begin


class _Mixed(_Place):
    """Plain middleware among ``async`` ones: a thread for each request, as Django does it."""

    def called(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        around = self.threads.around(function)
        made: Callable[..., Awaitable[Any]] = sync_to_async(around, thread_sensitive=True)
        return made

    def begun(self, chain: Inner) -> Callable[..., Any]:
        async def begin(request: Any, *values: Any) -> Response:
            request._values = values
            async with ThreadSensitiveContext():
                return await chain(request)

        return begin
