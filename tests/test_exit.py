"""The interpreter ends while threads of the engine still have something to tell it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

SCRIPT = """
import asyncio, sys
from tollway import Limiter, Policy

async def main():
    limiter = Limiter(sys.argv[1], command_timeout=30.0, connect_timeout=30.0)
    policy = Policy("exit", "1000000/s")
    tasks = [asyncio.ensure_future(limiter.acheck(policy, str(n))) for n in range(64)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()

asyncio.run(main())
"""


def test_an_interpreter_that_ends_is_not_entered(redis_url: str) -> None:
    def run(_: int) -> tuple[int, str]:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, redis_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    # More of them than cores, so that threads are stopped at odd moments.
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(run, range(40)))
    assert [one for one in ended if one != (0, "")] == []
