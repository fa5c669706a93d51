"""What people write as middleware, and what a route makes of it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, Literal, Protocol, TypeVar, overload

from tollway.bolt.responses import Response
from tollway.errors import ConfigError

__all__ = [
    "BaseMiddleware",
    "Colour",
    "GetResponse",
    "Layer",
    "Middleware",
    "MiddlewareProtocol",
    "MiddlewareType",
    "layer_of",
    "middleware",
    "middleware_of",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])
GetResponse = Callable[[Any], Any]
"""What a middleware calls for the answer: a Response, or an awaitable of one."""
Colour = Literal["sync", "async", "either"]
Inner = Callable[[Any], Awaitable[Response]]
"""How a route calls everything below a middleware, whatever runs it."""

_MARK: Final = "__tollway_middleware__"


class Place(Protocol):
    """Where the middleware of one route run."""

    sync: bool
    """On one thread from the first middleware to the handler; else on the event loop."""
    handler: Callable[..., Any]
    errors: Any
    raised: list[Callable[[Any, Exception], Awaitable[Response | None]]]
    """Asked for an answer when the handler raised, before anybody else."""

    def plain(self, inner: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Any]:
        """``inner`` as a plain function, for plain middleware."""
        ...

    def called(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A plain function that may wait for something, to be awaited here."""
        ...


class Layer(Protocol):
    """One middleware, ready to be put around what is below it."""

    names: frozenset[str]
    """What ``@skip_middleware`` may call it."""
    colour: Colour

    def around(self, inner: Inner, place: Place) -> Inner:
        """What answers a request: asks ``inner``, or answers by itself."""
        ...


class MiddlewareProtocol(Protocol):
    """What a middleware class looks like: made once for each route, called for each request."""

    def __init__(self, get_response: GetResponse) -> None: ...

    def __call__(self, request: Any) -> Any: ...


class Middleware:
    """A middleware. Write ``process_request``, with ``async`` or without::

        class Stamp(Middleware):
            async def process_request(self, request):
                response = await self.get_response(request)
                response.set_header("x-stamp", "seen")
                return response

    It is made once for each route when the server starts. ``def`` middleware around ``def``
    handlers stay on the handler's thread, ``async def`` ones around ``async def`` handlers on the
    event loop. Mixed they work too, at the price of a change of thread.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.process_request(request)

    def process_request(self, request: Any) -> Any:
        """Answer a request. As it stands here it changes nothing."""
        return self.get_response(request)


class BaseMiddleware:
    """A middleware that is at home on threads and on the event loop, without a line twice.

    Write ``around`` as a generator. ``yield`` gives the answer from below; what is returned is the
    answer; what was raised below is raised at the ``yield``::

        class Stamp(BaseMiddleware):
            def around(self, request):
                response = yield
                response.set_header("x-stamp", "seen")
                return response

    To answer without asking below, return before the ``yield``. ``around`` must not wait.
    """

    def around(self, request: Any) -> Generator[None, Response, Response]:
        """The steps before and after the answer from below."""
        response = yield
        return response


MiddlewareType = type[MiddlewareProtocol] | type[BaseMiddleware]


class FunctionMiddleware:
    """A function ``(request, call_next)`` as a middleware: a decorator for handlers, too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, handler: Handler) -> Handler:
        marked: Handler = _mark(handler, self)
        return marked


@overload
def middleware(kind: MiddlewareType) -> Callable[[Handler], Handler]: ...


@overload
def middleware(kind: Callable[..., Any]) -> FunctionMiddleware: ...


def middleware(kind: Any) -> Any:
    """Make a function a middleware, or put a middleware class before one handler.

    ::

        @middleware
        async def stamp(request, call_next):
            response = await call_next(request)
            response.set_header("x-stamp", "seen")
            return response

        @api.get("/items")
        @stamp
        @middleware(TimingMiddleware)
        async def items(): ...
    """
    if inspect.isfunction(kind):
        if len(inspect.signature(kind).parameters) != 2:
            raise ConfigError(
                f"@middleware: {kind.__qualname__} needs the parameters (request, call_next)"
            )
        return FunctionMiddleware(kind)
    layer_of(kind)
    return lambda handler: _mark(handler, kind)


def _mark(handler: Any, item: Any) -> Any:
    if not callable(handler) or isinstance(handler, FunctionMiddleware):
        raise ConfigError(f"a middleware stands above a handler, not above {handler!r}")
    setattr(handler, _MARK, [item, *middleware_of(handler)])
    return handler


def middleware_of(handler: Callable[..., Any]) -> list[Any]:
    """What stands above a handler, the outermost first."""
    found: list[Any] = getattr(handler, _MARK, [])
    return found


def layer_of(item: Any) -> Layer:
    """What a route makes of one entry of ``middleware=``."""
    if isinstance(item, FunctionMiddleware):
        return _Function(item.function)
    if isinstance(item, type) and issubclass(item, BaseMiddleware):
        return _Generator(item)
    if isinstance(item, type) and callable(getattr(item, "__call__", None)):  # noqa: B004
        return _Class(item)
    if hasattr(item, "around") and hasattr(item, "colour"):
        found: Layer = item
        return found
    if isinstance(item, (Middleware, BaseMiddleware)):
        raise ConfigError(
            f"middleware: give the class {type(item).__name__} and not an instance: one is made "
            "for each route"
        )
    raise ConfigError(f"middleware: {item!r} is no middleware class and no @middleware function")


def _answer(response: Any, name: str) -> Response:
    if isinstance(response, Response):
        return response
    raise TypeError(
        f"the middleware {name} answered with a {type(response).__qualname__}: it has to return "
        "the response from below, or one of tollway.bolt"
    )


class _Class:
    """A class with ``__init__(get_response)`` and ``__call__(request)``."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.names = frozenset({kind.__name__, f"{kind.__module__}.{kind.__qualname__}"})
        method = kind.__call__
        if issubclass(kind, Middleware) and method is Middleware.__call__:
            method = kind.process_request
        self.passes = method is Middleware.process_request
        self.colour: Colour = "async" if inspect.iscoroutinefunction(method) else "sync"
        if self.passes:
            self.colour = "either"

    def around(self, inner: Inner, place: Place) -> Inner:
        return _called(self, self.kind, inner, place)


class _Function:
    """A function of the request and of what gives the answer from below."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.names = frozenset(
            {function.__name__, f"{function.__module__}.{function.__qualname__}"}
        )
        asynchronous = inspect.iscoroutinefunction(function)
        self.colour: Colour = "async" if asynchronous else "sync"

    def around(self, inner: Inner, place: Place) -> Inner:
        function = self.function

        def make(below: GetResponse) -> Callable[[Any], Any]:
            return lambda request: function(request, below)

        return _called(self, make, inner, place)


def _called(
    layer: _Class | _Function,
    make: Callable[[GetResponse], Callable[[Any], Any]],
    inner: Inner,
    place: Place,
) -> Inner:
    """A middleware that calls what is below by itself."""
    name = min(layer.names, key=len)
    plain = layer.colour == "sync"
    answer = place.called(make(place.plain(inner))) if plain else make(inner)

    async def call(request: Any) -> Response:
        return _answer(await answer(request), name)

    return call


class _Generator:
    """A class whose ``around`` is a generator."""

    colour: Colour = "either"

    def __init__(self, kind: type[BaseMiddleware]) -> None:
        self.kind = kind
        self.names = frozenset({kind.__name__, f"{kind.__module__}.{kind.__qualname__}"})
        if not inspect.isgeneratorfunction(kind.around):
            raise ConfigError(f"middleware {kind.__qualname__}: around() needs a `yield`")

    def around(self, inner: Inner, place: Place) -> Inner:
        steps_of = self.kind().around
        name = self.kind.__qualname__

        async def call(request: Any) -> Response:
            steps = steps_of(request)
            try:
                next(steps)
                try:
                    response = await inner(request)
                except Exception as error:
                    steps.throw(error)
                else:
                    steps.send(response)
            except StopIteration as end:
                return _answer(end.value, name)
            raise RuntimeError(f"the middleware {name} has a second `yield`: there is one answer")

        return call
