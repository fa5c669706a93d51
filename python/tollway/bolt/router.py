"""What ``BoltAPI`` and ``Router`` share: routes, and routers inside routers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from tollway.bolt.compiling import paths
from tollway.bolt.compiling.paths import TrailingSlash
from tollway.bolt.compiling.scope import Scope, ScopeOptions, refuse_unknown, scope_of
from tollway.bolt.compiling.signature import describe
from tollway.bolt.params import Depends
from tollway.errors import ConfigError

if TYPE_CHECKING:
    from tollway.bolt.auth.backends import BaseAuthentication
    from tollway.bolt.auth.guards import BaseGuard

__all__ = ["Route", "Router", "Routes"]

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """What can be said of a route beside its method and path."""

    status_code: int
    """The status of plain return values; 200 if left out."""
    inline: bool
    """Run a ``def`` handler on the event loop's thread: quicker, but nothing else happens
    meanwhile, so it must not wait for anything."""
    name: str | None
    """For logs; the handler's dotted name if left out."""
    dependencies: Sequence[Depends]
    """Called before the handler; what they return is not used."""
    response_model: Any
    """The type of what the handler returns, or types by status: ``{200: Item, 404: Trouble}``;
    the return annotation if left out."""
    validate_response: bool | None
    """Whether what is returned is brought into the form of the model; True if left out here and
    on the API."""
    max_body: int | None
    """Most bytes of a body here; otherwise ``BOLT_MAX_BODY_BYTES``, or with files
    ``BOLT_MAX_UPLOAD_BYTES``."""
    auth: Sequence[BaseAuthentication] | None
    """How callers show who they are; that of the router or the API if left out."""
    guards: Sequence[BaseGuard] | None
    """Who may pass; those of the router or the API if left out."""


@dataclass(frozen=True, slots=True)
class Route:
    """One handler for one method and path, as it was registered."""

    method: str
    path: str
    handler: Callable[..., Any]
    trailing_slash: TrailingSlash
    status_code: int = 200
    inline: bool = False
    name: str | None = None
    dependencies: Sequence[Depends] = ()
    scopes: tuple[Scope, ...] = ()
    response_model: Any = None
    validate_response: bool | None = None
    max_body: int | None = None
    overrides: dict[Any, Any] = field(default_factory=dict)
    """The ``dependency_overrides`` of the APIs that hold the route."""
    auth: Sequence[BaseAuthentication] | None = None
    guards: Sequence[BaseGuard] | None = None

    def normal(self) -> str:
        """The path as the server reads it. Raises ConfigError that names the handler."""
        try:
            return paths.normal(self.path, self.trailing_slash)
        except ConfigError as error:
            raise ConfigError(f"handler {describe(self.handler)}: {error}") from None


class Routes:
    """Holds routes, and other holders below a prefix.

    Nothing is compiled while the application is imported: the order in which routes, routers
    and mounts are added does not matter.
    """

    def __init__(
        self,
        prefix: str = "",
        trailing_slash: TrailingSlash = "strip",
        dependencies: Sequence[Depends] = (),
        auth: Sequence[BaseAuthentication] | None = None,
        guards: Sequence[BaseGuard] | None = None,
        **options: Unpack[ScopeOptions],
    ) -> None:
        if prefix and not prefix.startswith("/"):
            raise ConfigError(f"prefix {prefix!r} must begin with a slash: write {'/' + prefix!r}")
        if trailing_slash not in ("strip", "append", "keep"):
            raise ConfigError(
                f'trailing_slash must be "strip", "append" or "keep", not {trailing_slash!r}'
            )
        own = [name for name in signature(type(self).__init__).parameters if name != "self"]
        names = [*(name for name in own if name != "options"), *ScopeOptions.__annotations__]
        refuse_unknown(options, names, type(self).__name__)
        self.prefix = prefix
        self.scope = scope_of(options)
        self.trailing_slash: TrailingSlash = trailing_slash
        self.dependencies = depends_on(dependencies, "dependencies")
        self.dependency_overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.validate_response: bool | None = None
        self.auth = auth
        self.guards = guards
        self._own: list[Route] = []
        self._below: list[tuple[str, Routes]] = []

    def route(
        self, method: str, path: str, **options: Unpack[Options]
    ) -> Callable[[Handler], Handler]:
        """Register a handler for a method given as text. See :class:`Options`."""
        refuse_unknown(options, Options.__annotations__, f"path {path!r}")
        status_code = options.get("status_code", 200)
        if not 200 <= status_code <= 599:
            raise ConfigError(f"path {path!r}: status_code is from 200 to 599, not {status_code}")
        depends_on(options.get("dependencies", ()), f"path {path!r}: dependencies")
        max_body = options.get("max_body")
        if max_body is not None and max_body < 0:
            raise ConfigError(f"path {path!r}: max_body is a number of bytes, not {max_body}")

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise ConfigError(f"path {path!r}: {handler!r} is not a function")
            self._own.append(
                Route(
                    method=method.upper(),
                    path=paths.join(self.prefix, path),
                    handler=handler,
                    trailing_slash=self.trailing_slash,
                    **options,
                )
            )
            return handler

        return register

    def get(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer GET (and HEAD, unless that has a handler of its own). See :class:`Options`."""
        return self.route("GET", path, **options)

    def post(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer POST. See :class:`Options`."""
        return self.route("POST", path, **options)

    def put(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer PUT. See :class:`Options`."""
        return self.route("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer PATCH. See :class:`Options`."""
        return self.route("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer DELETE. See :class:`Options`."""
        return self.route("DELETE", path, **options)

    def head(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer HEAD in place of the GET handler. See :class:`Options`."""
        return self.route("HEAD", path, **options)

    def options(self, path: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """Answer OPTIONS in place of the server. See :class:`Options`."""
        return self.route("OPTIONS", path, **options)

    def include_router(self, router: Routes, prefix: str = "") -> None:
        """Add the routes of a router, below ``prefix`` if one is given."""
        self._add(prefix, router)

    def _add(self, prefix: str, other: Any) -> None:
        if not isinstance(other, Routes):
            raise ConfigError(f"a Router or a BoltAPI can be added here, not {other!r}")
        if prefix and not prefix.startswith("/"):
            raise ConfigError(f"prefix {prefix!r} must begin with a slash: write {'/' + prefix!r}")
        if other is self or self in other.holders():
            raise ConfigError("a router cannot hold itself")
        self._below.append((prefix, other))

    def holders(self) -> Iterator[Routes]:
        """Everything below this, at any depth."""
        for _, other in self._below:
            yield other
            yield from other.holders()

    def routes(self) -> Iterator[Route]:
        """Every route, those of routers and mounts included, with its whole path."""
        for route in self._own:
            yield self._within(route)
        for prefix, other in self._below:
            below = paths.join(self.prefix, prefix)
            for route in other.routes():
                path = paths.join(below, route.path)
                yield self._within(replace(route, path=path, trailing_slash=self.trailing_slash))

    def _within(self, route: Route) -> Route:
        """A route with what holds for all routes in here: the outermost comes first."""
        validates = route.validate_response
        return replace(
            route,
            validate_response=self.validate_response if validates is None else validates,
            dependencies=(*self.dependencies, *route.dependencies),
            scopes=(self.scope, *route.scopes),
            overrides=route.overrides | self.dependency_overrides,
            auth=self.auth if route.auth is None else route.auth,
            guards=self.guards if route.guards is None else route.guards,
        )


class Router(Routes):
    """Routes that are written in one place and served in another::

    router = Router(prefix="/items")

    @router.get("/{item_id}")
    async def get_item(item_id: int): ...

    api.include_router(router)
    """


def depends_on(given: Sequence[Depends], what: str) -> tuple[Depends, ...]:
    """A list of dependencies, checked."""
    written: Sequence[Any] = given
    for item in written:
        if not isinstance(item, Depends):
            name = getattr(item, "__name__", repr(item))
            raise ConfigError(f"{what}: write Depends({name}), not {name}")
    return tuple(given)
