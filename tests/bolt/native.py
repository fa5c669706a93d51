"""A native server on a thread of its own, for tests that talk to it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.waiting import wait
from tollway._tollway import Server


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def route(
    path: str,
    handler: Callable[..., Any],
    *args: dict[str, Any],
    method: str = "GET",
    mode: str = "async",
    **more: Any,
) -> dict[str, Any]:
    """A route dict as `tollway.bolt` builds them."""
    described = {"method": method, "path": path, "handler": handler, "name": handler.__name__}
    return (
        described
        | {"mode": mode, "args": list(args), "status": 200, "encode": encode, "limits": []}
        | more
    )


def arg(name: str, source: str, kind: str = "str", **more: Any) -> dict[str, Any]:
    described = {"name": name, "source": source, "kind": kind, "required": "default" not in more}
    return described | {"default": None, "list": False, "decode": None} | more


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    server: Server
    port: int
    loop: asyncio.AbstractEventLoop

    def get(
        self, target: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def open(self, target: str = "/", extra: str = "") -> socket.socket:
        """A socket on which a request was sent."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
        return client

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """Runs `function` on the loop's thread."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def wait_for(self, counter: str, count: int) -> None:
        """Waits until a counter of the server has reached `count`."""

        def reached() -> bool:
            found: int = self.on_loop(self.server.stats)[counter]
            return found >= count

        wait(f"{counter} is {count}", reached, 10)

    def shutdown(self, grace: float) -> None:
        async def run() -> None:
            await self.server.shutdown(grace)

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(grace + 15)


@contextlib.contextmanager
def running(*routes: dict[str, Any], grace: float = 0.0, **settings: Any) -> Iterator[Running]:
    """Serves `routes` on a free port until the block ends."""
    server = Server(list(routes), settings)
    _, port = server.bind("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    problems: list[str] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(str(context)))
    ready = threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        server.start(loop)
        loop.call_soon(ready.set)
        loop.run_forever()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    served = Running(server, port, loop)
    try:
        yield served
        served.shutdown(grace)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert not problems, problems
