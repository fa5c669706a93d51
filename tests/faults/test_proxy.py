"""The fault proxy does to a connection what its methods say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import ABORT, Proxy, port_that_swallows, proxy
from tests.waiting import wait

LONG = 30.0


def _echo(listener: socket.socket) -> None:
    def serve(end: socket.socket) -> None:
        with end:
            try:
                while data := end.recv(4096):
                    end.sendall(data)
            except OSError:
                pass

    while True:
        try:
            end, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(end,), daemon=True).start()


@pytest.fixture
def between() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        with proxy(listener.getsockname()[1]) as made:
            yield made
        listener.shutdown(socket.SHUT_RDWR)


def _connect(between: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", between.port), timeout=LONG)


def _exchange(end: socket.socket, data: bytes) -> bytes:
    end.sendall(data)
    answer = b""
    while len(answer) < len(data):
        part = end.recv(4096)
        if not part:
            return answer
        answer += part
    return answer


def test_it_passes_everything_unless_told(between: Proxy) -> None:
    with _connect(between) as one, _connect(between) as other:
        assert _exchange(one, b"x" * 200_000) == b"x" * 200_000
        assert _exchange(other, b"hello") == b"hello"
        assert between.connections == 2
    wait("both connections are over", lambda: not between.connections, LONG)


def test_late_replies_do_not_wait_for_each_other(between: Proxy) -> None:
    between.slow(0.2)
    with _connect(between) as end:
        started = time.perf_counter()
        end.sendall(b"a")
        time.sleep(0.05)
        end.sendall(b"b")
        assert end.recv(1) == b"a"
        first = time.perf_counter() - started
        assert end.recv(1) == b"b"
        both = time.perf_counter() - started
        assert first >= 0.2
        assert both >= 0.25
        between.heal()
        assert _exchange(end, b"now") == b"now"


def test_a_black_hole_answers_nothing_and_closes_nothing(between: Proxy) -> None:
    with _connect(between) as old:
        assert _exchange(old, b"before") == b"before"
        between.black_hole()
        with _connect(between) as new:
            for end, data in ((old, b"old"), (new, b"new")):
                end.sendall(data)
                end.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    end.recv(1)
                end.settimeout(LONG)
            between.heal()
            assert old.recv(3) == b"old"
            assert new.recv(3) == b"new"


def test_replies_are_cut_as_often_as_told(between: Proxy) -> None:
    between.cut_replies(times=2, after=3)
    for expected in (b"rep", b"rep", b"reply"):
        with _connect(between) as end:
            assert _exchange(end, b"reply") == expected


def test_a_reset_is_one(between: Proxy) -> None:
    with _connect(between) as end:
        assert _exchange(end, b"x") == b"x"
        between.reset()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with _connect(between) as end:
        assert _exchange(end, b"again") == b"again"


def test_a_server_that_resets_ends_the_connection() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, proxy(listener.getsockname()[1]) as made, _connect(made) as end:
        server, _ = listener.accept()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        server.close()
        assert end.recv(1) == b""


def test_a_server_that_is_gone_is_a_closed_connection() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with proxy(nobody.getsockname()[1]) as made, _connect(made) as end:
            assert end.recv(1) == b""


def test_a_port_that_swallows_answers_no_syn() -> None:
    with port_that_swallows() as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.2)
