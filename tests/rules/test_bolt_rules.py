"""Rules at Bolt's gate, before any Python code of the project runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import httpx

from tests.bolt.project import Project
from tollway import hash_identity

API = """
from tollway.bolt import BoltAPI, Request, rate_limit

api = BoltAPI()


@api.get("/limited")
@rate_limit("3/h", key="header:X-Api-Key", name="keyed")
async def limited(request: Request):
    return {"limit": request.rate_limit.limit}


@api.get("/free")
async def free():
    return {"ok": True}
"""


def test_rules_from_a_file_hold_in_every_process_within_a_second(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    partner = hash_identity("partner-key")

    def write(data: dict[str, object]) -> None:
        new = tmp_path / "rules.new"
        new.write_text(json.dumps(data))
        os.replace(new, rules)

    override = {"who": f"key:{partner}", "limit": "keyed", "rate": "5/h"}
    write({"overrides": [override], "skip": ["HEAD /"]})
    project = Project(tmp_path / "project")
    project.write("shop/api.py", API)
    project.settings(f'RATELIMIT_RULES = "{rules}"\nRATELIMIT_TRUSTED_PROXIES = ["127.0.0.1"]\n')
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        key = {"X-Api-Key": "partner-key"}
        assert client.get("/limited", headers=key).json() == {"limit": 5}
        assert [client.get("/limited", headers=key).status_code for _ in range(5)] == (
            [200] * 4 + [429]
        )
        plain = {"X-Api-Key": "another"}
        assert [client.get("/limited", headers=plain).status_code for _ in range(4)] == (
            [200] * 3 + [429]
        )
        assert [client.get("/free").status_code for _ in range(5)] == [200] * 5

        write(
            {
                "deny": ["203.0.113.0/24"],
                "allow": ["198.51.100.7"],
                "limits": {"free": {"paths": ["/free"], "by": "ip", "rate": "2/h"}},
            }
        )
        spoken = {"X-Forwarded-For": "203.0.113.9"}
        start = time.monotonic()
        while client.get("/free", headers=spoken).status_code != 403:
            assert time.monotonic() - start < 1.0, "the change was not in force within a second"
            time.sleep(0.02)
        assert [client.get("/free").status_code for _ in range(3)] == [200, 200, 429]
        answer = client.get("/free", headers={"X-Forwarded-For": "198.51.100.7"})
        assert answer.status_code == 200 and "ratelimit" not in answer.headers


def test_rules_that_do_not_read_stop_the_start(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("shop/api.py", API)
    project.settings('RATELIMIT_RULES = {"deny": ["nobody"]}\n')
    done = project.manage("runbolt", "--port", "0")
    assert done.returncode != 0
    assert 'RATELIMIT_RULES: deny[0]: "nobody" names nobody' in done.stdout + done.stderr
