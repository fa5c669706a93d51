"""A small service in processes of its own, under the servers that people use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.servers import free_port
from tests.waiting import wait

SERVICE = """
import os
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tollway import Limiter, Policy
from tollway.starlette import LimiterMiddleware, rate_limit

limiter = Limiter(
    os.environ["LIMITS"],
    fail_mode=os.environ.get("FAIL_MODE", "closed"),
    connect_timeout=float(os.environ.get("TIME_OUT", "20")),
    command_timeout=float(os.environ.get("TIME_OUT", "20")),
    near_cache=0,
)
PING = Policy("ping", os.environ.get("RATE", "100/52w"))
if "USED_BEFORE_FORK" in os.environ:
    limiter.check(PING, "early")


@asynccontextmanager
async def lifespan(app):
    async with limiter:
        yield


@rate_limit(PING, limiter, share="policy")
async def home(request):
    return PlainTextResponse(f"{os.getpid()} one")


async def up(request):
    return PlainTextResponse("up")


routes = [Route("/", home), Route("/up", up)]
app = Starlette(routes=routes, lifespan=lifespan if "CLOSES" in os.environ else None)
app.add_middleware(LimiterMiddleware, limiter=limiter, policy="1000000/s", exclude_paths=["/up"])
"""

UVICORN = ("uvicorn", "service:app", "--port", "{port}", "--no-proxy-headers", "--no-access-log")
GUNICORN = ("gunicorn", "service:app", "--bind", "127.0.0.1:{port}", "--workers", "3", "--preload")
STRICT = ("-X", "dev", "-W", "error")


class Service:
    """It, while it runs."""

    def __init__(self, process: subprocess.Popen[str], port: int, file: Path) -> None:
        self.process = process
        self.file = file
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str = "/") -> httpx.Response:
        """One request on a connection of its own, so that any worker may take it."""
        return httpx.get(self.url + path, timeout=60)

    def crowd(self, requests: int, path: str = "/") -> list[httpx.Response]:
        """Many requests, sixteen at a time."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self.ask, [path] * requests))

    def end(self) -> str:
        """Have it shut down as an operator does; what it said meanwhile."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=60)[1]
        assert self.process.returncode in (0, -signal.SIGTERM), said
        return said


@contextmanager
def serving(
    folder: Path, limits: str, command: tuple[str, ...], python: tuple[str, ...] = (), **told: str
) -> Iterator[Service]:
    """The service with its counts at ``limits``; ``told`` is its environment."""
    file = folder / "service.py"
    file.write_text(SERVICE)
    port = free_port()
    words = [word.format(port=port) for word in command]
    with subprocess.Popen(
        [sys.executable, *python, "-m", *words],
        cwd=folder,
        env=os.environ | {"LIMITS": limits} | told,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        service = Service(process, port, file)
        try:
            wait("the service answers", lambda: _up(service))
            yield service
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _up(service: Service) -> bool:
    assert service.process.poll() is None, "the server ended"
    try:
        return service.ask("/up").status_code == 200
    except httpx.TransportError:
        return False


def counted(answers: list[httpx.Response]) -> Counter[int]:
    """How many answers there are of each status."""
    return Counter(answer.status_code for answer in answers)
