"""What the tests of observers share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.asgi.serving import dead_port
from tollway import observe

_numbers = count()


@pytest.fixture
def name() -> str:
    """A name of a policy that no other test counts."""
    return f"observed-{next(_numbers)}"


@pytest.fixture(autouse=True)
def counting() -> None:
    """Numbers are the process': counting goes on from test to test."""
    observe.start()


@pytest.fixture
def dead_store() -> Iterator[str]:
    """The URL of a Redis that is not there."""
    with dead_port() as port:
        yield f"redis://127.0.0.1:{port}/0"
