"""The application object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Unpack

from tollway.bolt.compiling.paths import TrailingSlash
from tollway.bolt.compiling.scope import ScopeOptions
from tollway.bolt.lifespan import Lifespan
from tollway.bolt.params import Depends
from tollway.bolt.router import Routes

if TYPE_CHECKING:
    from tollway.bolt.auth.backends import BaseAuthentication
    from tollway.bolt.auth.guards import BaseGuard

__all__ = ["BoltAPI"]


class BoltAPI(Routes):
    """An API: write it to ``api.py`` in the project or in an app, under the name ``api``.

    ::

        from tollway.bolt import BoltAPI

        api = BoltAPI(prefix="/api")

        @api.get("/items/{item_id}")
        async def get_item(item_id: int):
            return {"item_id": item_id}

    ``prefix`` stands before every path. ``trailing_slash`` is ``"strip"`` (the default: a path
    is registered without), ``"append"`` (with) or ``"keep"`` (as written); a request for the
    other spelling is redirected with 308. ``dependencies`` are called before every handler.
    ``validate_response=False`` sends what handlers return without looking at their models.
    ``auth`` and ``guards`` hold for every route that does not name its own. What else can be said
    of all routes: :class:`tollway.bolt.compiling.scope.ScopeOptions`.

    ``lifespan`` is an async context manager made for the API, entered before the first request and
    left after the last, in each process that serves::

        @asynccontextmanager
        async def lifespan(api):
            api.state.prices = await load_prices()
            yield
            await api.state.prices.close()

        api = BoltAPI(lifespan=lifespan)

    ``state`` is a place for what lives as long.

    In tests, ``api.dependency_overrides[find_shop] = fake_shop`` has ``fake_shop`` called in the
    place of ``find_shop``, from the next start of a server on.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        trailing_slash: TrailingSlash = "strip",
        dependencies: Sequence[Depends] = (),
        lifespan: Lifespan | None = None,
        validate_response: bool | None = None,
        auth: Sequence[BaseAuthentication] | None = None,
        guards: Sequence[BaseGuard] | None = None,
        **options: Unpack[ScopeOptions],
    ) -> None:
        super().__init__(prefix, trailing_slash, dependencies, auth, guards, **options)
        self.lifespan = lifespan
        self.validate_response = validate_response
        self.state = SimpleNamespace()
        self.health_checks: dict[str, Callable[[], Any]] = {}

    def mount(self, path: str, api: BoltAPI) -> None:
        """Serve another API below ``path``, with this one's rule for trailing slashes."""
        self._add(path, api)

    def __repr__(self) -> str:
        return f"BoltAPI(prefix={self.prefix!r})"
