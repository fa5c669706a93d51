"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import mariadb_server, postgres_server
from tests.servers import redis_server
from tollway import Limiter
from tollway.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Time as a value."""
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> Limiter:
    """A limiter that lives on that clock."""
    return Limiter("memory://", clock=clock)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real `redis-server` that lives as long as the test run."""
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a real PostgreSQL server that lives as long as the test run."""
    with postgres_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The URL of a real MariaDB server that lives as long as the test run."""
    with mariadb_server() as server:
        yield server.url
