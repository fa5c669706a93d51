"""Redis stops or dies while a service has traffic, and a crowd comes all at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.asgi.processes import UVICORN, Service, serving
from tests.faults.calling import PATIENCE
from tests.servers import RedisServer, redis_server
from tests.waiting import wait

RATE = 40
TIME_OUT = 0.15
OUTAGES: dict[str, tuple[Callable[[RedisServer], None], Callable[[RedisServer], None]]] = {
    "stopped": (RedisServer.freeze, RedisServer.thaw),
    "killed": (RedisServer.kill, RedisServer.restart),
}


@dataclass(frozen=True)
class Answer:
    """One answer, and when it was asked for and how long it took."""

    status: int
    response: httpx.Response
    began: float
    took: float


class Traffic:
    """Clients that ask without a pause."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self._answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(service,), daemon=True) for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, service: Service) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            while not self._stop.is_set():
                began = time.perf_counter()
                response = client.get("/")
                took = time.perf_counter() - began
                self._answers.append(Answer(response.status_code, response, began, took))

    def asked_now(self, times: int) -> list[Answer]:
        """The next answers to what is asked from now on."""
        now, end = time.perf_counter(), time.monotonic() + PATIENCE
        while True:
            found = [answer for answer in self._answers if answer.began >= now]
            if len(found) >= times:
                return found
            assert time.monotonic() < end, "the service stands still"
            time.sleep(0.005)

    def wait_for(self, status: int) -> None:
        """Wait until something that is asked from now on is answered so."""
        end = time.monotonic() + PATIENCE
        while status not in {answer.status for answer in self.asked_now(1)}:
            assert time.monotonic() < end, f"no answer is {status}"

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a request that never ends"


@contextmanager
def traffic(service: Service) -> Iterator[Traffic]:
    made = Traffic(service)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("mode", ["open", "closed", "local"])
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_in_mid_traffic(outage: str, mode: str, tmp_path: Path) -> None:
    begin, end = OUTAGES[outage]
    told = {"FAIL_MODE": mode, "TIME_OUT": str(TIME_OUT), "RATE": f"{RATE}/52w"}
    with (
        redis_server() as redis,
        serving(tmp_path, redis.url, UVICORN, **told) as service,
        traffic(service) as clients,
    ):
        # Redis answers: the budget is spent, and everybody is refused.
        clients.wait_for(429)
        begin(redis)
        # The kernel may need a moment to stop it.
        clients.asked_now(50)
        during = clients.asked_now(300)
        end(redis)
        _as_the_mode_says(mode, during)
        # Each time-out makes those wait that are in it; the breaker answers the others.
        slow = [answer for answer in during if answer.took >= TIME_OUT]
        assert len(slow) < len(during) / 4, slow
        # It counts again by itself; killed, it has forgotten and admits a budget more.
        wait("the server counts again", lambda: redis.ask("DBSIZE") != b":0")
        clients.wait_for(429)


def _as_the_mode_says(mode: str, answers: list[Answer]) -> None:
    found = Counter(answer.status for answer in answers)
    if mode == "open":
        assert set(found) == {200}
    elif mode == "local":
        assert set(found) <= {200, 429} and found[200] <= RATE and found[429] > 0
    else:
        assert set(found) == {503}
        for answer in answers:
            response = answer.response
            assert response.headers["retry-after"] == "1"
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == 503 and "redis" not in response.text


def test_of_four_hundred_at_once_five_pass(tmp_path: Path) -> None:
    told = {"FAIL_MODE": "open", "TIME_OUT": "20", "RATE": "5/52w"}
    command = (*UVICORN, "--workers", "2", "--backlog", "1024")
    statuses: list[int] = []
    with redis_server() as redis, serving(tmp_path, redis.url, command, **told) as service:
        port = int(service.url.rpartition(":")[2])

        async def everybody() -> None:
            gate = asyncio.Event()

            async def one() -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await gate.wait()
                writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                statuses.append(int((await reader.read()).split(b" ", 2)[1]))
                writer.close()

            tasks = [asyncio.ensure_future(one()) for _ in range(400)]
            gate.set()
            await asyncio.gather(*tasks)

        asyncio.run(everybody())
    assert Counter(statuses) == {200: 5, 429: 395}
