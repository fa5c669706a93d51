"""A client of HTTP/2 that sends and takes exactly what it is told."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

from tests.bolt.project import Served
from tests.bolt.wire import trusting

Event = TypeVar("Event", bound=h2.events.Event)


class Http2:
    """A client that may break the rules."""

    def __init__(self, served: Served, files: tuple[Path, Path]) -> None:
        place = urlsplit(served.url)
        trust = trusting(files[0])
        trust.set_alpn_protocols(["h2"])
        plain = socket.create_connection((place.hostname, place.port), 15)
        self.socket = trust.wrap_socket(plain, server_hostname=place.hostname)
        self.host = place.netloc
        self.state = h2.connection.H2Connection(
            h2.config.H2Configuration(
                validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.left: list[h2.events.Event] = []
        self.state.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.state.data_to_send())

    def headers(
        self, path: str, *more: tuple[str, str], method: str = "GET"
    ) -> list[tuple[str, str]]:
        return [
            (":method", method),
            (":scheme", "https"),
            (":authority", self.host),
            (":path", path),
            *more,
        ]

    def open(self, headers: list[tuple[str, str]], end: bool = True) -> int:
        number = self.state.get_next_available_stream_id()
        self.state.send_headers(number, headers, end_stream=end)
        self.flush()
        return number

    def events(self) -> list[h2.events.Event]:
        """What comes next; nothing when the server has closed."""
        try:
            data = self.socket.recv(65_536)
        except (ConnectionError, ssl.SSLError):
            return []
        if not data:
            return []
        found = list(self.state.receive_data(data))
        self.flush()
        return found or self.events()

    def until(self, kind: type[Event], stream: int | None = None) -> Event:
        """The next event of a kind; those before it are forgotten, those after it are not."""
        for _ in range(1000):
            events, self.left = self.left or self.events(), []
            assert events, f"closed before {kind.__name__}"
            for place, event in enumerate(events):
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self.left = events[place + 1 :]
                    return event
        raise AssertionError(f"no {kind.__name__}")

    def reset(self, stream: int) -> None:
        self.state.reset_stream(stream)
        self.flush()

    def status(self, stream: int) -> int:
        answer = self.until(h2.events.ResponseReceived, stream)
        return int(dict(answer.headers)[b":status"])

    def gone(self) -> bool:
        for _ in range(1000):
            events = self.events()
            if not events or any(isinstance(e, h2.events.ConnectionTerminated) for e in events):
                return True
        return False
