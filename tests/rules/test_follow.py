"""Rules and lists that follow a source: files, functions, faults, forks."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait
from tollway import ConfigError
from tollway.rules import (
    AccessList,
    FileSource,
    FunctionSource,
    Rules,
    Subject,
    TierCache,
    follow,
    stated_lists,
    stated_rules,
)


def write(path: Path, data: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(data if isinstance(data, str) else json.dumps(data))
    os.replace(new, path)


def test_a_file_is_in_force_within_a_second_of_its_change(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    write(path, {"deny": ["user:1"]})
    rules = Rules()
    following = follow(rules, FileSource(path))
    assert rules.explain([], Subject(user=1)) == "deny user:1"
    write(path, {"deny": ["user:2"]})
    assert (
        wait("the change is in force", lambda: rules.explain([], Subject(user=2)) == "deny user:2")
        < 1.0
    )
    following.stop()
    write(path, {"deny": ["user:3"]})
    version = following.version
    following.refresh()
    assert following.version == version


def test_toml_and_lists(tmp_path: Path) -> None:
    toml = tmp_path / "rules.toml"
    toml.write_text(
        'deny = ["user:1"]\n[limits.search]\nrate = "5/m"\nby = "user"\npaths = ["/s"]\n'
    )
    assert stated_rules(toml).explain([], Subject(user=2, path="/s"))[0]["rates"] == ["5/m"]  # type: ignore[index]
    path = tmp_path / "feed.txt"
    write(path, "; a feed\n198.51.100.0/24 ; SBL1\n")
    entries = AccessList()
    following = follow(entries, FileSource(path), every=0.02)
    assert entries.entries() == ["deny 198.51.100.0/24"]
    write(path, "203.0.113.0/24\n")
    wait("the list is read again", lambda: entries.entries() == ["deny 203.0.113.0/24"])
    following.stop()


def test_a_fault_leaves_what_was_there_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rules.json"
    write(path, {"deny": ["user:1"]})
    rules = Rules()
    following = follow(rules, FileSource(path), every=0.02)
    with caplog.at_level(logging.ERROR, "tollway.rules"):
        write(path, {"limits": {"search": "5/fortnight"}})
        wait("the mistake is noticed", lambda: following.error is not None)
        path.unlink()
        wait("the missing file is noticed", lambda: isinstance(following.error, FileNotFoundError))
        turns = rules.version
        time.sleep(0.2)
    assert rules.explain([], Subject(user=1)) == "deny user:1" and rules.version == turns == 2
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2 and "limits.search" in said[0] and "FileNotFoundError" in said[1]
    write(path, {"deny": ["user:4"]})
    wait("the file is good again", lambda: following.error is None)
    assert rules.explain([], Subject(user=4)) == "deny user:4"
    following.stop()


def test_a_fault_at_the_start_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    with pytest.raises(FileNotFoundError):
        follow(Rules(), FileSource(path))
    path.write_text('{"limit": {}}')
    with pytest.raises(ConfigError, match='did you mean "limits"'):
        follow(Rules(), FileSource(path))
    with pytest.raises(ConfigError, match=r"from 0\.02 to 3600"):
        follow(Rules(), FileSource(path), every=0)
    with pytest.raises(ConfigError, match=r"missing\.json"):
        stated_rules("missing.json")
    with pytest.raises(ConfigError, match=r"no_such_module\.rules"):
        stated_rules("no_such_module.rules")
    with pytest.raises(ConfigError, match="is no rules"):
        stated_rules(7)
    with pytest.raises(ConfigError, match="neither a file nor an AccessList"):
        stated_lists([7])
    with pytest.raises(ConfigError, match="cannot be read"):
        stated_lists(["/no/such/list.txt"])
    with pytest.raises(ConfigError, match="lists of its own"):
        stated_rules(Rules(), stated_lists([AccessList()]))


class Known:
    """A source that a setting names by its class."""

    def load(self, known: Any) -> tuple[Any, Any] | None:
        return None if known else (1, {"allow": ["user:1"]})


def test_settings_state_rules_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text("user:2\n")
    rules = stated_rules(f"{__name__}.Known", stated_lists([str(path), AccessList("user:3")]))
    told = [rules.explain([], Subject(user=user)) for user in (1, 2, 3)]
    assert told == ["allow user:1", "deny user:2", "deny user:3"]
    assert stated_rules({"deny": ["user:1"]}).explain([], Subject(user=1)) == "deny user:1"
    assert stated_rules(rules) is rules


def test_a_notification_need_not_wait_for_the_next_turn() -> None:
    table: dict[str, Any] = {"version": 1, "rules": {}}
    rules = Rules()
    source = FunctionSource(load=lambda: table["rules"], version=lambda: table["version"])
    following = follow(rules, source, every=3600)
    table.update(version=2, rules={"deny": ["user:1"]})
    following.refresh()
    wait("the table is read again", lambda: rules.version == 3)
    assert rules.explain([], Subject(user=1)) == "deny user:1"
    following.stop()


def test_rules_that_nobody_holds_are_followed_no_longer() -> None:
    asked = []
    source = FunctionSource(load=dict, version=lambda: asked.append(1))
    rules = Rules()
    following = follow(rules, source, every=0.02)
    wait("it was asked three times", lambda: len(asked) > 2)
    del rules
    gc.collect()
    wait("nobody follows any more", lambda: following._turn() is False)
    before = len(asked)
    time.sleep(0.1)
    assert len(asked) == before


ONE_THREAD = """
import threading, time
from tollway.rules import FunctionSource, Rules, follow

def threads():
    return sum(thread.name == "tollway-rules" for thread in threading.enumerate())

kept = [Rules() for _ in range(5)]
source = FunctionSource(load=dict, version=lambda: 1)
followed = [follow(rules, source, every=0.02) for rules in kept]
assert threads() == 1
for following in followed:
    following.stop()
end = time.monotonic() + 30
while threads():
    assert time.monotonic() < end, "the thread goes on"
    time.sleep(0.005)
again = follow(kept[0], source, every=0.02)
assert threads() == 1
again.stop()
"""


def test_one_thread_serves_all_and_ends_with_the_last() -> None:
    # In a process of its own: rules that another test left behind are followed too.
    told = subprocess.run([sys.executable, "-c", ONE_THREAD], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_a_forked_child_follows_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    write(path, {})
    rules = Rules()
    following = follow(rules, FileSource(path), every=0.02)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(tell, b"ready")
            wait(
                "the child has the rule",
                lambda: rules.explain([], Subject(user=1)) == "deny user:1",
            )
            code = 0
        finally:
            os._exit(code)
    assert os.read(told, 5) == b"ready"
    write(path, {"deny": ["user:1"]})
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wait("the parent has it too", lambda: rules.explain([], Subject(user=1)) == "deny user:1")
    following.stop()
    os.close(told)
    os.close(tell)


def test_requests_see_the_old_rules_or_the_new_ones() -> None:
    """Two facts that always change together are never seen apart."""
    rules = Rules({"deny": ["user:1"], "overrides": []})
    done = threading.Event()

    def change() -> None:
        for turn in range(300):
            one, other = (1, 2) if turn % 2 else (2, 1)
            rules.replace({"deny": [f"user:{one}"], "allow": [f"user:{other}"]})
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    seen = set()
    while not done.is_set():
        before = rules.version
        pair = tuple(str(rules.explain([], Subject(user=user))) for user in (1, 2))
        if rules.version == before:
            seen.add(pair)
    thread.join()
    assert seen <= {
        ("deny user:1", "allow user:2"),
        ("allow user:1", "deny user:2"),
        ("deny user:1", "[]"),
    }


def test_tiers_are_asked_once_in_a_while_and_are_bounded() -> None:
    now, asked = [0.0], []

    def find(user: int) -> str | None:
        asked.append(user)
        return None if user == 0 else f"tier-{user}"

    tiers = TierCache(find, ttl=60, max_keys=3, clock=lambda: now[0])
    assert [tiers.get(user) for user in (0, 1, 0, 1)] == [None, "tier-1", None, "tier-1"]
    assert asked == [0, 1]
    now[0] = 60.0
    assert tiers.get(1) == "tier-1" and asked == [0, 1, 1]
    for user in range(2, 9):
        tiers.get(user)
    assert len(tiers) == 3
    tiers.forget(8)
    assert tiers.get(8) == "tier-8" and asked.count(8) == 2
    tiers.clear()
    assert len(tiers) == 0


@pytest.mark.parametrize("forget", [lambda tiers: tiers.forget(7), TierCache.clear])
def test_a_tier_that_changes_while_it_is_looked_up_is_not_remembered(forget: Any) -> None:
    rows = {7: "free"}

    def find(user: int) -> str:
        before = rows[user]
        if before == "free":
            rows[user] = "pro"
            forget(tiers)
        return before

    tiers: TierCache = TierCache(find)
    assert [tiers.get(7), tiers.get(7)] == ["free", "pro"]


async def test_tiers_that_are_awaited() -> None:
    async def find(user: int) -> str:
        return "pro"

    tiers = TierCache(find)
    assert await tiers.aget(1) == "pro" and tiers.get(1) == "pro"
    with pytest.raises(ConfigError, match="aget"):
        tiers.get(2)
