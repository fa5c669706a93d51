"""An HTTP/2 client that sends exactly the frames it is told, right or wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.bolt.project import Served
from tests.bolt.wire import PATIENCE, trusting

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def number(value: int, bits: int, start: int = 0) -> bytes:
    """An integer of HPACK with a prefix of so many bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([start | value])
    out, value = [start | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def text(value: str) -> bytes:
    data = value.encode("latin-1")
    return number(len(data), 7) + data


def literal(name: str, value: str, start: int = 0x00) -> bytes:
    """A header that no table knows; with 0x40 as ``start`` it is put into one."""
    return bytes([start]) + text(name) + text(value)


def head(path: str, *more: tuple[str, str], method: str = "GET") -> bytes:
    fields = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        *more,
    ]
    return b"".join(literal(*field) for field in fields)


class Frames:
    """A connection on which any frames may be sent."""

    def __init__(self, peer: ssl.SSLSocket) -> None:
        self.peer = peer
        self.received = b""
        self.next_stream = 1

    def send(self, *frames: bytes) -> bool:
        """Whether the other side still takes what is sent."""
        try:
            self.peer.sendall(b"".join(frames))
        except OSError:
            return False
        return True

    def open(self, block: bytes, end: bool = True) -> int:
        """A stream with that head."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.send(frame(HEADERS, flags, stream, block))
        return stream

    def read(self) -> tuple[int, int, int, bytes] | None:
        """The next frame as kind, flags, stream, payload; None when the connection is over."""
        with contextlib.suppress(OSError):
            while len(self.received) < 9 or len(self.received) < 9 + self.length:
                chunk = self.peer.recv(65_536)
                if not chunk:
                    return None
                self.received += chunk
            kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
            payload, self.received = (
                self.received[9 : 9 + self.length],
                self.received[9 + self.length :],
            )
            return kind, flags, stream & 0x7FFFFFFF, payload
        return None

    @property
    def length(self) -> int:
        return int.from_bytes(self.received[:3], "big")

    def until(self, kind: int, stream: int | None = None) -> bytes | None:
        """The payload of the next frame of that kind; None when the connection ends first."""
        while (found := self.read()) is not None:
            if found[0] == kind and stream in (None, found[2]):
                return found[3]
        return None

    def is_alive(self) -> bool:
        """Whether a ping comes back."""
        token = b"is it on"
        if not self.send(frame(PING, 0, 0, token)):
            return False
        while (payload := self.until(PING)) is not None:
            if payload == token:
                return True
        return False


def plain(served: Served) -> socket.socket:
    place = urlsplit(served.url)
    return socket.create_connection((place.hostname, place.port), PATIENCE)


@contextlib.contextmanager
def frames(served: Served, files: tuple[Path, Path], window: int = 65_535) -> Iterator[Frames]:
    """A connection that has said hello; a stream may send it ``window`` bytes."""
    trust = trusting(files[0])
    trust.set_alpn_protocols(["h2"])
    with trust.wrap_socket(plain(served), server_hostname="localhost") as peer:
        client = Frames(peer)
        client.send(PREFACE, frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, window)))
        yield client
