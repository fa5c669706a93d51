"""Limits by caller and by outcome: who is counted, when, by how many processes, at what cost."""

from __future__ import annotations

import asyncio
import http.client
import os
import selectors
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bolt import tokens
from tests.bolt.native import Running
from tests.bolt.project import Project
from tests.bolt.test_auth import BY_KEY, BY_TOKEN, KEYS, bearer, limited, serving, whoami
from tollway import ConfigError, Limiter
from tollway.bolt import BoltAPI, HTTPException, Unauthorized, rate_limit
from tollway.bolt.auth import IsAuthenticated


def statuses(served: Running, path: str, count: int, **headers: str) -> list[int]:
    return [served.get(path, **headers).status for _ in range(count)]


@contextmanager
def called(served: Running) -> Iterator[Counter[str]]:
    """Counts the Python functions that the loop's thread enters in the block, its own left out."""
    seen: Counter[str] = Counter()
    of_the_loop = (str(Path(asyncio.__file__).parent), selectors.__file__)

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith(of_the_loop):
            seen[frame.f_code.co_qualname] += 1

    served.on_loop(lambda: sys.setprofile(note))
    try:
        yield seen
    finally:
        served.on_loop(lambda: sys.setprofile(None))


def many(served: Running, path: str, count: int, **headers: str) -> Counter[int]:
    """The statuses of so many requests over one connection."""
    found: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    with closing(connection):
        for _ in range(count):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            found[response.status] += 1
    return found


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/limited", bearer(tokens.token()), 429),
        ("/limited", {"x-api-key": next(iter(KEYS))}, 429),
        ("/me", {}, 401),
        ("/me", bearer("forged"), 401),
        ("/me", {"x-api-key": "a key that nobody issued"}, 401),
        ("/failing", bearer("forged"), 429),
    ],
)
def test_refusals_enter_no_python(path: str, headers: dict[str, str], status: int) -> None:
    api = BoltAPI(auth=[BY_TOKEN, BY_KEY])
    api.get("/limited")(limited(rate_limit("1/h", key="user")))
    api.get("/me", guards=[IsAuthenticated()])(whoami)
    failing = limited(rate_limit("1/h", on_status=401))
    api.get("/failing", guards=[IsAuthenticated()])(failing)
    api.get("/open", auth=[])(whoami)
    with serving(api) as served:
        many(served, path, 2, **headers)
        with called(served) as entered:
            assert many(served, "/open", 50) == {200: 50}
        assert entered["whoami"] == 50, "the profile sees what is entered"
        with called(served) as entered:
            assert many(served, path, 200, **headers) == {status: 200}
        # What is there once or twice is this test's own, switching the profile on and off.
        assert max(entered.values(), default=0) < 10, entered


def test_failed_attempts_lock_an_address_out_and_others_do_not() -> None:
    api = BoltAPI(auth=[BY_TOKEN], guards=[IsAuthenticated()])
    api.get("/me")(limited(rate_limit("3/h", on_status=401)))
    with serving(api) as served:
        good, forged = bearer(tokens.token()), bearer("forged")
        assert statuses(served, "/me", 10, **good) == [200] * 10
        assert statuses(served, "/me", 4, **forged) == [401, 401, 401, 429]
        # Now nothing is looked at, good or forged: a guess that is right is not told from others.
        refused = served.get("/me", **good)
        assert (refused.status, refused.json()["status"]) == (429, 429)
        assert int(refused.headers["retry-after"]) > 1000


def test_the_handler_says_what_is_counted() -> None:
    api = BoltAPI()

    @api.get("/login/{answer}")
    @rate_limit("2/h", on_status=[401, 403])
    async def login(answer: int) -> Any:
        if answer == 401:
            raise Unauthorized("no")
        if answer >= 400:
            raise HTTPException(answer)
        return {}

    @api.get("/sync/{answer}")
    @rate_limit("2/h", on_status=403)
    def sync(answer: int) -> Any:
        if answer >= 400:
            raise HTTPException(answer)
        return {}

    with serving(api) as served:
        for answer in (200, 404, 400, 500):
            assert statuses(served, f"/login/{answer}", 3) == [answer] * 3
        first = served.get("/login/401")
        assert (first.status, first.headers["x-ratelimit-remaining"]) == (401, "1")
        assert "x-ratelimit-remaining" not in served.get("/login/200").headers
        assert statuses(served, "/login/403", 2) == [403, 429]
        assert statuses(served, "/login/200", 1) == [429]
        assert statuses(served, "/sync/401", 3) == [401] * 3
        assert statuses(served, "/sync/403", 3) == [403, 403, 429]


def test_all_requests_and_failed_ones_are_two_counts() -> None:
    api = BoltAPI(auth=[BY_TOKEN], guards=[IsAuthenticated()])
    both = limited(rate_limit("6/h"), rate_limit("2/h", on_status=401))
    api.get("/me")(both)
    with serving(api) as served:
        good, forged = bearer(tokens.token()), bearer("forged")
        assert statuses(served, "/me", 1, **forged) == [401]
        assert statuses(served, "/me", 3, **good) == [200] * 3
        assert statuses(served, "/me", 2, **forged) == [401, 429]
        assert statuses(served, "/me", 1, **good) == [429]


def test_a_count_by_caller_and_outcome() -> None:
    """Who asks for what is not theirs too often is stopped, wherever they come from."""
    api = BoltAPI(auth=[BY_TOKEN, BY_KEY], guards=[IsAuthenticated()])

    @api.get("/orders/{number}")
    @rate_limit("2/h", key="user", on_status=404)
    async def order(number: int) -> Any:
        if number != 7:
            raise HTTPException(404)
        return {}

    with serving(api) as served:
        ada, bob = (bearer(tokens.token(sub=sub)) for sub in ("ada", "bob"))
        assert [served.get(f"/orders/{n}", **ada).status for n in range(4)] == [404, 404, 429, 429]
        assert statuses(served, "/orders/7", 1, **ada) == [429]
        assert statuses(served, "/orders/7", 3, **bob) == [200] * 3
        assert served.get("/orders/7", **{"x-api-key": next(iter(KEYS))}).status == 200


def test_attempts_at_the_same_moment_are_bounded() -> None:
    api = BoltAPI()
    api.get("/me", auth=[BY_TOKEN], guards=[IsAuthenticated()])(
        limited(rate_limit("5/h", on_status=401))
    )
    found: list[int] = []
    with serving(api) as served:

        def guess() -> None:
            found.extend(statuses(served, "/me", 5, **bearer("forged")))

        threads = [threading.Thread(target=guess) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # A token is judged between the look and the count, and nothing comes between.
    assert Counter(found) == {401: 5, 429: 35}


@pytest.mark.parametrize("kind", ["async", "sync", "refused by a guard"])
def test_a_remote_store_is_asked_before_and_after(redis_url: str, kind: str) -> None:
    backend = Limiter(redis_url, prefix=f"outcomes-{kind.replace(' ', '-')}-{os.getpid()}")
    api = BoltAPI(auth=[BY_TOKEN], guards=[IsAuthenticated()])
    limits = (
        rate_limit("100/h", backend=backend),
        rate_limit("3/h", on_status=[401, 404], backend=backend),
        rate_limit("2/h", key="user", on_status=404, backend=backend),
    )

    async def later(number: int) -> Any:
        await asyncio.sleep(0)
        return now(number)

    def now(number: int) -> Any:
        if number != 7:
            raise HTTPException(404)
        return {}

    handler: Any = now if kind == "sync" else later
    for limit in limits:
        handler = limit(handler)
    api.get("/{number}")(handler)
    with serving(api) as served:
        ada, bob = (bearer(tokens.token(sub=sub)) for sub in ("ada", "bob"))
        assert statuses(served, "/7", 5, **ada) == [200] * 5
        if kind == "refused by a guard":
            assert statuses(served, "/7", 4, **bearer("forged")) == [401, 401, 401, 429]
            return
        assert statuses(served, "/1", 3, **ada) == [404, 404, 429]
        assert statuses(served, "/1", 2, **bob) == [404, 429]
        assert statuses(served, "/7", 1, **bob) == [429]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([], "is empty"),
        (429, "429"),
        (99, "no status"),
        (True, "no status"),
        (["401"], "no status"),
    ],
)
def test_statuses_that_cannot_be(given: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        rate_limit("1/s", on_status=given)


API = """
import os

from tollway.bolt import BoltAPI, rate_limit
from tollway.bolt.auth import IsAuthenticated, JWTAuthentication

api = BoltAPI(auth=[JWTAuthentication()], guards=[IsAuthenticated()])


@api.get("/me")
@rate_limit("10/h", key="user", tiers={"pro": "20/h"})
@rate_limit("5/h", on_status=401, name="guesses")
async def me():
    return os.getpid()
"""


def test_one_limit_holds_over_two_processes(project: Project) -> None:
    project.settings(f"SECRET_KEY = {tokens.SECRET!r}")
    project.write("shop/api.py", API)
    with project.serve("--processes", "2") as served:

        def asked(count: int, **headers: str) -> tuple[Counter[int], set[int]]:
            found: Counter[int] = Counter()
            processes = set()
            for _ in range(count):
                # A connection of its own, so that both processes are asked.
                answer = httpx.get(f"{served.url}/me", headers=headers)
                found[answer.status_code] += 1
                if answer.status_code == 200:
                    processes.add(answer.json())
            return found, processes

        ada, pro = bearer(tokens.token(sub="ada")), bearer(tokens.token(sub="eve", tier="pro"))
        found, one = asked(40, **ada)
        assert found == {200: 10, 429: 30}
        found, other = asked(40, **pro)
        assert found == {200: 20, 429: 20}
        assert len(one | other) == 2, "both processes answered"
        found, _ = asked(20, **bearer("forged"))
        assert found == {401: 5, 429: 15}
