"""A client for the tests of an API: the real server, in this process.

::

    from tollway.bolt.testing import TestClient

    def test_items():
        with TestClient(api) as client:
            assert client.get("/items/7").json() == {"id": 7}

The clients are httpx's. What they send goes over a socket through the server that production
runs: parsing, limits, binding, all of it.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Self

from asgiref.sync import sync_to_async

from tollway import ConfigError
from tollway._tollway import Server
from tollway.bolt.api import BoltAPI
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import read_settings
from tollway.bolt.server.serving import event_loop_factory

try:
    import httpx
except ImportError as error:
    raise ImportError("tollway.bolt.testing needs httpx: pip install httpx") from error

__all__ = ["AsyncTestClient", "TestClient"]

BASE_URL: Final = "http://testserver"

GRACE: Final = 5.0
"""Seconds that requests in flight get when a client is closed."""

PATIENCE: Final = 30.0
"""Seconds a plain handler waits for a connection that another one uses."""

Transports = Mapping[str, Any]


class TestClient(httpx.Client):
    """Talks to ``api`` (one or several) as any client would.

    The server starts at the first request, or on entering ``with``, and runs the lifespan of the
    API; it ends with :meth:`close`. ``client`` is the address that requests come from: any of
    127.0.0.0/8. ``settings`` stand in for settings of the project, by name. A handler's unexpected
    exception is raised here, unless ``raise_server_exceptions`` is off: then it is a 500.

    In a ``TestCase`` of Django, handlers see what the test has written: they use its connections.

    Everything else goes to :class:`httpx.Client`.
    """

    __test__ = False

    def __init__(
        self,
        api: BoltAPI | Iterable[BoltAPI],
        *,
        client: str = "127.0.0.1",
        base_url: str = BASE_URL,
        settings: Mapping[str, Any] | None = None,
        raise_server_exceptions: bool = True,
        **options: Any,
    ) -> None:
        self._served = _Served(api, settings or {}, raises=raise_server_exceptions)
        self._thread: _Thread | None = None
        inner = httpx.HTTPTransport(local_address=client)
        super().__init__(transport=_Transport(inner, self._start), base_url=base_url, **options)

    def _start(self) -> _Served:
        if self._thread is None:
            self._served.lent.borrow()
            self._thread = _Thread(self._served)
            weakref.finalize(self, self._thread.stop)
        return self._served

    def __enter__(self) -> Self:
        self._start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.close()

    def close(self) -> None:
        """Let requests in flight finish, leave the lifespan, end the server."""
        super().close()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()


class AsyncTestClient(httpx.AsyncClient):
    """:class:`TestClient` for async tests: the server runs on the loop of the test.

    To be used in ``async with``.
    """

    __test__ = False

    def __init__(
        self,
        api: BoltAPI | Iterable[BoltAPI],
        *,
        client: str = "127.0.0.1",
        base_url: str = BASE_URL,
        settings: Mapping[str, Any] | None = None,
        raise_server_exceptions: bool = True,
        **options: Any,
    ) -> None:
        self._served = _Served(api, settings or {}, raises=raise_server_exceptions)
        self._life = AsyncExitStack()
        inner = httpx.AsyncHTTPTransport(local_address=client)
        transport = _AsyncTransport(inner, self._served)
        super().__init__(transport=transport, base_url=base_url, **options)

    async def __aenter__(self) -> Self:
        # Where the test's own use of the ORM goes.
        await sync_to_async(self._served.lent.borrow)()
        await self._life.enter_async_context(self._served.serving())
        return await super().__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)
        await self._life.aclose()


class _Served:
    """One server, and what its handlers raised."""

    def __init__(
        self, api: BoltAPI | Iterable[BoltAPI], settings: Mapping[str, Any], *, raises: bool
    ) -> None:
        apis = [api] if isinstance(api, BoltAPI) else list(api)
        self.lent = _Lent()
        self._assembly = assemble(apis, read_settings(_Settings(settings)), self.lent.around)
        self._server = Server(self._assembly.routes, self._assembly.settings)
        self._raised: deque[BaseException] = deque(maxlen=16)
        if raises:
            self._assembly.errors.on_unexpected = self._raised.append
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve on this loop, on a port of its own, while the block runs."""
        async with self._assembly.lifespan, self.lent.to_loop():
            _, self.port = self._server.bind("127.0.0.1", 0, False)
            self._server.start(asyncio.get_running_loop())
            try:
                yield
            finally:
                self.port = 0
                await self._server.shutdown(GRACE)

    def aim(self, request: httpx.Request) -> None:
        """Send a request here, whatever host it names; the ``Host`` header says it still."""
        if not self.port:
            raise ConfigError("the client is closed, or was not entered: write `async with` first")
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)

    def complain(self, response: httpx.Response) -> None:
        """Raise what a handler raised, if that is what the answer is about."""
        if response.status_code == 500 and self._raised:
            raise self._raised.pop()


class _Transport(httpx.BaseTransport):
    def __init__(self, inner: httpx.HTTPTransport, start: Callable[[], _Served]) -> None:
        self._inner = inner
        self._start = start

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        served = self._start()
        served.aim(request)
        response = self._inner.handle_request(request)
        try:
            served.complain(response)
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        self._inner.close()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncHTTPTransport, served: _Served) -> None:
        self._inner = inner
        self._served = served

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._served.aim(request)
        response = await self._inner.handle_async_request(request)
        try:
            self._served.complain(response)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Thread:
    """A thread with an event loop on which a server runs."""

    def __init__(self, served: _Served) -> None:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(served,), name="tollway-test-server", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        self._complain()

    def _complain(self) -> None:
        """Raise what the thread died of."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, served: _Served) -> None:
        try:
            with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
                runner.run(self._serve(served))
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self, served: _Served) -> None:
        async with served.serving():
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        """End the server, and raise what went wrong on the way out."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it was stopped before
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._complain()


class _Settings:
    """The project's settings with some in their place."""

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self._changes = dict(changes)
        from django.conf import settings

        self._settings: Any = settings if settings.configured else None

    def __getattr__(self, name: str) -> Any:
        if name in self._changes:
            return self._changes[name]
        return getattr(self._settings, name)


class _Lent:
    """The database connections of a test, lent to the threads of the server.

    Those in a transaction, as in a ``TestCase``, and databases in memory: another connection would
    not see what the test has written. Other connections are closed after each handler, so that no
    test leaves any behind.
    """

    def __init__(self) -> None:
        self._connections: dict[str, Any] = {}
        self._lock = threading.RLock()

    def borrow(self) -> None:
        """Take note of the connections of this thread."""
        from django.conf import settings

        if settings.configured:
            from django.db import connections

            known = connections.all(initialized_only=True)
            self._connections = {one.alias: one for one in known if _is_alone(one)}

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A plain handler that finds the connections of the test in its thread."""

        def run(*values: Any, **named: Any) -> Any:
            if not self._connections:
                try:
                    return call(*values, **named)
                finally:
                    _close_all()
            if not self._lock.acquire(timeout=PATIENCE):
                raise ConfigError(
                    "a handler waits for the test's database connection, which another one uses: "
                    "use TransactionTestCase for requests at the same time"
                )
            try:
                with self._here():
                    return call(*values, **named)
            finally:
                self._lock.release()

        return run

    @asynccontextmanager
    async def to_loop(self) -> AsyncIterator[None]:
        """Lend them to the thread on which async handlers use the ORM."""
        if not self._connections:
            yield
            return
        here = self._here()
        await sync_to_async(here.__enter__)()
        try:
            yield
        finally:
            await sync_to_async(here.__exit__)(None, None, None)

    @contextmanager
    def _here(self) -> Iterator[None]:
        from django.db import connections

        before = {one.alias: one for one in connections.all(initialized_only=True)}
        lent = [one for one in self._connections.values() if before.get(one.alias) is not one]
        for one in lent:
            one.inc_thread_sharing()
            connections[one.alias] = one
        try:
            yield
        finally:
            for one in lent:
                del connections[one.alias]
                if one.alias in before:
                    connections[one.alias] = before[one.alias]
                one.dec_thread_sharing()


def _is_alone(connection: Any) -> bool:
    """Whether what it sees is seen by no other connection."""
    in_memory = getattr(connection, "is_in_memory_db", None)
    return connection.in_atomic_block or (in_memory is not None and bool(in_memory()))


def _close_all() -> None:
    from django.conf import settings

    if settings.configured:
        from django.db import connections

        for one in connections.all(initialized_only=True):
            one.close()
