"""The configurations of the page on deployment, run or read by the programs they are for."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project, Served
from tests.bolt.wire import certificate, trusting
from tests.programs import program
from tests.waiting import wait

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bolt-deployment.md"
CLIENT = "127.0.0.2"

API = """
import asyncio

from tollway.bolt import BoltAPI, Request, UploadFile, rate_limit
from tollway.bolt.params import File
from tollway.bolt.responses import EventSourceResponse

api = BoltAPI()


@api.get("/seen")
async def seen(request: Request):
    return {"client": request.client, "scheme": request.scheme, "host": request.headers["host"],
            "id": request.id, "proxy_id": request.headers.get("x-request-id")}


@api.post("/size")
async def size(file: UploadFile):
    return file.size


@api.get("/limited")
@rate_limit("3/h")
async def limited():
    return {}


@api.get("/events")
async def events():
    async def two():
        yield {"n": 1}
        await asyncio.sleep(30)
        yield {"n": 2}

    return EventSourceResponse(two())
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def shop(project: Project) -> Project:
    project.write("shop/api.py", API)
    settings = block("python")
    project.settings(f"DATABASES = {{}}\n{settings}")
    return project


@contextmanager
def nginx(folder: Path, site: str) -> Iterator[subprocess.Popen[str]]:
    """A master process with one worker, which has read `site`."""
    for name in ("client", "proxy", "fastcgi", "uwsgi", "scgi"):
        site = f"{name}_{'body_' if name == 'client' else ''}temp_path {folder}/{name};\n{site}"
    whole = f"""
        daemon off;
        user root;
        worker_processes 1;
        pid {folder}/nginx.pid;
        error_log {folder}/error.log;
        events {{}}
        http {{
        access_log off;
        {site}
        }}
    """
    file = folder / "nginx.conf"
    file.write_text(whole)
    command = [program("nginx", "nginx")]
    command += ["-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=20)
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr.replace('the "user" directive', ""), tried.stderr
    with subprocess.Popen(command, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=20)


@pytest.fixture
def proxied(shop: Project) -> Iterator[tuple[Served, httpx.Client]]:
    """The page's nginx in front of the page's server."""
    cert, key = certificate(shop.folder)
    path = shop.folder / "bolt.sock"
    port = free_port()
    site = (
        block("nginx")
        .replace("/run/shop/bolt.sock", str(path))
        .replace("listen 443", f"listen 127.0.0.1:{port}")
        .replace("/etc/ssl/shop/fullchain.pem", str(cert))
        .replace("/etc/ssl/shop/privkey.pem", str(key))
    )
    with (
        shop.serve("--unix", str(path), "--unix-mode", "666", "--processes", "2") as served,
        nginx(shop.folder, site),
        httpx.Client(
            base_url=f"https://localhost:{port}",
            # Another address than the proxy's own.
            transport=httpx.HTTPTransport(verify=trusting(cert), local_address=CLIENT),
            timeout=20,
        ) as client,
    ):
        wait("nginx listens", lambda: socket.create_connection(("localhost", port)).close() is None)
        yield served, client


def test_behind_nginx(proxied: tuple[Served, httpx.Client]) -> None:
    _, client = proxied
    seen = client.get("/seen", headers={"x-forwarded-for": "203.0.113.9"})
    told = seen.json()
    # What the client says of itself counts for nothing; what nginx says of it does.
    assert (told["client"], told["scheme"], told["host"]) == (CLIENT, "https", "localhost")
    assert told["id"] == told["proxy_id"] == seen.headers["x-request-id"]
    statuses = [
        client.get("/limited", headers={"x-forwarded-for": f"203.0.113.{n}"}).status_code
        for n in range(5)
    ]
    assert statuses == [200, 200, 200, 429, 429]
    large = {"file": ("large.bin", b"x" * 9_000_000)}
    assert client.post("/size", files=large).json() == 9_000_000
    too_large = {"file": ("large.bin", b"x" * 11_000_000)}
    assert client.post("/size", files=too_large).status_code == 413
    with client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        # The second event comes half a minute later: nothing is held back.
        assert json.loads(next(lines).removeprefix("data: ")) == {"n": 1}


def test_a_reload_behind_nginx_loses_nothing(proxied: tuple[Served, httpx.Client]) -> None:
    served, client = proxied
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, verify=False, timeout=20) as other:
            while not over.is_set():
                statuses.append(other.get("/seen").status_code)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        before = workers(served)
        served.process.send_signal(signal.SIGHUP)
        wait(
            "both processes are new",
            lambda: len(workers(served)) >= 2 and not before & workers(served),
            told=lambda: served.lines,
        )
    finally:
        over.set()
        for thread in asking:
            thread.join()
    assert set(statuses) == {200}, statuses


def workers(served: Served) -> set[int]:
    pid = served.process.pid
    return {int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(shutil.which("true") or "/bin/true")
    unit = block("ini").replace("/srv/shop/.venv/bin/python", str(python))
    file = tmp_path / "shop.service"
    file.write_text(unit.replace("/srv/shop", str(tmp_path)).replace("=shop\n", "=root\n", 1))
    told = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", "--recursive-errors=no", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    mine = [line for line in told.stderr.splitlines() if "shop.service" in line]
    assert (told.returncode, mine) == (0, []), told.stderr


@pytest.mark.parametrize("kind", ["ini", "dockerfile"])
def test_the_commands_are_ones_that_runbolt_takes(shop: Project, kind: str) -> None:
    text = block(kind)
    if kind == "ini":
        found = re.search(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
        assert found is not None
        words = found[1].split()
    else:
        found = re.search(r"^CMD (.*)$", text, re.MULTILINE)
        assert found is not None
        words = json.loads(found[1])[1:]
    assert words[:2] == ["manage.py", "runbolt"]
    shop.run(*words[1:], "--check")
