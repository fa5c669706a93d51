"""Counts by UDP, to a socket that reads them as an agent does."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tollway import ConfigError, Limiter, Policy
from tollway.observe import statsd
from tollway.observe.beat import Beat


class Agent:
    """Where StatsD listens."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self.port: int = listening.getsockname()[1]

    def packets(self) -> list[str]:
        """What has arrived."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(65_536, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return found

    def lines(self, wanted: str) -> list[str]:
        """The lines with a word in them."""
        return [line for line in "\n".join(self.packets()).split("\n") if wanted in line]


@pytest.fixture
def agent() -> Iterator[Agent]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        yield Agent(listening)


@contextmanager
def telling(agent: Agent, **options: bool | str) -> Iterator[Beat]:
    """Counts that are sent when a test says so."""
    beat = statsd.start("127.0.0.1", agent.port, every=3_600, **options)  # type: ignore[arg-type]
    try:
        yield beat
    finally:
        beat.stop()


@contextmanager
def no_more_files() -> Iterator[None]:
    """A process that has as many files and sockets open as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_came_in_since_is_sent_and_the_rest_at_the_end(agent: Agent, name: str) -> None:
    limiter, policy = Limiter(), Policy(f"{name}/GET/a.b", "3/h")
    limiter.check(policy, "k")
    clean = f"{name}_GET_a_b"
    with telling(agent) as beat:
        for _ in range(9):
            limiter.check(policy, "k")
        beat.now()
        told = {f"tollway.checks.{clean}.allowed:2|c", f"tollway.checks.{clean}.refused:7|c"}
        assert set(agent.lines(clean)) == told
        beat.now()
        assert agent.lines(clean) == []
        limiter.check(policy, "k")
    assert agent.lines(clean) == [f"tollway.checks.{clean}.refused:1|c"]


def test_tags_keep_names_as_they_are(agent: Agent, name: str) -> None:
    limiter, policy = Limiter(), Policy(f"{name}/GET/a.b", "3/h")
    with telling(agent, tags=True, prefix="shop.limits") as beat:
        limiter.check(policy, "k")
        beat.now()
        assert agent.lines(name) == [
            f"shop.limits.checks:1|c|#policy:{name}/GET/a.b,outcome:allowed"
        ]


def test_a_backend_that_is_away_is_told(agent: Agent, name: str, dead_store: str) -> None:
    store = re.sub("[^a-z0-9]", "_", dead_store)
    with telling(agent) as beat, Limiter(dead_store, fail_mode="open") as limiter:
        for _ in range(20):
            limiter.check(Policy(name, "9/h"), "k")
        beat.now()
        packets = agent.packets()
        told = dict(line.split(":") for line in "\n".join(packets).split("\n"))
        assert told[f"tollway.checks.{name}.degraded_allowed"] == "20|c"
        assert told[f"tollway.breaker.state.{store}"] == "2|g"
        assert told[f"tollway.store.waiting.{store}"] == "0|g"
        counts = {
            kind: int(told.get(f"tollway.store.{kind}.{store}", "0|c").removesuffix("|c"))
            for kind in ("calls", "skipped", "errors")
        }
        assert counts["calls"] >= 1 and counts["calls"] + counts["skipped"] == 20
        assert any(line.startswith(f"tollway.store.errors.{store}.") for line in told)


def test_packets_fit_into_a_frame(agent: Agent, name: str) -> None:
    limiter = Limiter()
    with telling(agent) as beat:
        for number in range(40):
            limiter.check(Policy(f"{name}-{number}-{'x' * 60}", "3/h"), "k")
        beat.now()
        packets = agent.packets()
    assert len(packets) > 1 and max(map(len, packets)) <= 1432
    assert all(line.endswith(("|c", "|g")) for packet in packets for line in packet.split("\n"))


def test_names_that_are_one_in_statsd_are_added_up(agent: Agent, name: str) -> None:
    limiter = Limiter()
    with telling(agent) as beat:
        for policy, checks in ((f"{name}/a_b", 2), (f"{name}/a/b", 3)):
            for _ in range(checks):
                limiter.check(Policy(policy, "9/h"), "k")
        beat.now()
    assert agent.lines(name) == [f"tollway.checks.{name}_a_b.allowed:5|c"]


def test_what_could_not_be_sent_is_sent_the_next_time(
    agent: Agent, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with telling(agent) as beat:
        Limiter().check(Policy(name, "9/h"), "k")
        with no_more_files():
            beat.now()
        assert agent.lines(name) == []
        assert ["could not be told" in record.getMessage() for record in caplog.records] == [True]
        Limiter().check(Policy(name, "9/h"), "k")
        beat.now()
        assert agent.lines(name) == [f"tollway.checks.{name}.allowed:2|c"]


def test_a_forked_child_tells_of_its_own(agent: Agent, name: str) -> None:
    code = f"""
        import os
        from tollway import Limiter, Policy
        from tollway.observe import statsd
        beat = statsd.start("127.0.0.1", {agent.port}, every=3600)
        limiter, policy = Limiter(), Policy("{name}", "9/h")
        limiter.check(policy, "k")
        beat.now()
        if os.fork() == 0:
            for _ in range(3):
                limiter.check(policy, "k")
            beat.stop()
            os._exit(0)
        os.wait()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    told = [f"tollway.checks.{name}.allowed:{count}|c" for count in (1, 3)]
    assert agent.lines(name) == told


def test_an_agent_that_is_not_there_is_no_matter(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    beat = statsd.start("127.0.0.1", port, every=3_600)
    Limiter().check(Policy(name, "3/h"), "k")
    beat.now()
    beat.now()
    beat.stop()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 0}, "port is between 1 and 65535, not 0"),
        ({"prefix": "a b"}, "prefix is made of letters, digits, .* not 'a b'"),
        ({"prefix": "a:b"}, "not 'a:b'"),
        ({"prefix": ""}, "not ''"),
        ({"prefix": "a..b"}, "not 'a..b'"),
        ({"every": 0}, "every is a number of seconds above 0"),
    ],
)
def test_what_cannot_be_sent_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        statsd.start(**options)  # type: ignore[arg-type]
