"""Health checks, and what a browser sees of an error under DEBUG."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bolt.project import Project
from tests.waiting import wait
from tollway.bolt import BoltAPI
from tollway.bolt.health import add_health_check, register_health_checks
from tollway.bolt.testing import TestClient
from tollway.errors import ConfigError


def test_alive_and_ready() -> None:
    api = BoltAPI()
    register_health_checks(api)
    well = True

    async def queue() -> None:
        await asyncio.sleep(0)

    def disk() -> bool:
        return well

    add_health_check(api, "queue", queue)
    add_health_check(api, "disk", disk)
    with TestClient(api) as client:
        assert client.get("/health").json() == {"status": "ok"}
        answer = client.get("/ready")
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
        assert answer.json() == {"status": "ok", "checks": {"queue": "ok", "disk": "ok"}}
        well = False
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"status": "failed", "checks": {"queue": "ok", "disk": "failed"}}


def test_what_a_check_raises_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    api = BoltAPI()
    register_health_checks(api, ready="/prepared")

    def broker() -> None:
        raise ConnectionError("amqp://user:secret@broker")

    add_health_check(api, "broker", broker)
    with TestClient(api) as client:
        answer = client.get("/prepared")
    assert answer.status_code == 503 and "secret" not in answer.text
    assert "broker failed: ConnectionError" in caplog.text


def test_a_check_that_hangs_takes_one_thread() -> None:
    api = BoltAPI()
    register_health_checks(api, patience=0.05)
    over = threading.Event()
    began = []

    def stuck() -> None:
        began.append(1)
        over.wait(20)

    add_health_check(api, "stuck", stuck)
    try:
        with TestClient(api) as client:
            for _ in range(5):
                assert client.get("/ready").json()["checks"] == {"stuck": "failed"}
            over.set()
        assert len(began) == 1
    finally:
        over.set()


def test_who_asks_at_the_same_time_is_told_the_same() -> None:
    """Two load balancers that look at once are no reason to take the process out of use."""
    api = BoltAPI()
    register_health_checks(api)
    gate, asked = threading.Event(), []

    def disk() -> bool:
        asked.append(1)
        return gate.wait(20)

    @api.get("/open")
    async def open_gate() -> None:
        gate.set()

    add_health_check(api, "disk", disk)
    with TestClient(api) as client, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.get, "/ready") for _ in range(2)]
        wait("the check runs", lambda: asked)
        client.get("/open")
        assert [answer.result(20).status_code for answer in answers] == [200, 200]


def test_a_check_that_found_no_thread_is_asked_again() -> None:
    api = BoltAPI()
    register_health_checks(api, patience=0.05)
    gate = threading.Event()

    @api.get("/crowd")
    async def crowd() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, gate.wait, 20)

    add_health_check(api, "queue", lambda: True)
    with TestClient(api) as client:
        client.get("/crowd")
        assert client.get("/ready").status_code == 503
        gate.set()
        wait("it is well again", lambda: client.get("/ready").status_code == 200, 20)


def test_mistakes_are_named() -> None:
    api = BoltAPI(prefix="/api")
    add_health_check(api, "a", bool)
    with pytest.raises(ConfigError, match="has a health check 'a' already"):
        add_health_check(api, "a", bool)
    with pytest.raises(ConfigError, match="'b': 7 is not a function"):
        add_health_check(api, "b", 7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="from 0 to 3600 seconds"):
        register_health_checks(api, patience=0)


def test_the_database_and_the_debug_page(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.settings("DEBUG = True\nAPI_TOKEN = 'only-for-me'")
    project.write(
        "shop/api.py",
        """
        from tollway.bolt import BoltAPI
        from tollway.bolt.health import add_health_check, check_database, register_health_checks

        api = BoltAPI()
        register_health_checks(api)
        add_health_check(api, "database", check_database)

        @api.get("/wrong")
        async def wrong():
            shelf = "the upper one"
            raise LookupError("nothing here")
        """,
    )
    project.write(
        "shop/tests.py",
        """
        from django.conf import settings
        from django.test import TransactionTestCase, override_settings

        from shop.api import api
        from tollway.bolt.testing import TestClient

        class Pages(TransactionTestCase):
            @override_settings(DEBUG=True)
            def test_pages(self):
                with TestClient(api, raise_server_exceptions=False) as client:
                    ready = client.get("/ready")
                    self.assertEqual((ready.status_code, ready.json()["status"]), (200, "ok"))
                    page = client.get("/wrong", headers={"Accept": "text/html,*/*"})
                    self.assertEqual(page.status_code, 500)
                    self.assertEqual(page.headers["content-type"], "text/html; charset=utf-8")
                    for text in ("LookupError", "nothing here", "the upper one"):
                        self.assertIn(text, page.text)
                    self.assertNotIn("only-for-me", page.text)
                    problem = client.get("/wrong").json()
                    self.assertEqual(problem["detail"], "LookupError: nothing here")
                with override_settings(DEBUG=False):
                    with TestClient(api, raise_server_exceptions=False) as client:
                        page = client.get("/wrong", headers={"Accept": "text/html"})
                        self.assertNotIn("nothing here", page.text)
        """,
    )
    ran = project.manage("test", "shop")
    assert ran.returncode == 0 and "Ran 1 test" in ran.stderr, ran.stderr
