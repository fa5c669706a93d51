"""A limiter's life in a service: lifespan, event loops, forks, workers, reload, and its end."""

from __future__ import annotations

import asyncio
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.asgi.processes import GUNICORN, STRICT, UVICORN, counted, serving
from tests.servers import redis_server
from tests.waiting import wait
from tollway import Decision, Limiter, Policy


@pytest.fixture
def shm_url() -> str:
    return f"shm://life-{secrets.token_hex(8)}"


@pytest.mark.parametrize(
    ("server", "store"),
    [
        ((*UVICORN, "--workers", "4"), "redis"),
        ((*UVICORN, "--workers", "4"), "shm"),
        ((*GUNICORN, "--worker-class", "asgi"), "redis"),
        ((*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker"), "shm"),
    ],
    ids=["uvicorn-redis", "uvicorn-shm", "gunicorn-redis", "gunicorn-uvicorn-shm"],
)
def test_workers_count_as_one(
    server: tuple[str, ...], store: str, tmp_path: Path, shm_url: str
) -> None:
    # gunicorn loads the service, which checks once, and forks its workers afterwards.
    with redis_server() as redis:
        limits = redis.url if store == "redis" else shm_url
        with serving(tmp_path, limits, server, USED_BEFORE_FORK="yes") as service:
            answers = service.crowd(150)
            assert counted(answers) == {200: 100, 429: 50}
            assert len({answer.text for answer in answers if answer.status_code == 200}) > 1
            said = service.end()
            assert "Traceback" not in said


@pytest.mark.parametrize(
    ("store", "lifespan"), [("redis", "closes it"), ("redis", "without"), ("memory", "off")]
)
def test_nothing_is_left_and_nothing_is_said_at_the_end(
    store: str, lifespan: str, tmp_path: Path
) -> None:
    told = {"PYTHONASYNCIODEBUG": "1"} | ({"CLOSES": "yes"} if lifespan == "closes it" else {})
    command = (*UVICORN, "--log-level", "warning")
    command += ("--lifespan", "off") if lifespan == "off" else ()
    with redis_server() as redis:
        limits = "memory://" if store == "memory" else redis.url
        with serving(tmp_path, limits, command, STRICT, **told) as service:
            assert counted(service.crowd(120)) == {200: 100, 429: 20}
            assert service.end() == ""
        wait("the service's connections are gone", lambda: _clients(redis.read("INFO", "clients")))


def _clients(told: str) -> bool:
    return "connected_clients:1\r" in told  # the one that asks


def test_a_reload_keeps_the_count(tmp_path: Path) -> None:
    command = (*UVICORN, "--reload")
    with redis_server() as redis, serving(tmp_path, redis.url, command, RATE="20/52w") as it:
        assert [it.ask().status_code for _ in range(5)] == [200] * 5
        it.file.write_text(it.file.read_text().replace(" one", " two"))
        others = []

        def reloaded() -> bool:
            try:
                others.append(it.ask())
            except httpx.TransportError:
                return False
            return others[-1].text.endswith("two")

        wait("the edited service answers", reloaded)
        passed = sum(answer.status_code == 200 for answer in others)
        assert counted(it.crowd(30)) == {200: 15 - passed, 429: 15 + passed}


POLICY = Policy("loops", "50/52w")


async def _checks(limiter: Limiter, times: int) -> list[Decision]:
    return await asyncio.gather(*(limiter.acheck(POLICY, "k") for _ in range(times)))


@pytest.mark.parametrize("store", ["memory", "shm", "redis"])
def test_loops_in_several_threads_share_one_limiter(store: str, shm_url: str) -> None:
    with redis_server() as redis:
        urls = {"memory": "memory://", "shm": shm_url, "redis": redis.url}
        limiter = Limiter(urls[store], fail_mode="closed", command_timeout=20, connect_timeout=20)
        gate = threading.Barrier(3)

        def run(_: int) -> int:
            gate.wait(20)
            decisions = asyncio.run(_checks(limiter, 40), debug=True)
            return sum(decision.allowed for decision in decisions)

        with limiter, ThreadPoolExecutor(3) as pool:
            assert sum(pool.map(run, range(3))) == 50


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_a_limiter_outlives_its_loops(store: str) -> None:
    with redis_server() as redis:
        url = redis.url if store == "redis" else "memory://"
        limiter = Limiter(url, fail_mode="closed", command_timeout=20, connect_timeout=20)

        async def leaves_some() -> None:
            left = [asyncio.ensure_future(limiter.acheck(POLICY, "other")) for _ in range(5)]
            await asyncio.sleep(0)
            for task in left:
                task.cancel()

        with limiter:
            for n in range(4):
                asyncio.run(leaves_some(), debug=True)
                decisions = asyncio.run(_checks(limiter, 20), debug=True)
                allowed = sum(decision.allowed for decision in decisions)
                assert allowed == [20, 20, 10, 0][n]
