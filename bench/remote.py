"""Checks against a real Redis on loopback: Tollway, its Python peers and the bare clients."""

import asyncio
import itertools
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import limits
import limits.aio
import limits.aio.storage
import limits.aio.strategies
import redis
import throttled
import throttled.asyncio

from bench import crate
from bench.http_load import HOST
from bench.progress import Progress
from bench.redis_server import redis_server, spoken
from bench.results import Measuring, Section, Target
from tollway import Limiter, Policy

SECONDS = 1.0
THREADS = 16
TASKS = 64
CALLERS = 512
PER_HOUR = 1_000_000_000
KEYS = [f"198.51.100.{number}" for number in range(1_000)]
# Keys of the load that is not bound by Python.
MANY_KEYS = 100_000

Check = Callable[[str], object]
AsyncCheck = Callable[[str], Awaitable[object]]


def alone(check: Check) -> float:
    """Microseconds a check of one caller."""
    done, end = 0, time.perf_counter() + SECONDS
    began = time.perf_counter()
    for key in itertools.cycle(KEYS):
        check(key)
        done += 1
        if done % 16 == 0 and time.perf_counter() > end:
            break
    return (time.perf_counter() - began) * 1e6 / done


def asked(callers: int, check: Check, leave: Callable[[], object] = lambda: None) -> float:
    """Microseconds between two answers to anybody, with so many threads asking."""
    counts = [0] * callers
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask(number: int) -> None:
        keys = itertools.cycle(KEYS[number * 61 % len(KEYS) :] + KEYS)
        try:
            while not stop.is_set():
                check(next(keys))
                counts[number] += 1
        except Exception as error:
            failures.append(error)
        finally:
            leave()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"a check failed under {callers} threads: {failures[0]!r}")
    return (time.perf_counter() - began) * 1e6 / sum(counts)


async def gathered(check: AsyncCheck) -> float:
    """Microseconds between two answers to anybody, with 64 tasks of one loop asking."""
    counts = [0] * TASKS
    end = time.perf_counter() + SECONDS

    async def ask(number: int) -> None:
        for key in itertools.cycle(KEYS[number * 15 % len(KEYS) :] + KEYS):
            await check(key)
            counts[number] += 1
            if time.perf_counter() > end:
                return

    began = time.perf_counter()
    await asyncio.gather(*map(ask, range(TASKS)))
    return (time.perf_counter() - began) * 1e6 / sum(counts)


def limiter_on(url: str, near_cache: float = 1.0) -> Limiter:
    """A limiter that waits as long as its peers do, and says so when Redis does not answer."""
    return Limiter(url, fail_mode="closed", command_timeout=5.0, near_cache=near_cache)


def policy(name: str = "bench", rate: str = f"{PER_HOUR}/h", algorithm: str = "gcra") -> Policy:
    return Policy(name, rate, algorithm=algorithm)


def script(url: str, port: int) -> tuple[redis.Redis, list[bytes]]:
    """A redis-py client, and the words of the script call a check makes."""
    with limiter_on(url) as limiter:
        limiter.check(policy(), KEYS[0])  # loads the script
        return redis.Redis(port=port), spoken(port, lambda: limiter.check(policy(), KEYS[0]))


def sync_contenders(url: str, port: int) -> dict[str, Check]:
    """Everybody's blocking check, ours first."""
    limiter, ours = limiter_on(url), policy()
    client, words = script(url, port)
    send: Callable[..., object] = client.execute_command
    at = next(place for place, word in enumerate(words) if KEYS[0].encode() in word)

    def bare(key: str) -> object:
        said: list[bytes | str] = [*words]
        said[at] = words[at].replace(KEYS[0].encode(), key.encode())
        return send("EVALSHA", *said)

    storage = limits.storage.RedisStorage(url)
    item = limits.RateLimitItemPerHour(PER_HOUR)
    fixed = limits.strategies.FixedWindowRateLimiter(storage)
    sliding = limits.strategies.SlidingWindowCounterRateLimiter(storage)
    store = throttled.RedisStore(server=url)
    quota = throttled.rate_limiter.per_hour(PER_HOUR)
    gcra = throttled.Throttled(using="gcra", quota=quota, store=store)
    window = throttled.Throttled(using="fixed_window", quota=quota, store=store)
    return {
        "tollway": lambda key: limiter.check(ours, key),
        "the same script, redis-py": bare,
        "limits, fixed window": lambda key: fixed.hit(item, key),
        "limits, sliding counter": lambda key: sliding.hit(item, key),
        "throttled-py, GCRA": lambda key: gcra.limit(key),
        "throttled-py, fixed window": lambda key: window.limit(key),
    }


async def async_contenders(url: str) -> dict[str, AsyncCheck]:
    """Everybody's awaited check, ours first. Made inside the loop that uses them."""
    limiter, ours = limiter_on(url), policy()
    storage = limits.aio.storage.RedisStorage(f"async+{url}", implementation="redispy")
    item = limits.RateLimitItemPerHour(PER_HOUR)
    fixed = limits.aio.strategies.FixedWindowRateLimiter(storage)
    sliding = limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)
    store = throttled.asyncio.RedisStore(server=url)
    quota = throttled.asyncio.rate_limiter.per_hour(PER_HOUR)
    gcra = throttled.asyncio.Throttled(using="gcra", quota=quota, store=store)
    window = throttled.asyncio.Throttled(using="fixed_window", quota=quota, store=store)
    return {
        "tollway": lambda key: limiter.acheck(ours, key),
        "limits.aio, fixed window": lambda key: fixed.hit(item, key),
        "limits.aio, sliding counter": lambda key: sliding.hit(item, key),
        "throttled-py, GCRA": lambda key: gcra.limit(key),
        "throttled-py, fixed window": lambda key: window.limit(key),
    }


def three_limits(url: str) -> dict[str, Check]:
    """Three limits of one request: together, and one after the other."""
    limiter = limiter_on(url)
    rates = ["100000/s", "1000000/m", "10000000/h"]
    together = policy("together", "; ".join(rates))
    each = [policy(f"limit-{number}", rate) for number, rate in enumerate(rates)]

    def apart(key: str) -> object:
        return [limiter.check(one, key) for one in each]

    return {"tollway": lambda key: limiter.check(together, key), "three checks": apart}


def under_attack(url: str) -> dict[str, Check]:
    """One refused key that comes again and again."""
    near, far = limiter_on(url), Limiter(url, command_timeout=5.0, near_cache=0.0)
    strict = policy("strict", "1/h")
    near.check(strict, "attacker")
    return {
        "tollway": lambda _: near.check(strict, "attacker"),
        "tollway, near cache off": lambda _: far.check(strict, "attacker"),
    }


def hot_key(url: str) -> dict[str, Check]:
    """One key that is asked for all the time, with permits taken in advance and without."""
    leased = Limiter(url, fail_mode="closed", command_timeout=5.0, lease=100)
    plain, hot = limiter_on(url), policy("hot", "1000000000/h")
    return {
        "tollway, lease=100": lambda _: leased.check(hot, "org-7"),
        "tollway, no lease": lambda _: plain.check(hot, "org-7"),
    }


def many_callers(url: str, port: int) -> dict[str, Callable[[], float]]:
    """Microseconds a check of 512 Rust tasks, and of redis-benchmark sending the same call."""
    _, words = script(url, port)
    said = [word.replace(KEYS[0].encode(), b"__rand_int__") for word in words]

    def ours() -> float:
        program = crate.program("redis_load")
        command: list[str | Path] = [program, url, str(CALLERS), str(SECONDS), str(MANY_KEYS)]
        return 1e6 / float(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )

    def theirs() -> float:
        command: list[str | bytes] = [
            "redis-benchmark",
            "-p",
            str(port),
            "-P",
            "16",
            "-n",
            "100000",
        ]
        command += ["-r", str(MANY_KEYS), "--csv", "EVALSHA", *said]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r'^".*?","([\d.]+)"', told.splitlines()[-1])
        assert found is not None, told
        return 1e6 / float(found[1])

    return {"tollway": ours, "redis-benchmark -P 16": theirs}


def by(
    measure: Callable[[Check], float], contenders: Mapping[str, Check]
) -> dict[str, Callable[[], float]]:
    """How long each contender's check takes, by one way of measuring."""
    return {name: partial(measure, check) for name, check in contenders.items()}


def awaited(runner: asyncio.Runner, check: AsyncCheck) -> float:
    return runner.run(gathered(check))


def measure(rounds: int, progress: Progress) -> Section:
    measuring = Measuring(Section("A check over Redis, on loopback", "us"), rounds, progress)
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as port:
        url = f"redis://{HOST}:{port}"
        bare, peers = "the same script, redis-py", ("limits", "throttled")
        sync = sync_contenders(url, port)
        measuring.case("Python, 1 thread", by(alone, sync), Target(1.5, (bare,)))
        sync.pop(bare)
        measuring.case(
            f"Python, {THREADS} threads", by(partial(asked, THREADS), sync), Target(6, peers)
        )
        with asyncio.Runner() as runner:
            made = runner.run(async_contenders(url))
            tasks = {name: partial(awaited, runner, check) for name, check in made.items()}
            measuring.case(f"asyncio, {TASKS} tasks", tasks, Target(4, peers))
        callers = many_callers(url, port)
        measuring.case(f"Rust, {CALLERS} tasks", callers, Target(1.5, ("redis-benchmark",)))
        together = by(alone, three_limits(url))
        measuring.case("three limits of a request", together, Target(1.5, ("three checks",)))
        attacked = by(alone, under_attack(url))
        target = Target(50, ("tollway, near cache off",))
        measuring.case("a refused key, again and again", attacked, target)
        hot = by(alone, hot_key(url))
        measuring.case("a hot key, again and again", hot, Target(10, ("tollway, no lease",)))
    for row in measuring.section.rows:
        row.extra["checks/s"] = [1e6 / value for value in row.rounds]
    measuring.section.notes.append(
        f"{len(KEYS):,} keys, {MANY_KEYS:,} from Rust; redis-server {version()}, redis-py "
        f"{redis.__version__}, limits {limits.__version__}, throttled-py {throttled.__version__}. "
        "Microseconds from one answer to the next, whoever gets it."
    )
    return measuring.section


def version() -> str:
    told = subprocess.run(
        ["redis-server", "--version"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"v=([\d.]+)", told)
    return found[1] if found else "?"
