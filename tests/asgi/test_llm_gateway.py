"""examples/llm_gateway under `uvicorn --workers 2` and Redis: totals are exact to the token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.servers import free_port
from tests.waiting import wait

HOME = Path(__file__).resolve().parents[2] / "examples" / "llm_gateway"


@pytest.fixture
def gateway(redis_url: str) -> Iterator[str]:
    """The address of the running example: 40 requests and 10 000 tokens a day for each key."""
    port = free_port()
    environment = os.environ | {
        "GATEWAY_REDIS": f"{redis_url}/9",
        "GATEWAY_REQUESTS": "40/d",
        "GATEWAY_TOKENS": "10000/d",
    }
    command = [sys.executable, "-m", "uvicorn", "gateway:app", "--port", str(port)]
    command += ["--workers", "2", "--no-proxy-headers", "--log-level", "error"]
    with subprocess.Popen(command, cwd=HOME, env=environment) as server:
        try:
            wait("the gateway", lambda: _answers(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


def test_tokens_are_exact_over_two_workers(gateway: str) -> None:
    def ask(words: int) -> tuple[int, int]:
        question = {"prompt": "word " * words, "max_tokens": 200}
        with httpx.Client(headers={"X-API-Key": "secret-of-acme"}, timeout=60) as client:
            reply = client.post(f"{gateway}/v1/answers", json=question)
        return reply.status_code, len(reply.text.split()) if reply.status_code == 200 else 0

    with ThreadPoolExecutor(8) as crowd:
        told = list(crowd.map(ask, range(1, 41)))
    assert told == [(200, words) for words in range(1, 41)]
    assert left(gateway, "secret-of-acme") == 10_000 - 2 * sum(range(1, 41))
    assert ask(1)[0] == 429  # the 41st request
    assert left(gateway, "secret-of-acme") == 10_000 - 2 * sum(range(1, 41))


def test_an_answer_that_might_be_too_long_is_refused_and_costs_nothing(gateway: str) -> None:
    headers = {"X-API-Key": "secret-of-bolt"}
    with httpx.Client(base_url=gateway, headers=headers, timeout=60) as client:
        long = {"prompt": "word " * 4000, "max_tokens": 4096}
        first = client.post("/v1/answers", json=long)
        assert (first.status_code, len(first.text.split())) == (200, 4000)
        refused = client.post("/v1/answers", json=long)
        assert refused.status_code == 429
        assert refused.json()["violated-policies"] == ["tokens"]
        assert int(refused.headers["retry-after"]) > 0
        assert left(gateway, "secret-of-bolt") == 2000
        short = {"prompt": "one two three", "max_tokens": 5}
        assert client.post("/v1/answers", json=short).text.split() == ["one", "two", "three"]
    assert left(gateway, "secret-of-bolt") == 1994
    assert left(gateway, "another") == 10_000


def test_what_a_client_did_wrong_is_said_and_costs_nothing(gateway: str) -> None:
    key = {"X-API-Key": "secret-of-cool"}
    with httpx.Client(base_url=gateway, timeout=60) as client:
        for answer in (
            client.post("/v1/answers", json={"prompt": "one"}),
            client.post("/v1/answers", json={"prompt": "one"}, headers={"X-API-Key": ""}),
            client.get("/v1/usage"),
        ):
            assert answer.status_code == 401
            assert answer.json() == {"detail": "Send your API key in the header X-API-Key."}
        for body in ({}, {"prompt": "one", "max_tokens": 0}, {"prompt": "one", "max_tokens": 9999}):
            assert client.post("/v1/answers", json=body, headers=key).status_code == 422
        endless = {"prompt": "word " * 20_000, "max_tokens": 1}
        refused = client.post("/v1/answers", json=endless, headers=key)
        assert refused.status_code == 429 and refused.json()["violated-policies"] == ["tokens"]
    assert left(gateway, "secret-of-cool") == 10_000


def left(gateway: str, key: str) -> int:
    reply = httpx.get(f"{gateway}/v1/usage", headers={"X-API-Key": key}, timeout=60)
    found: int = reply.json()["tokens_left"]
    return found
