"""Prometheus itself reads what is told: promtool judges it, the server scrapes a live site."""

from __future__ import annotations

import ast
import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi, serve_wsgi
from tests.programs import program
from tests.servers import free_port, redis_server
from tests.waiting import wait
from tollway import Limiter, Policy
from tollway.asgi import LimiterMiddleware
from tollway.observe import prometheus
from tollway.observe.sharing import Sharing, merged, without_gauges

CONFIG = """
global:
  scrape_interval: 200ms
scrape_configs:
  - job_name: app
    metrics_path: /metrics
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """A real server that scrapes one target."""

    def __init__(self, url: str) -> None:
        self.url = url

    def value(self, query: str) -> float | None:
        """What an instant query finds, the one sample there is."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        result = answer["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def wait_for(self, query: str, holds: Callable[[float], bool]) -> None:
        def found() -> bool:
            with httpx.Client(base_url=self.url) as client:
                try:
                    client.get("/-/ready").raise_for_status()
                except httpx.HTTPError:
                    return False
            value = self.value(query)
            return value is not None and holds(value)

        wait(f"{query} is as wanted", found)


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Prometheus in a folder of its own, until the block ends."""
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(target=target))
    port = free_port()
    command = [program("prometheus", "prometheus"), f"--config.file={config}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def judged(text: str) -> None:
    """What promtool says of it: nothing."""
    command = [program("promtool", "prometheus"), "check", "metrics"]
    told = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", ""), text


def sample(text: str, start: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.rpartition(" ")[2])


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def site(limiter: Limiter, policy: Policy) -> Any:
    """An application with its metrics beside it."""
    limited = LimiterMiddleware(hello, limiter, policy)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metrics = scope["type"] == "http" and scope["path"] == "/metrics"
        await (prometheus.app if metrics else limited)(scope, receive, send)

    return app


def test_promtool_finds_nothing(name: str, dead_store: str) -> None:
    limiter, policy = Limiter(), Policy(name, "1/h")
    with redis_server() as redis, Limiter(redis.url) as remote, Limiter(dead_store) as dead:
        for each in (limiter, remote, dead):
            each.check(policy, "k")
        text = prometheus.text()
        judged(text)
        assert sample(text, f'tollway_store_seconds_count{{store="{remote.url}"}}') == 1
        assert sample(text, f'tollway_breaker_state{{store="{remote.url}"}}') == 0
        assert sample(text, f'tollway_breaker_state{{store="{dead.url}"}}') == 2
    start = f'tollway_checks_total{{policy="{name}",outcome='
    assert sample(text, start + '"allowed"}') == 2
    assert sample(text, start + '"degraded_allowed"}') == 1


def test_the_server_scrapes_a_live_application(name: str, tmp_path: Path) -> None:
    with (
        redis_server() as redis,
        Limiter(redis.url) as limiter,
        serve_asgi(site(limiter, Policy(name, "5/h"))) as address,
        scraping(address, tmp_path) as server,
    ):
        with httpx.Client(base_url=f"http://{address}") as client:
            answers = [client.get("/").status_code for _ in range(12)]
        assert answers == [200] * 5 + [429] * 7
        checks = f'tollway_checks_total{{policy="{name}",outcome="%s"}}'
        server.wait_for(checks % "refused", lambda count: count == 7)
        assert server.value(checks % "allowed") == 5
        ours = f'{{store="{limiter.url}"}}'
        assert server.value(f"tollway_store_seconds_count{ours}") == limiter_calls(limiter)
        assert server.value(f"tollway_breaker_state{ours}") == 0
        slow = f"histogram_quantile(0.99, sum by (le) (tollway_store_seconds_bucket{ours}))"
        assert 0 < (server.value(slow) or 0) <= 1


def limiter_calls(limiter: Limiter) -> float:
    text = prometheus.text()
    return sample(text, f'tollway_store_seconds_count{{store="{limiter.url}"}}')


def test_promtool_knows_the_alerts_of_the_manual(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "observability.md"
    [rules] = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "rules.yml").write_text(rules)
    command = [program("promtool", "prometheus"), "check", "rules", str(tmp_path / "rules.yml")]
    told = subprocess.run(command, capture_output=True, text=True)
    assert (told.returncode, "4 rules found" in told.stdout) == (0, True), told.stdout + told.stderr


def test_a_registry_of_prometheus_client_has_them_too(name: str) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Collector())
    Limiter().check(Policy(name, "1/h"), "k")
    labels = {"policy": name, "outcome": "allowed"}
    assert registry.get_sample_value("tollway_checks_total", labels) == 1
    text = generate_latest(registry).decode()
    judged(text)
    assert sample(text, f'tollway_checks_total{{outcome="allowed",policy="{name}"}}') == 1


def test_wsgi_applications_answer_in_a_few_lines(name: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", prometheus.CONTENT_TYPE)])
        return [prometheus.text().encode()]

    with serve_wsgi(app) as address:
        answer = httpx.get(f"http://{address}/metrics")
    assert answer.headers["content-type"] == prometheus.CONTENT_TYPE
    judged(answer.text)


async def test_the_application_answers_http_only() -> None:
    with pytest.raises(RuntimeError, match="answers HTTP requests, not lifespan"):
        await prometheus.app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


def test_a_websocket_at_the_numbers_is_turned_away() -> None:
    with serve_asgi(prometheus.app) as address, pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/")
    assert refused.value.response.status_code == 403


async def test_other_requests_go_on_while_another_process_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "_sharing", None)
    sharing = prometheus.share(tmp_path, every=3_600)
    held, others, went_on = threading.Event(), threading.Event(), []

    def hold() -> None:
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held.set()
            went_on.append(others.wait(10))

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    transport = httpx.ASGITransport(prometheus.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        asked = asyncio.ensure_future(client.get("/"))
        asyncio.get_running_loop().call_later(0.05, others.set)
        assert (await asked).status_code == 200
    holder.join()
    sharing.stop()
    assert went_on == [True]


WORKERS = """
import os, sys
from tollway import Limiter, Policy
from tollway.observe import prometheus

sharing = prometheus.share(sys.argv[1], every=3600)
limiter, policy = Limiter(), Policy("p", "2/h")
for line in sys.stdin:
    if line == "check\\n":
        for _ in range(3):
            limiter.check(policy, "k")
        sharing.stop()
        prometheus.share(sys.argv[1], every=3600)
        print("done", flush=True)
    elif line == "text\\n":
        print(repr(prometheus.text()), flush=True)
"""


class Worker:
    """A process that shares a folder and does what it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKERS, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, word: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def text(self) -> str:
        return str(ast.literal_eval(self.say("text")))

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_one_of_several_workers_answers_for_all_also_for_those_that_are_gone(
    tmp_path: Path,
) -> None:
    start = 'tollway_checks_total{policy="p",outcome='
    workers = [Worker(tmp_path) for _ in range(3)]
    try:
        for number, worker in enumerate(workers, 1):
            worker.say("check")
            text = worker.text()
            assert sample(text, start + '"allowed"}') == 2 * number
            assert sample(text, start + '"refused"}') == number
            judged(text)
        workers[0].end()
        workers[1].process.send_signal(signal.SIGKILL)
        workers[1].end()
        for _ in range(2):
            workers[2].say("check")
            text = workers[2].text()
        # Its own three checks, twice more, are refused.
        assert sample(text, start + '"allowed"}') == 6
        assert sample(text, start + '"refused"}') == 9
        names = {path.name for path in tmp_path.glob("*.prom")}
        assert names == {"gone.prom", f"{workers[2].process.pid}.prom"}
    finally:
        for worker in workers:
            worker.end()


def test_the_numbers_of_a_process_that_had_our_number_before_are_kept(tmp_path: Path) -> None:
    head = "# HELP tollway_checks_total Checks.\n# TYPE tollway_checks_total counter\n"
    own = tmp_path / f"{os.getpid()}.prom"
    own.write_text(f"{head}tollway_checks_total 10\n")
    for _ in range(2):
        sharing = Sharing(tmp_path, lambda: f"{head}tollway_checks_total 1\n", 3_600)
        assert sample(sharing.text(), "tollway_checks_total") == 11
        sharing.stop()
    assert sample((tmp_path / "gone.prom").read_text(), "tollway_checks_total") == 10


def test_sums_add_up_and_of_states_the_worst_is_told() -> None:
    text = """
        # HELP tollway_store_waiting Waiting.
        # TYPE tollway_store_waiting gauge
        tollway_store_waiting{store="a b"} %d
        # HELP tollway_breaker_state State.
        # TYPE tollway_breaker_state gauge
        tollway_breaker_state{store="a b"} %d
        # HELP tollway_store_seconds Seconds.
        # TYPE tollway_store_seconds histogram
        tollway_store_seconds_sum{store="a b"} 0.25
        """
    one, other = (textwrap.dedent(text).lstrip() % numbers for numbers in ((3, 0), (4, 2)))
    both = merged([one, other])
    assert sample(both, "tollway_store_waiting{") == 7
    assert sample(both, "tollway_breaker_state{") == 2
    assert sample(both, "tollway_store_seconds_sum{") == 0.5
    assert both.count("# TYPE") == 3
    kept = without_gauges(one)
    assert 'tollway_store_seconds_sum{store="a b"} 0.25' in kept
    assert "tollway_breaker_state{" not in kept


def test_uvicorns_workers_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "site_of_workers.py").write_text(
        textwrap.dedent(
            """
            import os
            from tests.observe.test_prometheus import site
            from tollway import Limiter, Policy
            from tollway.observe import prometheus

            prometheus.share(os.environ["NUMBERS"], every=0.05)
            app = site(Limiter("memory://"), Policy("shared", "1000/h"))
            """
        )
    )
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--port", str(port)]
    command += ["--log-level", "critical", "site_of_workers:app"]
    top = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([str(tmp_path), top])
    environment = os.environ | {"PYTHONPATH": path, "NUMBERS": str(tmp_path / "numbers")}
    server = subprocess.Popen(command, env=environment)
    start = 'tollway_checks_total{policy="shared",outcome="allowed"}'
    try:
        wait("uvicorn answers", lambda: answers(port))
        for _ in range(60):
            # Each on a connection of its own, so that both workers get some.
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200

        def all_told() -> bool:
            told = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            return start in told and sample(told, start) == 60

        wait("any worker tells of all requests", all_told)
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
    except httpx.HTTPError:
        return False
