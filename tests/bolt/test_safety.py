"""What hostile and broken clients get, over raw sockets, from `manage.py runbolt`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.bolt.project import Project, Served
from tests.bolt.wire import Wire, get, post, wire
from tests.waiting import wait
from tollway.bolt.server.sockets import allow_files

API = Path(__file__).with_name("wire_app.py").read_text()


@pytest.fixture
def shop(project: Project) -> Project:
    project.write("shop/api.py", API)
    return project


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that no test leaves a trace in."""
    project = Project(tmp_path_factory.mktemp("safety"))
    project.write("shop/api.py", API)
    project.settings("BOLT_LINGER_TIMEOUT = 0.5\nDATABASES = {}")
    with project.serve() as served:
        yield served


def head(lines: str, start: str = "POST /echo HTTP/1.1", host: str = "Host: x\r\n") -> str:
    return f"{start}\r\n{host}{lines}\r\n"


CHUNKED = "Transfer-Encoding: chunked\r\n"

AMBIGUOUS = [
    # Lengths that two readers could take differently.
    (head("Content-Length: 5\r\nContent-Length: 6\r\n") + "hello", 400),
    (head("Content-Length: 5\r\nContent-Length: 5\r\n") + "hello", 400),
    (head("Content-Length: 5\r\ncontent-length: 0\r\n") + "hello", 400),
    (head("Content-Length: 5, 5\r\n") + "hello", 400),
    (head("Content-Length: +5\r\n") + "hello", 400),
    (head("Content-Length: -5\r\n") + "hello", 400),
    (head("Content-Length: 0x5\r\n") + "hello", 400),
    (head("Content-Length: 5.0\r\n") + "hello", 400),
    (head("Content-Length: 1_0\r\n") + "hello", 400),
    (head("Content-Length: \r\n") + "hello", 400),
    (head("Content-Length: 184467440737095516160\r\n") + "hello", 400),
    (head("Content-Length: \xb2\r\n") + "hello", 400),
    # CL.TE and TE.CL, in both orders.
    (head("Content-Length: 4\r\n" + CHUNKED) + "0\r\n\r\n", 400),
    (head(CHUNKED + "Content-Length: 4\r\n") + "0\r\n\r\n", 400),
    (head(CHUNKED + "Content-Length: 0\r\n") + "5\r\nhello\r\n0\r\n\r\n", 400),
    # TE.TE: codings that one of two readers might not see.
    (head(CHUNKED + CHUNKED) + "0\r\n\r\n", 400),
    (head(CHUNKED + "Transfer-Encoding: identity\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", 501),
    (head("Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n", 501),
    (head("Transfer-Encoding: identity, chunked\r\n") + "0\r\n\r\n", 501),
    (head("Transfer-Encoding: gzip\r\n") + "0\r\n\r\n", 501),
    (head('Transfer-Encoding: "chunked"\r\n') + "0\r\n\r\n", 501),
    (head("Transfer-Encoding: chunked;q=1\r\n") + "0\r\n\r\n", 501),
    (head("Transfer-Encoding: chu\x00nked\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding:\x0bchunked\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding:\x0cchunked\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding\t: chunked\r\n") + "0\r\n\r\n", 400),
    (head(" Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
    (head("X: y\r\n Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
    (head("X: y\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
    (head("X: y\rTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
    (head("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n", 400),
    (head("Content-Length:\r\n 5\r\n") + "hello", 400),
    (head(CHUNKED, "POST /echo HTTP/1.0", "") + "0\r\n\r\n", 400),
    # Chunks.
    (head(CHUNKED) + "5 \r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "0x5\r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "+5\r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "5\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "5\rhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "5\r\nhello0\r\n\r\n", 400),
    (head(CHUNKED) + "5\r\nhelloXX0\r\n\r\n", 400),
    (head(CHUNKED) + "5\r\nhello\n0\r\n\r\n", 400),
    (head(CHUNKED) + "5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "5;\x00\r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "fffffffffffffffff\r\n", 400),
    (head(CHUNKED) + "ffffffffffffffff\r\n", 413),
    (head(CHUNKED) + "7fffffff\r\n", 413),
    (head(CHUNKED) + "5;" + "x" * 2000 + "\r\nhello\r\n0\r\n\r\n", 400),
    (head(CHUNKED) + "0\r\nX : y\r\n\r\n", 400),
    (head(CHUNKED) + "0\r\nX: y\n\r\n", 400),
    (head(CHUNKED) + "0\r\n" + "X: y\r\n" * 101 + "\r\n", 431),
]

MALFORMED = [
    ("GET /ping\r\n\r\n", 400),  # HTTP/0.9
    ("GET /ping HTTP/0.9\r\n\r\n", 505),
    ("GET /ping HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("GET /ping HTTP/1.1\nHost: x\n\n", 400),
    ("GET /ping HTTP/1.1\r\rHost: x\r\r\r\r\n\r\n", 400),
    ("GET  /ping HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET\x00 /ping HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /pi\x00ng HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /pi\x7fng HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /<script> HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /ping?q=\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: a/ping\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: a:eighty\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ("GET http://inside/ping HTTP/1.1\r\nHost: outside\r\n\r\n", 400),
    ("GET http://user@x/ping HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("CONNECT x:22 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX: a\x08b\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\n: z\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX: a\r\n\tfolded\r\n\r\n", 400),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nExpect: the-worst\r\n\r\n", 417),
    ("GET /ping HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 101 + "\r\n", 431),
    ("GET /ping HTTP/1.1\r\nHost: x\r\nX: " + "y" * 40_000 + "\r\n\r\n", 431),
    ("GET /ping HTTP/1.1\r\nHost: x\r\n" + ("X: " + "y" * 1000 + "\r\n") * 40 + "\r\n", 431),
    ("GET /" + "a" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ("GET /" + "a" * 80_000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls\r\n\r\n", 400),
]


@pytest.mark.parametrize(("request_", "status"), [*AMBIGUOUS, *MALFORMED])
def test_refused_and_closed(served: Served, request_: str, status: int) -> None:
    with wire(served.url) as client:
        # If the server read the length otherwise than meant, this would be a request.
        client.send(request_ + get("/ping", "X-Smuggled: 1\r\n"))
        answer = client.answer()
        assert (answer.status, answer.closes) == (status, True)
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.rest() == b""


@pytest.mark.parametrize(
    "request_",
    [
        "\r\n" + get("/ping"),
        "GET http://x/ping HTTP/1.1\r\nHost: X\r\n\r\n",
        "GET /ping HTTP/1.0\r\n\r\n",
        get("/ping", "X: \xe9\xff\r\nY:\t z \t\r\n"),
        "POST /echo HTTP/1.1\r\nHost: x\r\nTRANSFER-encoding: CHUNKED\r\n\r\n"
        '2;a=b;c="d"\r\nhi\r\n000\r\nA: b\r\n\r\n',
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0002\r\n\r\nhi",
    ],
)
def test_unusual_and_right(served: Served, request_: str) -> None:
    with wire(served.url) as client:
        assert client.send(request_).answer().status == 200


@pytest.mark.parametrize(
    ("path", "status", "name"),
    [
        ("/items/..%2f..%2fetc%2fpasswd", 200, "../../etc/passwd"),
        ("/items/%2e%2e", 200, ".."),
        ("/items/a%00b", 200, "a\0b"),
        ("/items/a%5cb", 200, "a\\b"),
        ("/items/%252e", 200, "%2e"),
        ("/items/../ping", 404, None),
        ("/../../ping", 404, None),
        ("//ping", 404, None),
        ("/ping%2f", 404, None),
        ("/%70ing/..", 404, None),
        ("/items/%ff", 422, None),
        ("/items/%c0%af", 422, None),
        ("/items/%", 200, "%"),
        ("/items/%zz", 200, "%zz"),
    ],
)
def test_paths_are_matched_as_they_are(
    served: Served, path: str, status: int, name: str | None
) -> None:
    """Nothing is resolved, and a decoded slash never makes another path."""
    with wire(served.url) as client:
        answer = client.send(get(path)).answer()
        assert answer.status == status, answer.body
        if name is not None:
            import json

            assert json.loads(answer.body)["name"] == name


def test_text_that_is_not_utf_8(served: Served) -> None:
    with wire(served.url) as client:
        assert client.send(get("/items/a?q=%ff")).answer().status in (200, 422)
        told = client.send(get("/items/a", "X-Seen: caf\xe9\r\n")).answer()
        assert (told.status, "caf" in told.body.decode()) == (200, True)
        assert client.send(post("/echo", "\xff\xfe")).answer().body == b"\xff\xfe"


def test_a_gigabyte_is_refused_before_it_is_sent(served: Served) -> None:
    declared = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n"
    for expectation in ("", "Expect: 100-continue\r\n"):
        with wire(served.url) as client:
            answer = client.send(f"{declared}{expectation}\r\n").answer()
            assert (answer.status, answer.closes) == (413, True)
    with wire(served.url) as client:
        client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n")
        client.send("Expect: 100-continue\r\n\r\n")
        assert client.answer().status == 100
        assert client.send("hi").answer().body == b"hi"


def test_a_chunked_gigabyte_is_refused_at_the_limit(served: Served) -> None:
    before = served.memory()
    with wire(served.url) as client:
        client.send(head(CHUNKED))
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        for _ in range(64):
            client.send(piece)
        assert client.answer().status == 413
    assert served.memory() < before + 8 * 1_048_576


def test_pipelined_requests_are_answered_in_order_and_within_bounds(served: Served) -> None:
    with wire(served.url) as client:
        client.send("".join(get(f"/slow/{number}") for number in range(10)))
        assert [int(client.answer().body) for _ in range(10)] == list(range(10))
    before = served.memory()
    with wire(served.url) as client:
        # Answers of 8 MB, none of which is read: a few are made, not all.
        client.send(get("/big") * 500)
        with wire(served.url) as other:
            assert other.send(get("/ping")).answer().status == 200
        assert served.memory() < before + 64 * 1_048_576


def test_a_half_closed_client_is_answered_what_needs_no_wait(served: Served) -> None:
    with wire(served.url) as client:
        assert client.send(get("/ping")).half_close().answer().status == 200
        assert client.rest() == b""


def test_ten_thousand_idle_connections(shop: Project) -> None:
    # The two ends of a connection are in two processes, each of which may open that many.
    most = allow_files(10_000)
    count = 10_000 if most is None else most - 500
    with shop.serve() as served, ExitStack() as stack:
        place = urlsplit(served.url)
        with httpx.Client(base_url=served.url) as client:
            assert client.get("/ping").status_code == 200
            before = served.memory()
            for number in range(count):
                # More than one address: ports for one pair of addresses are finite.
                source = (f"127.0.0.{2 + number % 8}", 0)
                idle = socket.create_connection((place.hostname, place.port), 15, source)
                stack.enter_context(idle)
            # The last one is accepted, and so are all before it.
            last = Wire(idle)
            assert last.send(get("/ping")).answer().status == 200
            each = (served.memory() - before) / count
            assert each < 16 * 1024, f"{each:.0f} bytes for each idle connection"
            assert client.get("/ping").status_code == 200


def test_slow_clients_are_given_up(shop: Project) -> None:
    shop.settings(
        """
        BOLT_HEADER_TIMEOUT = 0.5
        BOLT_BODY_TIMEOUT = 0.5
        BOLT_KEEP_ALIVE_TIMEOUT = 0.5
        BOLT_WRITE_TIMEOUT = 0.5
        BOLT_LINGER_TIMEOUT = 0.2
        """
    )
    with shop.serve() as served, ThreadPoolExecutor() as threads, ExitStack() as stack:
        before = served.open_sockets()
        clients = [stack.enter_context(wire(served.url)) for _ in range(5)]
        slow_head, drip, slow_body, idle, deaf = clients
        slow_head.send("GET /ping HTTP/1.1\r\n")
        slow_body.send(post("/echo", "x" * 100)[:-50])
        assert idle.send(get("/ping")).answer().status == 200
        deaf.send(get("/big"))
        dripping = threads.submit(drip_until_answered, drip)
        assert slow_head.answer().status == 408
        assert slow_body.answer().status == 408
        assert dripping.result() == 408
        assert idle.rest() == b""
        wait("none of them is kept", lambda: served.open_sockets() <= before, 15)
        assert len(deaf.rest()) < 8_000_000


def drip_until_answered(client: Wire) -> int:
    """A byte of a header at a time, which must not put the time-out off."""
    client.send("GET /ping HTTP/1.1\r\nX: ")
    client.peer.settimeout(0.05)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        client.send("y")
        try:
            client.received += client.peer.recv(4096)
            client.peer.settimeout(15)
            return client.answer().status
        except TimeoutError:
            continue
    raise AssertionError("never answered")


def test_a_handler_that_never_returns(shop: Project) -> None:
    shop.settings("BOLT_HANDLER_TIMEOUT = 0.5")
    marks = shop.folder / "shop"
    with shop.serve("--grace", "0.3") as served, wire(served.url) as client:
        answer = client.send(get("/never")).answer()
        assert answer.status == 504
        shop.wait_for_mark("ended")
        (marks / "began").unlink()
        shop_again = wire(served.url)
        with shop_again as other:
            other.send(get("/never"))
            shop.wait_for_mark("began")
            # Shutdown does not wait for it longer than the grace.
            assert served.stop() in (0, 1)


def test_a_client_that_leaves_cancels_and_frees(shop: Project) -> None:
    with shop.serve() as served:
        for _ in range(3):  # buffers grow once
            read_a_part(served)
        before = served.memory()
        for _ in range(20):
            read_a_part(served)
        with wire(served.url) as client:
            client.send(get("/never"))
            shop.wait_for_mark("began")
        shop.wait_for_mark("ended")
        assert served.memory() < before + 24 * 1_048_576


def read_a_part(served: Served) -> None:
    with wire(served.url) as client:
        client.send(get("/big"))
        client.peer.recv(1000)


def test_connections_and_handlers_have_a_bound(shop: Project) -> None:
    shop.settings("BOLT_MAX_CONNECTIONS = 3\nBOLT_MAX_TASKS = 2")
    with shop.serve() as served, ExitStack() as stack:
        clients = [stack.enter_context(wire(served.url)) for _ in range(3)]
        for client in clients[:2]:
            client.send(get("/never"))
        shop.wait_for_mark("began")
        while clients[2].send(get("/slow/1")).answer().status != 503:
            pass  # the second one has not begun yet
        assert clients[2].send(get("/nowhere")).answer().status == 404
        with wire(served.url) as waiting:
            waiting.send(get("/nowhere"))
            waiting.peer.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.peer.recv(1)
            clients[2].peer.close()
            waiting.peer.settimeout(15)
            assert waiting.answer().status == 404
