"""What hostile clients get over TLS and HTTP/2, frame by frame, from `manage.py runbolt`."""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.bolt.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    WINDOW,
    Frames,
    frame,
    frames,
    head,
    literal,
    number,
    plain,
)
from tests.bolt.project import Project, Served
from tests.bolt.wire import certificate, trusting
from tests.waiting import wait

API = Path(__file__).with_name("wire_app.py").read_text()

MEBIBYTE = 1_048_576
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Served]:
    """A server with short time-outs, which must outlive all of these tests."""
    project = Project(tmp_path_factory.mktemp("http2"))
    project.write("shop/api.py", API)
    project.settings(
        """
        DATABASES = {}
        BOLT_HEADER_TIMEOUT = 1.5
        BOLT_BODY_TIMEOUT = 1.5
        BOLT_WRITE_TIMEOUT = 1.5
        BOLT_KEEP_ALIVE_TIMEOUT = 3
        """
    )
    with project.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served:
        yield served


@pytest.fixture(autouse=True)
def unharmed(served: Served, files: Files) -> Iterator[None]:
    """After each attack others are served, and nothing of it is kept."""
    sockets, memory = served.open_sockets(), served.memory()
    yield
    answer = httpx.get(f"{served.url}/ping", verify=trusting(files[0]), timeout=15)
    assert answer.status_code == 200
    wait("no connection is kept", lambda: served.open_sockets() <= sockets, 15)
    assert served.memory() < memory + 32 * MEBIBYTE


def flood(client: Frames, make: Callable[[int], bytes], most: int) -> None:
    """Send frames until the server has enough of them, without ever reading."""
    for turn in range(most):
        if not client.send(make(turn)):
            return
    raise AssertionError("the server takes all of them")


def unread(client: Frames, piece: bytes) -> int:
    """Bytes sent until the server takes no more for a while or ends the connection."""
    client.peer.settimeout(5)
    for turn in count():
        if not client.send(piece):
            return turn * len(piece)
    raise AssertionError("never")


def test_continuations_without_end(served: Served, files: Files) -> None:
    with frames(served, files) as client:
        client.send(frame(HEADERS, END_STREAM, 1, head("/ping")))
        piece = b"".join(literal(f"x-{n}", "y" * 100) for n in range(100))
        flood(client, lambda _: frame(CONTINUATION, 0, 1, piece), 2000)


def test_empty_continuations_without_end(served: Served, files: Files) -> None:
    with frames(served, files) as client:
        client.send(frame(HEADERS, END_STREAM, 1, head("/ping")))
        many = frame(CONTINUATION, 0, 1) * 1000
        flood(client, lambda _: many, 2000)


@pytest.mark.parametrize(
    "piece",
    [
        frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)),
        frame(PING, 0, 0, b"12345678"),
    ],
    ids=["settings", "pings"],
)
def test_questions_whose_answers_are_not_read(served: Served, files: Files, piece: bytes) -> None:
    before = served.memory()
    with frames(served, files) as client:
        sent = unread(client, piece * 1000)
        # What is held is what the kernel holds; the server stops reading.
        assert sent < 64 * MEBIBYTE
        assert served.memory() < before + 16 * MEBIBYTE


def test_a_small_block_that_names_a_large_header_often(served: Served, files: Files) -> None:
    """A header of 4,000 bytes in the table, and then a byte for each time it is meant."""
    with frames(served, files) as client:
        bomb = head("/ping") + literal("x", "y" * 4000, 0x40) + number(62, 7, 0x80) * 12_000
        for _ in range(20):
            stream = client.open(bomb)
        # 48 MB of headers each would be a gigabyte.
        assert client.until(HEADERS, stream) is not None or not client.is_alive()


def test_streams_given_up_at_once(served: Served, files: Files) -> None:
    with frames(served, files) as client:

        def open_and_reset(turn: int) -> bytes:
            stream = 2 * turn + 1
            opened = frame(HEADERS, END_HEADERS | END_STREAM, stream, head("/never"))
            return opened + frame(RESET, 0, stream, struct.pack(">I", 8))

        flood(client, open_and_reset, 20_000)


def test_streams_that_the_server_is_made_to_give_up(served: Served, files: Files) -> None:
    """Mistakes for which a server resets a stream by itself, while its handler has begun."""
    with frames(served, files) as client:

        def open_and_err(turn: int) -> bytes:
            stream = 2 * turn + 1
            opened = frame(HEADERS, END_HEADERS | END_STREAM, stream, head("/never"))
            return opened + frame(WINDOW, 0, stream, struct.pack(">I", 0))

        flood(client, open_and_err, 20_000)


def test_more_streams_than_were_offered(served: Served, files: Files) -> None:
    with frames(served, files) as client:
        block = head("/never")
        opened = (frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, block) for n in range(300))
        client.send(*opened)
        client.peer.settimeout(5)
        refused = 0
        while refused < 200 and (found := client.read()) is not None:
            refused += found[0] == RESET
            if found[0] == GOAWAY:
                break
        assert refused >= 20 or found is None or found[0] == GOAWAY


def test_a_client_that_makes_no_room_for_answers(served: Served, files: Files) -> None:
    with frames(served, files, window=0) as client:
        for _ in range(5):
            client.open(head("/big?size=1000000"))
        # The write time-out ends it, whatever else it says.
        while client.send(frame(PING, 0, 0, b"12345678")) and client.read() is not None:
            time.sleep(0.05)


def test_a_client_that_reads_slowly_and_steadily(served: Served, files: Files) -> None:
    """Longer than the write time-out in all, never without progress for as long."""
    with frames(served, files, window=0) as client:
        stream = client.open(head("/big?size=1000000"))
        received = 0
        for _ in range(5):
            client.send(frame(WINDOW, 0, 0, struct.pack(">I", 200_000)))
            client.send(frame(WINDOW, 0, stream, struct.pack(">I", 200_000)))
            time.sleep(0.5)
        while (payload := client.until(DATA, stream)) is not None and received < 1_000_000:
            received += len(payload)
            if received == 1_000_000:
                break
        assert received == 1_000_000


@pytest.mark.parametrize(
    "payloads",
    [
        lambda n: frame(DATA, 0, 1, b""),
        lambda n: frame(DATA, 0, 1, b"x"),
    ],
    ids=["empty", "a byte"],
)
def test_a_body_that_drips(served: Served, files: Files, payloads: Callable[[int], bytes]) -> None:
    with frames(served, files) as client:
        stream = client.open(head("/echo", method="POST"), end=False)
        client.peer.settimeout(0.05)
        deadline = time.monotonic() + 15
        answered = False
        while not answered and time.monotonic() < deadline and client.send(payloads(stream)):
            try:
                client.peer.settimeout(0.05)
                client.received += client.peer.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                return
            answered = b"408" in client.received or b"took too long" in client.received
        assert answered


def test_a_head_that_drips(served: Served, files: Files) -> None:
    with frames(served, files) as client:
        block = head("/ping")
        client.send(frame(HEADERS, END_STREAM, 1, block[:10]))
        drip(client.send, frame(CONTINUATION, 0, 1, b""))


def drip(send: Callable[[bytes], object], piece: bytes) -> None:
    """A little at a time, until the other side hangs up."""
    deadline = time.monotonic() + 15
    while send(piece):
        assert time.monotonic() < deadline, "never given up"
        time.sleep(0.05)


def test_a_handshake_that_drips(served: Served) -> None:
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with plain(served) as peer:
        bytes_of_hello = iter(hello.read()[:-1])

        def one_byte(_: bytes) -> bool:
            try:
                peer.sendall(bytes([next(bytes_of_hello)]))
            except OSError:
                return False
            return True

        drip(one_byte, b"")


def test_handshakes_that_stop(served: Served, files: Files) -> None:
    before = served.open_sockets()
    silent = [plain(served) for _ in range(200)]
    record = [plain(served) for _ in range(200)]
    for peer in record:
        # A record of 16 KiB is announced and does not come.
        peer.sendall(b"\x16\x03\x01\x40\x00\x01")
    wait("the handshakes are given up", lambda: served.open_sockets() <= before, 15)
    for peer in silent + record:
        peer.close()


BAD_HEADS = {
    "a coding": head("/echo", ("transfer-encoding", "chunked"), method="POST"),
    "a connection": head("/echo", ("connection", "close"), method="POST"),
    "a line feed": head("/echo", ("x", "a\r\nx-smuggled: 1"), method="POST"),
    "a nul": head("/echo", ("x", "a\0b"), method="POST"),
    "a line feed in a name": head("/echo", ("x\r\ny", "a"), method="POST"),
    "a colon in a name": head("/echo", ("x: y", "a"), method="POST"),
    "capitals": head("/echo", ("X", "a"), method="POST"),
    "two paths": head("/echo", (":path", "/ping"), method="POST"),
    "two methods": head("/echo", (":method", "GET"), method="POST"),
    "a pseudo-header at the end": literal("x", "y") + head("/echo", method="POST"),
    "an unknown pseudo-header": head("/echo", (":smuggled", "1"), method="POST"),
    "a line feed in the path": head("/echo\r\nx: y", method="POST"),
    "a space in the path": head("/echo HTTP/1.1", method="POST"),
    "a method of two words": head("/ping", method="GET /echo"),
    "no path": head("", method="POST"),
    "two lengths": head("/echo", ("content-length", "2"), ("content-length", "0"), method="POST"),
    "a length that is none": head("/echo", ("content-length", "+2"), method="POST"),
}


@pytest.mark.parametrize("block", BAD_HEADS.values(), ids=BAD_HEADS.keys())
def test_heads_that_could_be_read_in_two_ways(served: Served, files: Files, block: bytes) -> None:
    with frames(served, files) as client:
        stream = client.open(block, end=False)
        client.send(frame(DATA, END_STREAM, stream, b"hi"))
        assert not is_accepted(client, stream)


def test_a_head_that_is_right(served: Served, files: Files) -> None:
    with frames(served, files) as client:
        stream = client.open(head("/echo", ("x", "y"), method="POST"), end=False)
        client.send(frame(DATA, END_STREAM, stream, b"hi"))
        assert is_accepted(client, stream)


@pytest.mark.parametrize("stated", ["1", "3", "0"])
def test_a_length_that_is_not_the_length(served: Served, files: Files, stated: str) -> None:
    with frames(served, files) as client:
        block = head("/echo", ("content-length", stated), method="POST")
        stream = client.open(block, end=False)
        client.send(frame(DATA, END_STREAM, stream, b"hi"))
        assert not is_accepted(client, stream)


def is_accepted(client: Frames, stream: int) -> bool:
    """Whether the request got an answer that says it was handled."""
    while (found := client.read()) is not None:
        kind, _, of, payload = found
        if kind == GOAWAY or (kind == RESET and of == stream):
            return False
        if kind == HEADERS and of == stream:
            # A status as the static table has it: 8 stands for 200.
            return payload[:1] == b"\x88"
    return False


BROKEN = {
    "a frame that is too large": frame(DATA, 0, 1, b"x" * 16_385),
    "data of a stream that was not opened": frame(DATA, 0, 5, b"x"),
    "a stream with an even number": frame(HEADERS, END_HEADERS, 2, head("/ping")),
    "a stream of number 0": frame(HEADERS, END_HEADERS, 0, head("/ping")),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, head("/ping")),
    "settings of half a length": frame(SETTINGS, 0, 0, b"\0\0\0"),
    "an acknowledgement with settings": frame(SETTINGS, ACK, 0, b"\0" * 6),
    "a window that is too large": frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
    "a ping of three bytes": frame(PING, 0, 0, b"abc"),
    "an index that nothing has": frame(HEADERS, END_HEADERS, 1, number(200, 7, 0x80)),
    "a table size that was not allowed": frame(
        HEADERS, END_HEADERS, 1, number(1 << 30, 5, 0x20) + head("/ping")
    ),
    "a number without end": frame(HEADERS, END_HEADERS, 1, b"\xff" * 20),
    "garbage": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
}


@pytest.mark.parametrize("piece", BROKEN.values(), ids=BROKEN.keys())
def test_broken_frames_end_the_connection(served: Served, files: Files, piece: bytes) -> None:
    with frames(served, files) as client:
        assert client.is_alive()
        client.send(piece)
        assert not client.is_alive()


def test_another_preface(served: Served, files: Files) -> None:
    trust = trusting(files[0])
    trust.set_alpn_protocols(["h2"])
    with trust.wrap_socket(plain(served), server_hostname="localhost") as peer:
        peer.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        received = Frames(peer)
        assert received.until(HEADERS) is None
