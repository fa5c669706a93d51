"""Clients that never stop asking, while processes come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.bolt.wire import get, wire


class Load:
    """Clients that never stop asking, and what went wrong for them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stopping = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def keep_alive(self) -> None:
        """Requests over one connection, which the server may close after an answer."""
        while not self.stopping.is_set():
            with wire(self.url) as client:
                while not self.stopping.is_set():
                    try:
                        answer = client.send(get("/version")).answer()
                    except (OSError, EOFError) as error:
                        self.failures.append(f"kept: {error!r}")
                        return
                    self.count(answer.status)
                    if answer.closes:
                        break

    def one_each(self) -> None:
        """A connection for each request."""
        while not self.stopping.is_set():
            try:
                with wire(self.url) as client:
                    self.count(
                        client.send(get("/version", "Connection: close\r\n")).answer().status
                    )
            except (OSError, EOFError) as error:
                self.failures.append(f"each: {error!r}")
                return

    def count(self, status: int) -> None:
        self.answered += 1
        time.sleep(0.002)  # the servers need the processors too
        if status != 200:
            self.failures.append(str(status))


@contextmanager
def load(url: str) -> Iterator[Load]:
    """Four clients until the block ends."""
    load = Load(url)
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(work) for work in (load.keep_alive, load.one_each) * 2]
        try:
            yield load
        finally:
            load.stopping.set()
            for client in running:
                client.result(timeout=30)
