"""``shm://``: one limit for all processes of a host."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tollway import Breaker, ConfigError, Limiter, Policy
from tollway.testing import ManualClock

SPEND = """
import sys
from tollway import Limiter, Policy
limiter, policy = Limiter(sys.argv[1]), Policy("spend", "5000/365d")
sys.stdin.readline()
print(sum(limiter.check(policy, "k").allowed for _ in range(2_000)))
"""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"test-py-{os.getpid()}-{abs(hash(request.node.name)) % 10**9}"
    yield f"shm://{name}"
    Path(f"/dev/shm/tollway-{name}").unlink(missing_ok=True)


def file_of(url: str) -> Path:
    return Path(f"/dev/shm/tollway-{url.removeprefix('shm://')}")


def test_eight_processes_spend_exactly_the_limit(url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPEND, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    passed = sum(int(process.communicate(timeout=120)[0]) for process in processes)
    # One comes back every two hours.
    assert passed in (5_000, 5_001)


def test_a_forked_child_counts_along(url: str) -> None:
    limiter, policy = Limiter(url), Policy("login", "5/d")
    assert limiter.check(policy, "k").remaining == 4
    code = (
        "import os, sys\n"
        "from tollway import Limiter, Policy\n"
        "limiter, policy = Limiter(sys.argv[1]), Policy('login', '5/d')\n"
        "assert limiter.check(policy, 'k').remaining == 3\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    met = limiter.check(policy, 'k').remaining == 2\n"
        "    new = limiter.check(Policy('new', '5/d'), 'k').remaining == 4\n"
        "    os._exit(0 if met and new else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert limiter.check(policy, 'k').remaining == 1\n"
        "assert limiter.check(Policy('new', '5/d'), 'k').remaining == 3\n"
    )
    subprocess.run([sys.executable, "-c", code, url], check=True, timeout=60)
    assert limiter.check(policy, "k").remaining == 0


def test_what_one_process_resets_is_free_in_all_at_once(url: str) -> None:
    # Nothing is remembered beside the segment: refusals are looked up again.
    one, two, policy = Limiter(url), Limiter(url), Policy("login", "2/d")
    for key in ("user:1", "user:2", "org:1"):
        one.check(policy, key, cost=2)
        assert not two.check(policy, key).allowed
    two.reset(policy, "user:1")
    assert one.check(policy, "user:1").allowed
    two.reset(policy, prefix="user:")
    assert one.check(policy, "user:2", cost=2).allowed
    assert not one.check(policy, "org:1").allowed


def test_sync_async_and_threads_share_one_limit(url: str) -> None:
    limiter, policy = Limiter(url), Policy("login", "1000/d; 3000/7d")

    async def spend() -> int:
        decisions = [await limiter.acheck(policy, "k") for _ in range(400)]
        return sum(decision.allowed for decision in decisions)

    def spend_here() -> int:
        return sum(limiter.check(policy, "k").allowed for _ in range(400))

    passed = asyncio.run(spend())
    with ThreadPoolExecutor(4) as pool:
        passed += sum(pool.map(lambda _: spend_here(), range(4)))
    assert passed == 1_000


def test_what_is_reserved_is_settled(url: str) -> None:
    limiter, policy = Limiter(url), Policy("tokens", "1000/d")
    with limiter.reserve(policy, "k", 500) as reservation:
        reservation.commit(137)
    assert Limiter(url).peek(policy, "k", cost=0).remaining == 863


@pytest.mark.parametrize(
    "policy",
    [
        Policy("log", "5/m", algorithm="sliding_log"),
        Policy("held", "5/m", algorithm="concurrency"),
        Policy("odd", "1000003/s"),
    ],
    ids=lambda policy: policy.name,
)
def test_what_cannot_be_kept_is_refused_by_name(url: str, policy: Policy) -> None:
    with pytest.raises(ConfigError, match=f'policy "{policy.name}" .* does not fit'):
        Limiter(url).check(policy, "k")
    with pytest.raises(ConfigError, match=f'policy "{policy.name}" .* does not fit'):
        Limiter(url, policy)


def test_a_calendar_quota_is_kept(url: str) -> None:
    one, two, policy = Limiter(url), Limiter(url), Policy("month", "3/month Europe/Berlin")
    assert [store.check(policy, "k").remaining for store in (one, two, one)] == [2, 1, 0]
    assert not two.check(policy, "k").allowed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("/path", "letters, digits"),
        ("?size=5", "use max_keys and tables"),
        ("?max_keys=0", "a number from 1"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str, options: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Limiter(url + options)


def test_a_segment_that_does_not_suit_is_refused(url: str) -> None:
    Limiter(url + "?max_keys=800")
    with pytest.raises(ConfigError, match=r"max_keys=800 .* asks for max_keys=1600"):
        Limiter(url + "?max_keys=1600")
    file_of(url).chmod(0o644)
    with pytest.raises(ConfigError, match="may be opened by others"):
        Limiter(url + "?max_keys=800")


def test_a_clock_of_ones_own_is_for_one_process(url: str) -> None:
    with pytest.raises(ConfigError, match="memory:// only"):
        Limiter(url, clock=ManualClock())


def test_it_needs_no_breaker(url: str) -> None:
    limiter = Limiter(url, breaker=Breaker(failures=1))
    assert [backend.breaker for backend in limiter.health().backends] == [None]
