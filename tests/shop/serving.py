"""The shop under real servers with several processes, and clients that come all at once."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from tests.servers import free_port
from tests.waiting import wait

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
PROCESSES = 4
START_WITHIN = 60.0
CLIENTS = 8

COMMANDS = {
    "wsgi": ("gunicorn", "config.wsgi", "--bind", "127.0.0.1:{port}", "--workers", "{processes}"),
    "asgi": (
        *("uvicorn", "config.asgi:application", "--port", "{port}", "--workers", "{processes}"),
        # It believes X-Forwarded-For from 127.0.0.1 unless told not to.
        *("--no-proxy-headers", "--no-access-log", "--lifespan", "off"),
    ),
}


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Shop:
    """A shop that serves."""

    port: int

    def ask(
        self,
        path: str,
        method: str = "GET",
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        client: int = 1,
    ) -> Answer:
        """One request on a connection of its own, from the address 127.0.0.`client`."""
        place = (f"127.0.0.{client}", 0)
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=60, source_address=place
        )
        told = dict(headers or {})
        body = None
        if form is not None:
            body = urlencode(form)
            told["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body, told)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def rush(self, count: int, path: str, **how: object) -> list[Answer]:
        """So many requests from so many clients in parallel."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(self.ask, path, **how) for _ in range(count)]  # type: ignore[arg-type]
            return [answer.result() for answer in asked]


def environment(database: Path, backend: str, prefix: str) -> dict[str, str]:
    """What the shop is told. A busy machine may keep a store from answering for a while."""
    told = {"SHOP_DATABASE": str(database), "SHOP_BACKEND": backend, "SHOP_PREFIX": prefix}
    return os.environ | told | {"SHOP_COMMAND_TIMEOUT": "20"}


def manage(database: Path, *arguments: str) -> None:
    """Run `manage.py`."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=SHOP,
        env=environment(database, "memory://", "manage") | {"DJANGO_SUPERUSER_PASSWORD": "secret"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"manage.py {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


@contextmanager
def serving(kind: str, database: Path, backend: str, folder: Path) -> Iterator[Shop]:
    """The shop under a WSGI or an ASGI server with four processes that are all ready."""
    port = free_port()
    words = [word.format(port=port, processes=PROCESSES) for word in COMMANDS[kind]]
    log = folder / f"{kind}.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=SHOP,
            env=environment(database, backend, f"shop-{kind}"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    shop = Shop(port)
    workers: set[str] = set()

    def all_answer() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"{words[0]} ends: {log.read_text(errors='replace')[-3000:]}")
        workers.update(answer.headers["worker"] for answer in shop.rush(CLIENTS, "/health/"))
        return len(workers) == PROCESSES

    try:
        wait("each process of the shop answers", all_answer, START_WITHIN)
        yield shop
    finally:
        server.terminate()
        server.wait(30)
