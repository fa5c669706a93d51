"""What ``BoltAPI`` and ``Router`` share: routes, and routers inside routers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tollway.bolt import paths
from tollway.bolt.paths import TrailingSlash
from tollway.bolt.signature import describe
from tollway.errors import ConfigError

__all__ = ["Route", "Router", "Routes"]

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Route:
    """One handler for one method and path, as it was registered."""

    method: str
    path: str
    handler: Callable[..., Any]
    status_code: int
    inline: bool
    name: str | None
    trailing_slash: TrailingSlash

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

    def __init__(self, prefix: str = "", trailing_slash: TrailingSlash = "strip") -> None:
        if prefix and not prefix.startswith("/"):
            raise ConfigError(f"prefix {prefix!r} must begin with a slash: write {'/' + prefix!r}")
        if trailing_slash not in ("strip", "append", "keep"):
            raise ConfigError(
                f'trailing_slash must be "strip", "append" or "keep", not {trailing_slash!r}'
            )
        self.prefix = prefix
        self.trailing_slash: TrailingSlash = trailing_slash
        self._own: list[Route] = []
        self._below: list[tuple[str, Routes]] = []

    def route(
        self,
        method: str,
        path: str,
        *,
        status_code: int = 200,
        inline: bool = False,
        name: str | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register a handler for a method given as text. See :meth:`get` for the parameters."""
        if not 200 <= status_code <= 599:
            raise ConfigError(f"path {path!r}: status_code is from 200 to 599, not {status_code}")

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise ConfigError(f"path {path!r}: {handler!r} is not a function")
            self._own.append(
                Route(
                    method=method.upper(),
                    path=paths.join(self.prefix, path),
                    handler=handler,
                    status_code=status_code,
                    inline=inline,
                    name=name,
                    trailing_slash=self.trailing_slash,
                )
            )
            return handler

        return register

    def get(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer GET (and HEAD, unless that has a handler of its own).

        ``status_code`` is the status of plain return values. ``inline=True`` runs a ``def``
        handler on the event loop's thread: quicker, but nothing else happens meanwhile, so it
        must not wait for anything. ``name`` is for logs; the handler's dotted name if left out.
        """
        return self.route("GET", path, status_code=status_code, inline=inline, name=name)

    def post(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer POST. Parameters as in :meth:`get`."""
        return self.route("POST", path, status_code=status_code, inline=inline, name=name)

    def put(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer PUT. Parameters as in :meth:`get`."""
        return self.route("PUT", path, status_code=status_code, inline=inline, name=name)

    def patch(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer PATCH. Parameters as in :meth:`get`."""
        return self.route("PATCH", path, status_code=status_code, inline=inline, name=name)

    def delete(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer DELETE. Parameters as in :meth:`get`."""
        return self.route("DELETE", path, status_code=status_code, inline=inline, name=name)

    def head(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer HEAD in place of the GET handler. Parameters as in :meth:`get`."""
        return self.route("HEAD", path, status_code=status_code, inline=inline, name=name)

    def options(
        self, path: str, *, status_code: int = 200, inline: bool = False, name: str | None = None
    ) -> Callable[[Handler], Handler]:
        """Answer OPTIONS in place of the server. Parameters as in :meth:`get`."""
        return self.route("OPTIONS", path, status_code=status_code, inline=inline, name=name)

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
        yield from self._own
        for prefix, other in self._below:
            below = paths.join(self.prefix, prefix)
            for route in other.routes():
                path = paths.join(below, route.path)
                yield replace(route, path=path, trailing_slash=self.trailing_slash)


class Router(Routes):
    """Routes that are written in one place and served in another::

    router = Router(prefix="/items")

    @router.get("/{item_id}")
    async def get_item(item_id: int): ...

    api.include_router(router)
    """
