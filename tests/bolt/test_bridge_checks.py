"""Handlers use asyncio, anyio and asgiref as they would anywhere else: checked one by one on a
real server, under both event loops."""

from __future__ import annotations

import http.client
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).with_name("bridge_app.py")

CHECKS = [
    "running_loop",
    "current_task_identity",
    "sleep",
    "timeout",
    "wait_for",
    "task_group",
    "failing_task_group",
    "gather",
    "to_thread_carries_context",
    "sync_to_async_carries_context_back",
    "orm_through_sync_to_async",
    "orm_inline",
    "async_to_sync_inline",
    "context_is_not_inherited",
    "context_is_not_shared_with_children",
    "create_task",
    "lock",
    "streams",
    "subprocess",
    "anyio_task_group",
    "anyio_cancel_scope",
    "anyio_to_thread",
    "call_later_without_suspending",
    "call_later_was_called",
    "weak_reference_to_the_task",
    "exception_of_a_future",
    "self_cancel",
    "task_is_a_future_in_all_but_class",
    "task_can_be_awaited_by_others",
    "task_was_awaited",
    "bad_yields_are_told_to_the_handler",
    "cancelling_a_waiting_parent_cancels_the_child",
]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    command = [
        sys.executable,
        "-X",
        "dev" if request.param == "asyncio" else "utf8",
        str(APP),
        request.param,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip().isdigit(), "the server did not start: its message is above"
        yield int(line)
        rest, _ = process.communicate(timeout=20)
        assert rest == "closed\n"
        assert process.returncode == 0


@pytest.mark.parametrize("name", CHECKS)
def test_check(port: int, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", f"/{name}")
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    assert (response.status, body) == (200, "ok"), body


def test_every_check_is_asked_for() -> None:
    text = APP.read_text()
    defined = {
        line.split("def ")[1].split("(")[0] for line in checked_definitions(text.splitlines())
    }
    assert defined == set(CHECKS)


def checked_definitions(lines: list[str]) -> Iterator[str]:
    for decorator, definition in itertools.pairwise(lines):
        if decorator in ("@check", "@inline"):
            yield definition
