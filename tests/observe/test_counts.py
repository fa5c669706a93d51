"""What is counted of every limiter of a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import httpx
import pytest
from fastapi import Depends, FastAPI

from tollway import Limiter, Policy, StoreUnavailable, observe
from tollway.fastapi import limit
from tollway.rules import Rules, Subject


def counted(name: str) -> dict[str, int]:
    """The outcomes of a policy that happened."""
    return {outcome: count for outcome, count in observe.checks()[name].items() if count}


async def test_every_way_to_ask_is_counted_and_peeks_are_not(name: str) -> None:
    limiter, policy = Limiter(), Policy(name, "7/h")
    limiter.check(policy, "k")
    await limiter.acheck(policy, "k")
    limiter.check_all([(policy, "k"), (Policy(f"{name}-wide", "100/h"), "k")])
    limiter.check_many([(policy, "k"), (policy, "k")])
    with limiter.reserve(policy, "k", 1) as reserved:
        reserved.commit(1)
    limiter.acquire(policy, "k", timeout=0)
    limiter.peek(policy, "k")
    assert counted(name) == {"allowed": 7}
    await limiter.acheck(policy, "k")
    assert counted(name) == {"allowed": 7, "refused": 1}
    assert counted(f"{name}-wide") == {"allowed": 1}


async def test_a_limit_that_is_skipped_is_no_check(name: str) -> None:
    skipped = limit(Policy(name, "7/h"), Limiter(), skip_if=lambda request: True)
    app = FastAPI()

    @app.get("/", dependencies=[Depends(skipped)])
    async def home() -> str:
        return "home"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.get("/")).status_code == 200
    assert [policy for policy in observe.checks() if policy.startswith(name)] == []


def test_what_the_fail_mode_decides_is_told_apart(name: str, dead_store: str) -> None:
    policies = {mode: Policy(f"{name}-{mode}", "2/h", fail_mode=mode) for mode in ("open", "local")}
    with Limiter(dead_store, fail_mode="closed") as limiter:
        for policy in policies.values():
            for _ in range(3):
                limiter.check(policy, "k")
        with pytest.raises(StoreUnavailable):
            limiter.check(Policy(name, "2/h"), "k")
        store = next(found for found in observe.stores() if found["store"] == limiter.url)
    assert counted(f"{name}-open") == {"degraded_allowed": 3}
    assert counted(f"{name}-local") == {"degraded_allowed": 2, "degraded_refused": 1}
    assert counted(name) == {"failed": 1}
    assert store["breaker"] in ("open", "half_open")
    assert store["errors"]["unavailable"] + store["errors"]["timeout"] == store["calls"] >= 1
    assert store["calls"] + store["skipped"] == 7
    assert store["seconds"] > 0


def test_what_rules_decide_is_told_apart(name: str) -> None:
    rules = Rules({"deny": ["203.0.113.7"], "limits": {name: {"shadow": True}}})
    limiter, policy = Limiter(), Policy(name, "1/h")
    for address in ("203.0.113.7", "203.0.113.8", "203.0.113.8"):
        subject = Subject(address=address)
        decision = rules.check(limiter, [(policy, address)], subject)
        assert decision.allowed == (address != "203.0.113.7")
    assert decision.shadow is not None
    assert decision.shadow.outcome == "shadow_refused"
    assert counted(name) == {"denied": 1}
    assert counted(f"{name}~shadow") == {"shadow_allowed": 1, "shadow_refused": 1}


def run(code: str) -> str:
    """Run code in a process whose counts are its own."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def test_nothing_is_counted_until_somebody_wants_to_know() -> None:
    code = """
        from tollway import Limiter, Policy, observe
        limiter, policy = Limiter(), Policy("p", "9/h")
        limiter.check(policy, "k")
        before = observe.checks()
        observe.start()
        limiter.check(policy, "k")
        print(before, observe.checks()["p"]["allowed"])
    """
    assert run(code) == "{} 1"


def test_names_of_policies_are_bounded() -> None:
    code = """
        from tollway import Limiter, Policy, observe
        observe.start()
        limiter = Limiter()
        for number in range(300):
            limiter.check(Policy(f"p{number}", "9/h"), "k")
        found = observe.checks()
        print(len(found), found["other"]["allowed"], sum(c["allowed"] for c in found.values()))
    """
    assert run(code) == "257 44 300"


def test_a_forked_child_counts_for_itself() -> None:
    code = """
        import os
        from tollway import Limiter, Policy, observe
        observe.start()
        limiter, policy = Limiter(), Policy("p", "9/h")
        for _ in range(3):
            limiter.check(policy, "k")
        if os.fork() == 0:
            assert observe.checks()["p"]["allowed"] == 0
            limiter.check(policy, "k")
            assert observe.checks()["p"]["allowed"] == 1
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.wait()[1]), observe.checks()["p"]["allowed"])
    """
    assert run(code) == "7 3"
