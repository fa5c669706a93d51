"""A TCP proxy that breaks what passes through it: late, cut, reset, or swallowed without a word."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
WITHIN = 30.0
CHUNK = 65_536
# Closing sends RST instead of FIN.
ABORT = struct.pack("ii", 1, 0)


class Proxy:
    """Stands before 127.0.0.1:`target`. Use `proxy()`, which also ends it.

    Every change applies to open connections and to new ones, and `heal()` takes it back. The
    methods may be called from any thread and return when the change holds.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._latency = 0.0
        self._cuts = 0
        self._cut_after = 0
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._do(self._listen())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return self._call(lambda: len(self._pairs))

    def slow(self, seconds: float) -> None:
        """Let every reply arrive this much later; replies do not wait for each other."""
        self._call(lambda: setattr(self, "_latency", seconds))

    def black_hole(self) -> None:
        """Let nothing pass in either direction and close nothing.

        What is sent meanwhile arrives after `heal()`, as with packets that are sent again.
        """
        self._call(self._open.clear)

    def cut_replies(self, times: int, after: int = 3) -> None:
        """Close the connection after the first `after` bytes of a reply, this many times."""

        def change() -> None:
            self._cuts, self._cut_after = times, after

        self._call(change)

    def reset(self) -> None:
        """Send RST over every open connection, to both ends."""

        def change() -> None:
            for pair in list(self._pairs):
                pair.abort()

        self._call(change)

    def heal(self) -> None:
        """Let everything pass again, what waited included."""

        def change() -> None:
            self._latency, self._cuts = 0.0, 0
            self._open.set()

        self._call(change)

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(WITHIN)

    def _call(self, change: Callable[[], T]) -> T:
        async def work() -> T:
            return change()

        return self._do(work())

    async def _listen(self) -> asyncio.Server:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    async def _close(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            with suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", self.target)
                pair = _Pair(writer, server[1])
                self._pairs.add(pair)
                try:
                    await self._carry(pair, reader, server[0])
                finally:
                    self._pairs.discard(pair)
                    pair.close()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _carry(
        self, pair: _Pair, client: asyncio.StreamReader, server: asyncio.StreamReader
    ) -> None:
        """Carry both directions until one of them ends."""
        directions = [
            asyncio.create_task(self._requests(client, pair.server)),
            asyncio.create_task(self._replies(server, pair.client)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await self._open.wait()
            writer.write(chunk)
            await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read and write in turns of their own, so that a late reply holds up no other."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            # A server that resets the connection ends it too.
            with suppress(OSError):
                while chunk := await reader.read(CHUNK):
                    due.put_nowait((self._loop.time() + self._latency, chunk))
            due.put_nowait((self._loop.time() + self._latency, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                at, chunk = await due.get()
                await asyncio.sleep(at - self._loop.time())
                await self._open.wait()
                if not chunk:
                    return
                if self._cuts > 0:
                    self._cuts -= 1
                    writer.write(chunk[: self._cut_after])
                    await writer.drain()
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class _Pair:
    """The two ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server

    def abort(self) -> None:
        for writer in (self.client, self.server):
            end = writer.get_extra_info("socket")
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            writer.transport.abort()

    def close(self) -> None:
        for writer in (self.client, self.server):
            writer.close()


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A fault proxy before a port of 127.0.0.1, on a free port of its own."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def port_that_swallows() -> Iterator[int]:
    """A port whose host answers no SYN: attempts to connect neither succeed nor fail."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        waiting: list[socket.socket] = []
        try:
            # Nobody accepts, so the queue fills up and the kernel drops what comes.
            while len(waiting) < 16:
                end = socket.socket()
                end.setblocking(False)
                waiting.append(end)
                with suppress(BlockingIOError):
                    end.connect(("127.0.0.1", port))
            yield port
        finally:
            for end in waiting:
                end.close()
