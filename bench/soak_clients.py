"""The clients of `make soak`: good ones, wrong ones and such as leave, as fast as Python goes."""

from __future__ import annotations

import random
import re
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.bolt.frames import DATA, END_STREAM, HEADERS, RESET, WINDOW, Frames, frame, frames, head
from tests.bolt.project import Served

if TYPE_CHECKING:
    from bench.soak import Run

Kinds = Counter[str]
Client = Callable[["Run", int], None]

BATCH = 20
"""Requests sent together over one connection."""
LIFE = 30
"""Batches of one connection."""
LEAVING = 5
"""Batches between two clients that leave."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def request(target: str, body: bytes = b"", more: str = "", method: str = "") -> bytes:
    method = method or ("POST" if body else "GET")
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{more}{length}\r\n".encode() + body


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nlamp\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    + b"x" * 3000
    + b"\r\n--b--\r\n"
)
JSON = "Content-Type: application/json\r\n"

ASKED: dict[str, tuple[bytes, int]] = {
    "JSON": (request("/json/7?q=lamp"), 200),
    "JSON, plain handler": (request("/plain"), 200),
    "body": (request("/order", b'{"name": "lamp", "count": 3}', JSON), 200),
    "form and file": (
        request("/form", FORM, "Content-Type: multipart/form-data; boundary=b\r\n"),
        200,
    ),
    "file sent": (request("/file"), 200),
    "file in part": (request("/file", more="Range: bytes=100-199\r\n"), 206),
    "stream": (request("/stream"), 200),
    "limit refused": (request("/limited"), 429),
    "not found": (request("/nowhere"), 404),
    "wrong arguments": (request("/json/seven"), 422),
    "wrong body": (request("/order", b'{"name": 3', JSON), 422),
    "handler fails": (request("/fails"), 500),
    "HEAD": (request("/json/7", method="HEAD"), 200),
}
REFUSED: dict[str, tuple[bytes, int]] = {
    "refused: body size": (request("/order", b"x" * 20_000, JSON), 413),
    "refused: lengths": (
        b"POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
    ),
    "refused: head": (request("/json/7", more=f"X: {'y' * 40_000}\r\n"), 431),
    "refused: nonsense": (b"nonsense\r\n\r\n", 400),
}
LEFT: dict[str, tuple[bytes, int]] = {
    "left: handler": (request("/never"), 0),
    "left: half a head": (b"GET /json/7 HTTP/1.1\r\nHos", 0),
    "left: half a body": (request("/order", b"x" * 5000, JSON)[:-2000], 0),
    "left: stream": (request("/stream") * 20, 100),
    "left: files": (request("/file") * 20, 1000),
}
"""What is sent, and how many bytes are read before the client goes."""


class Reader:
    """Answers, one after the other."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.held = b""

    def status(self, is_head: bool = False) -> int:
        """The status of the next answer, which is read to its end."""
        head = self.until(b"\r\n\r\n")
        found = _STATUS.match(head)
        if found is None:
            raise ValueError(f"no answer: {head[:80]!r}")
        length = _LENGTH.search(head)
        if is_head:
            pass
        elif length:
            self.take(int(length[1]))
        else:
            while size := int(self.until(b"\r\n"), 16):
                self.take(size + 2)
            self.take(2)
        return int(found[1])

    def until(self, end: bytes) -> bytes:
        while (at := self.held.find(end)) < 0:
            self.more()
        at += len(end)
        found, self.held = self.held[:at], self.held[at:]
        return found

    def take(self, count: int) -> None:
        while len(self.held) < count:
            self.more()
        self.held = self.held[count:]

    def more(self) -> None:
        chunk = self.peer.recv(262_144)
        if not chunk:
            raise EOFError("closed too early")
        self.held += chunk


def http1(url: str, seed: int) -> Client:
    """A client that asks so many requests of all kinds, many at a time."""
    place = urlsplit(url)
    address = (place.hostname or "", place.port or 80)
    choose = random.Random(seed)

    def connect() -> socket.socket:
        return socket.create_connection(address, 30)

    def batch(run: Run, reader: Reader, count: int) -> None:
        kinds = choose.choices(list(ASKED), k=count)
        reader.peer.sendall(b"".join(ASKED[kind][0] for kind in kinds))
        for kind in kinds:
            check(run, kind, reader.status(kind == "HEAD"), (ASKED[kind][1],))

    def one(run: Run, kind: str) -> None:
        """A connection of its own, which the server closes or the client leaves."""
        with connect() as peer:
            if kind in REFUSED:
                sent, status = REFUSED[kind]
                peer.sendall(sent)
                check(run, kind, Reader(peer).status(), (status,))
                return
            sent, count = LEFT[kind]
            peer.sendall(sent)
            while count > 0:
                count -= len(peer.recv(count))
            run.kinds[kind] += 1

    def client(run: Run, count: int) -> None:
        asked = 0
        odd = [*REFUSED, *LEFT]
        while asked < count and not run.wrong:
            with connect() as peer:
                reader = Reader(peer)
                for turn in range(LIFE):
                    batch(run, reader, BATCH)
                    asked += BATCH
                    if turn % LEAVING == 0:
                        one(run, choose.choice(odd))
                        asked += 1
                    if asked >= count:
                        return

    return client


def check(run: Run, kind: str, status: int, expected: tuple[int, ...]) -> None:
    run.kinds[kind] += 1
    if status not in expected:
        run.wrong.append(f"{kind}: {status} and not {expected[0]}")


STREAMS = {
    "JSON": (head("/json/7?q=lamp"), b""),
    "body": (
        head("/order", ("content-type", "application/json"), method="POST"),
        b'{"name": "lamp", "count": 3}',
    ),
    "file sent": (head("/file"), b""),
    "stream": (head("/stream"), b""),
    "limit refused": (head("/limited"), b""),
    "not found": (head("/nowhere"), b""),
    "refused: body size": (head("/order", method="POST"), b"x" * 12_000),
    "refused: head": (head("/json/7", *[("x", "y")] * 101), b""),
    "left: reset": (head("/never"), b""),
}


def http2(served: Served, files: tuple[Path, Path], seed: int) -> Client:
    """The same over HTTP/2, with a handshake for each connection."""
    choose = random.Random(seed)

    def batch(run: Run, client: Frames, count: int) -> None:
        kinds = choose.choices(list(STREAMS), k=count)
        waiting = {}
        for kind in kinds:
            block, body = STREAMS[kind]
            stream = client.open(block, not body)
            if body:
                client.send(frame(DATA, END_STREAM, stream, body))
            if kind == "left: reset":
                client.send(frame(RESET, 0, stream, b"\0\0\0\x08"))
                run.kinds[kind] += 1
            else:
                waiting[stream] = kind
        while waiting:
            found = client.read()
            if found is None:
                run.wrong.append(f"closed with {len(waiting)} streams open")
                return
            what, flags, stream, payload = found
            if what == DATA and payload:
                room = len(payload).to_bytes(4, "big")
                client.send(frame(WINDOW, 0, 0, room), frame(WINDOW, 0, stream, room))
            over = what in (DATA, HEADERS) and flags & END_STREAM
            if (over or what == RESET) and stream in waiting:
                run.kinds[waiting.pop(stream)] += 1

    def client(run: Run, count: int) -> None:
        asked = 0
        while asked < count and not run.wrong:
            try:
                with frames(served, files) as client:
                    for _ in range(LIFE):
                        batch(run, client, BATCH)
                        asked += BATCH
            except ssl.SSLError as error:
                run.wrong.append(repr(error))

    return client
