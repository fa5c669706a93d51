"""HTTPS and HTTP/2 from `manage.py runbolt`."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import h2.events
import httpx
import pytest

from tests.bolt.http2 import Http2
from tests.bolt.project import Project, Served
from tests.bolt.wire import certificate, get, trusting, wire
from tests.programs import program
from tests.waiting import wait

API = Path(__file__).with_name("wire_app.py").read_text()


@pytest.fixture
def shop(project: Project) -> Project:
    project.write("shop/api.py", API)
    project.settings("DATABASES = {}\nBOLT_HANDLER_TIMEOUT = 2")
    return project


@pytest.fixture
def files(shop: Project) -> tuple[Path, Path]:
    return certificate(shop.folder)


@pytest.fixture
def served(shop: Project, files: tuple[Path, Path]) -> Iterator[Served]:
    with shop.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served:
        yield served


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_requests_over_tls(served: Served, files: tuple[Path, Path], version: str) -> None:
    assert served.url.startswith("https://")
    trust = trusting(files[0])
    with httpx.Client(base_url=served.url, verify=trust, http2=version == "HTTP/2") as client:
        seen = client.get("/seen?a=b")
        assert seen.http_version == version
        host = urlsplit(served.url).netloc
        assert seen.json() == {"scheme": "https", "host": host, "path": "/seen"}
        body = bytes(range(256)) * 3000
        assert client.post("/echo", content=body).content == body
        assert client.post("/echo", content=iter([b"a", b"b" * 70_000])).content[-3:] == b"bbb"
        assert client.get("/big").content == b"x" * 8_000_000
        assert client.get("/nowhere").status_code == 404
        assert client.head("/seen").status_code == 200


def test_http2_requests_run_side_by_side(served: Served, files: tuple[Path, Path]) -> None:
    async def run() -> list[int]:
        trust = trusting(files[0])
        async with httpx.AsyncClient(base_url=served.url, verify=trust, http2=True) as client:
            await client.get("/seen")
            answers = await asyncio.gather(*(client.get("/slow/1?seconds=0.5") for _ in range(50)))
            return [answer.status_code for answer in answers]

    began = time.monotonic()
    assert asyncio.run(run()) == [200] * 50
    assert time.monotonic() - began < 10  # one after the other would take 25 s


def test_curl_speaks_http2_and_tls_1_2(served: Served, files: tuple[Path, Path]) -> None:
    base = [program("curl", "curl"), "-sS", "--cacert", str(files[0]), "-o", "/dev/null"]
    for extra, expected in (
        (["--http2", "-w", "%{http_version}"], "2"),
        (["--http1.1", "-w", "%{http_version}"], "1.1"),
        (["--tls-max", "1.2", "-w", "%{http_version}"], "2"),
    ):
        told = subprocess.run(
            [*base, *extra, f"{served.url}/seen"], capture_output=True, text=True, timeout=20
        )
        assert (told.returncode, told.stdout) == (0, expected), told.stderr
    old = subprocess.run([*base, "--tls-max", "1.1", f"{served.url}/seen"], timeout=20)
    assert old.returncode != 0


def test_plain_text_and_silence_at_a_tls_port(served: Served, files: tuple[Path, Path]) -> None:
    with wire(served.url) as client:
        client.send(get("/seen"))
        assert b"200" not in client.rest()
    assert httpx.get(f"{served.url}/seen", verify=trusting(files[0])).status_code == 200


@pytest.fixture
def client(served: Served, files: tuple[Path, Path]) -> Iterator[Http2]:
    client = Http2(served, files)
    yield client
    client.socket.close()


def test_http2_limits_are_those_of_http1(client: Http2) -> None:
    for headers, status in (
        (client.headers("/" + "a" * 9000), 414),
        (client.headers("/seen", *[("x", "y")] * 101), 431),
        (client.headers("/seen", ("host", "elsewhere")), 400),
        (client.headers("/echo", ("content-length", "99999999"), method="POST"), 413),
    ):
        ends = "content-length" not in dict(headers)
        assert client.status(client.open(headers, end=ends)) == status
    assert client.status(client.open(client.headers("/seen"))) == 200


def test_http2_handlers_are_cancelled_and_timed(
    client: Http2, served: Served, shop: Project
) -> None:
    marks = shop.folder / "shop"
    stream = client.open(client.headers("/never"))
    shop.wait_for_mark("began")
    client.state.reset_stream(stream)
    client.flush()
    shop.wait_for_mark("ended")
    assert client.status(client.open(client.headers("/seen"))) == 200
    assert client.status(client.open(client.headers("/never"))) == 504
    (marks / "ended").unlink()
    (marks / "began").unlink()
    client.open(client.headers("/never"))
    shop.wait_for_mark("began")
    client.socket.close()
    shop.wait_for_mark("ended")


def test_http2_rapid_reset_ends_the_connection(client: Http2) -> None:
    with pytest.raises((ConnectionError, ssl.SSLError)):
        flood(client)


def flood(client: Http2) -> None:
    """Open streams and give them up at once, until the server has enough of it."""
    for _ in range(1000):
        for _ in range(50):
            number = client.state.get_next_available_stream_id()
            client.state.send_headers(number, client.headers("/never"), end_stream=True)
            client.state.reset_stream(number)
        client.flush()


def test_http2_streams_have_a_bound(shop: Project, files: tuple[Path, Path]) -> None:
    shop.settings("DATABASES = {}\nBOLT_MAX_HTTP2_STREAMS = 3")
    with shop.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served:
        client = Http2(served, files)
        client.until(h2.events.RemoteSettingsChanged)
        assert client.state.remote_settings.max_concurrent_streams == 3
        client.socket.close()


def test_a_stop_lets_http2_finish(served: Served, shop: Project, files: tuple[Path, Path]) -> None:
    command = [program("curl", "curl"), "-sS", "--http2", "--cacert", str(files[0])]
    command.append(f"{served.url}/slow/1?seconds=1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        shop.wait_for_mark("slow")
        served.process.send_signal(signal.SIGTERM)
        assert curl.communicate(timeout=20)[0] == "1"
    assert served.process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("cert", "key", "parts"),
    [
        ("none.pem", "server.key", ["none.pem", "cannot be read"]),
        ("server.pem", "none.key", ["none.key", "cannot be read"]),
        ("server.pem", "other.key", ["other.key", "does not belong to the certificate"]),
        ("server.key", "server.key", ["server.key", "no certificate"]),
        ("server.pem", "server.pem", ["server.pem", "no private key"]),
        ("server.pem", None, ["--tls-key"]),
    ],
)
def test_files_that_cannot_be_used(
    shop: Project, files: tuple[Path, Path], cert: str, key: str | None, parts: list[str]
) -> None:
    certificate(shop.folder, "other")
    arguments = ["--tls-cert", cert, *(["--tls-key", key] if key else [])]
    told = shop.manage("runbolt", "--port", "0", *arguments)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    last = told.stderr.strip().splitlines()[-1]
    assert all(part in last for part in parts), last


def test_sighup_takes_a_new_certificate(served: Served, files: tuple[Path, Path]) -> None:
    old = trusting(files[0])
    assert httpx.get(f"{served.url}/seen", verify=old).status_code == 200
    certificate(files[0].parent)
    new = trusting(files[0])
    served.process.send_signal(signal.SIGHUP)

    def is_known() -> bool:
        with suppress(httpx.ConnectError):
            return httpx.get(f"{served.url}/seen", verify=new).status_code == 200
        return False

    wait("the new certificate is shown", is_known, 20, lambda: served.lines)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/seen", verify=old)
