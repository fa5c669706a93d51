"""The life of a native server: clients that leave, too much to do, threads, stopping, leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import threading
import weakref
from typing import Any

import pytest

from tests.bolt.native import arg, route, running
from tests.waiting import wait
from tollway._tollway import Server


async def ping() -> str:
    return "pong"


def test_a_client_that_leaves_cancels_its_handler() -> None:
    started, ended = threading.Event(), threading.Event()
    notes: list[str] = []

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            notes.append("cleaned up")
            raise
        finally:
            ended.set()

    with running(route("/", wait)) as served:
        client = served.open()
        assert started.wait(10)
        assert served.on_loop(served.server.stats)["tasks"] == 1
        client.close()
        assert ended.wait(10)
        assert served.on_loop(served.server.stats)["cancelled"] == 1
    assert notes == ["cleaned up"]


def test_too_many_suspended_handlers_are_refused() -> None:
    release: list[asyncio.Event] = []

    async def wait() -> str:
        event = asyncio.Event()
        release.append(event)
        await event.wait()
        return "done"

    with running(route("/", wait), route("/quick", ping, mode="async"), max_tasks=2) as served:
        clients = [served.open() for _ in range(2)]
        served.wait_for("tasks", 2)
        answer = served.get("/")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        served.on_loop(lambda: [event.set() for event in release])
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.close()
        assert served.get("/quick").status == 200


def test_a_full_thread_queue_is_refused() -> None:
    started, gate = threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        gate.wait(20)
        return "done"

    with running(route("/", block, mode="sync"), threads=1) as served:
        clients = [served.open()]
        assert started.wait(10)
        clients += [served.open() for _ in range(64)]
        served.wait_for("queued", 64)
        answer = served.get("/")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        gate.set()
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.close()


def test_plain_handlers_run_side_by_side_on_threads() -> None:
    barrier = threading.Barrier(3)
    names: set[str] = set()

    def meet() -> None:
        names.add(threading.current_thread().name)
        barrier.wait(10)

    with running(route("/", meet, mode="sync"), threads=3) as served:
        clients = [served.open() for _ in range(3)]
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.close()
    assert len(names) == 3


@pytest.mark.parametrize("threads", [2, 4])
def test_a_plain_handler_that_blocks_holds_up_nobody_while_a_thread_is_free(threads: int) -> None:
    first, gate, sent = threading.Lock(), threading.Event(), threading.Event()

    def block_first() -> str:
        if first.acquire(blocking=False):
            gate.wait(20)
        return "done"

    with running(route("/", block_first, mode="sync"), threads=threads) as served:
        # All of them come in one turn of the loop, which stands still until they are sent.
        served.loop.call_soon_threadsafe(sent.wait, 10)
        waiting = {served.open() for _ in range(8)}
        sent.set()
        while len(waiting) > 1:
            answered, _, _ = select.select(list(waiting), [], [], 10)
            assert answered, f"{len(waiting)} of 8 wait for one that blocks"
            for client in answered:
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                client.close()
            waiting.difference_update(answered)
        gate.set()
        last = waiting.pop()
        assert last.recv(1000).startswith(b"HTTP/1.1 200")
        last.close()


def test_a_loop_that_ends_cancels_suspended_handlers() -> None:
    notes: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise

    async def main() -> None:
        server = Server([route("/", wait)], {})
        _, port = server.bind("127.0.0.1", 0)
        server.start(asyncio.get_running_loop())
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not server.stats()["tasks"]:
            await asyncio.sleep(0)
        writer.close()

    asyncio.run(main())
    assert notes == ["cancelled"]


def test_a_server_that_never_started_shuts_down() -> None:
    async def main() -> None:
        server = Server([route("/", ping)], {})
        _, port = server.bind("127.0.0.1", 0)
        first = server.shutdown(1)
        assert server.shutdown(1) is first
        await first
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(main())


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    before = native_threads()
    server = Server([route("/", lambda: None, mode="sync")], {})
    _, port = server.bind("127.0.0.1", 0)
    with pytest.raises(RuntimeError, match="closed"):
        server.start(closed)
    wait("its threads are gone", lambda: native_threads() <= before, 10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_shutdown_answers_what_is_in_flight() -> None:
    started = threading.Event()

    async def wait() -> str:
        started.set()
        await asyncio.sleep(0.3)
        return "done"

    with running(route("/", wait)) as served:
        client = served.open()
        assert started.wait(10)
        served.shutdown(10)
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"done")
        with pytest.raises(ConnectionRefusedError):
            served.open()
        client.close()


def test_shutdown_cancels_what_outlasts_the_grace() -> None:
    started = threading.Event()
    notes: list[str] = []

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise

    async def stubborn() -> None:
        started.set()
        for _ in range(2000):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                notes.append("ignored")

    with running(route("/", wait)) as served:
        client = served.open()
        assert started.wait(10)
        served.shutdown(0.1)
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
        client.close()
    assert notes == ["cancelled"]
    started.clear()
    with running(route("/", stubborn)) as served:
        client = served.open()
        assert started.wait(10)
        served.shutdown(0.1)
        assert client.recv(1000) == b""
        client.close()


def test_shutdown_does_not_wait_for_stuck_threads() -> None:
    started, release = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        release.wait(30)

    with running(route("/", stuck, mode="sync")) as served:
        client = served.open()
        assert started.wait(10)
        served.shutdown(0.1)
        assert not release.is_set()
        assert client.recv(1000) == b""
        client.close()
        release.set()


def test_system_exit_stops_the_loop_after_an_answer() -> None:
    async def leave() -> None:
        raise SystemExit(7)

    async def main() -> None:
        server = Server([route("/", leave)], {})
        _, port = server.bind("127.0.0.1", 0)
        server.start(asyncio.get_running_loop())
        clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        clients[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(10)

    clients: list[socket.socket] = []
    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 7
    assert clients[0].recv(1000).startswith(b"HTTP/1.1 500")
    clients[0].close()


def test_nothing_is_left_after_a_server() -> None:
    class Kept:
        pass

    async def wait(request: Any) -> None:
        kept = Kept()
        request.state["cycle"] = [request, kept, asyncio.current_task()]
        references.append(weakref.ref(kept))
        await asyncio.sleep(0)

    async def fail(request: Any) -> None:
        kept = Kept()
        request.state["cycle"] = [request, kept, asyncio.current_task()]
        references.append(weakref.ref(kept))
        raise ValueError("inner")

    def on_error(_request: Any, _error: BaseException) -> tuple[int, list[tuple[str, str]], bytes]:
        return 500, [], b""

    references: list[weakref.ref[Kept]] = []
    request = arg("r", "request")
    routes = [route("/wait", wait, request), route("/fail", fail, request)]
    with running(*routes, on_error=on_error) as served:
        for _ in range(20):
            assert served.get("/wait").status == 200
            assert served.get("/fail").status == 500
        server = weakref.ref(served.server)
    del served
    gc.collect()
    assert [reference() for reference in references] == [None] * 40
    assert server() is None
