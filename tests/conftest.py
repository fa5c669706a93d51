"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import mariadb_server, postgres_server
from tests.servers import redis_server


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
