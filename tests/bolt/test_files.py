"""Files as answers, over real sockets: ranges, validators, and what must not be sent."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.bolt.native import Answer, Running, arg, route, running
from tests.bolt.project import Project
from tollway.bolt import FileResponse, Response
from tollway.bolt.conf import read_settings
from tollway.bolt.files import File, disposition
from tollway.errors import ConfigError

CONTENT = bytes(range(256)) * 40  # 10 240 bytes
CHANGED = 1_700_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    file = folder / "data.bin"
    file.write_bytes(CONTENT)
    os.utime(file, (CHANGED, CHANGED))
    (folder / "empty.txt").write_bytes(b"")
    return folder


@contextmanager
def serving(folder: Path, *roots: Path, **more: Any) -> Iterator[Running]:
    """Serves any path below `folder`, as a careless handler would."""

    async def send(path: str) -> FileResponse:
        return FileResponse(folder / path, **more)

    def send_from_thread(path: str) -> FileResponse:
        return FileResponse(folder / path, **more)

    made = [
        route("/files/{*path}", send, arg("path", "path")),
        route("/threads/{*path}", send_from_thread, arg("path", "path"), mode="sync"),
    ]
    with running(*made, response_type=Response, file_roots=[str(root) for root in roots]) as served:
        yield served


def ranged(served: Running, value: str, **headers: str) -> Answer:
    return served.get("/files/data.bin", Range=value, **headers)


def test_a_whole_file(folder: Path) -> None:
    with serving(folder) as served:
        for prefix in ("files", "threads"):
            answer = served.get(f"/{prefix}/data.bin")
            assert (answer.status, answer.body) == (200, CONTENT)
            assert answer.headers["content-length"] == str(len(CONTENT))
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-type"] == "application/octet-stream"
            moment = datetime.fromtimestamp(CHANGED, UTC)
            assert answer.headers["last-modified"] == format_datetime(moment, usegmt=True)
            assert answer.headers["etag"].startswith('"')
        head = served.get("/files/data.bin", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(CONTENT))
        empty = served.get("/files/empty.txt")
        assert (empty.status, empty.body, empty.headers["content-length"]) == (200, b"", "0")
        assert empty.headers["content-type"] == "text/plain; charset=utf-8"
        assert served.on_loop(served.server.stats)["panics"] == 0


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-499", 0, 499),
        ("bytes=500-999", 500, 999),
        ("bytes=-500", 9740, 10239),
        ("bytes=9740-", 9740, 10239),
        ("bytes=0-0", 0, 0),
        ("bytes=10239-99999", 10239, 10239),
        ("bytes=-99999", 0, 10239),
    ],
)
def test_one_range(folder: Path, value: str, first: int, last: int) -> None:
    with serving(folder) as served:
        answer = ranged(served, value)
        assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/10240"
        assert answer.headers["content-length"] == str(last + 1 - first)
        assert served.get("/files/data.bin", "HEAD", Range=value).status == 200


def test_several_ranges(folder: Path) -> None:
    with serving(folder) as served:
        answer = ranged(served, "bytes=0-0, 500-999, -1")
        assert answer.status == 206
        assert answer.headers["content-length"] == str(len(answer.body))
        assert "content-range" not in answer.headers
        typed = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n"
        message = BytesParser().parsebytes(typed + answer.body)
        parts: Any = message.get_payload()
        sent = [(part["content-range"], part.get_payload(decode=True)) for part in parts]
        assert sent == [
            ("bytes 0-0/10240", CONTENT[:1]),
            ("bytes 500-999/10240", CONTENT[500:1000]),
            ("bytes 10239-10239/10240", CONTENT[-1:]),
        ]
        assert all(isinstance(part, Message) for part in parts)
        assert parts[0]["content-type"] == "application/octet-stream"
        overlapping = ranged(served, "bytes=0-100,50-200")
        assert (overlapping.status, overlapping.body) == (200, CONTENT)


def test_ranges_that_cannot_be(folder: Path) -> None:
    with serving(folder) as served:
        answer = ranged(served, "bytes=10240-")
        assert (answer.status, answer.body) == (416, b"")
        assert answer.headers["content-range"] == "bytes */10240"
        assert served.get("/files/empty.txt", Range="bytes=0-").status == 416
        for mistake in ("bytes=5-4", "lines=1-2", "bytes=", "bytes=a-"):
            assert ranged(served, mistake).status == 200, mistake


def test_conditions(folder: Path) -> None:
    before = "Tue, 14 Nov 2023 22:13:19 GMT"
    exactly = "Tue, 14 Nov 2023 22:13:20 GMT"
    with serving(folder) as served:
        tag = served.get("/files/data.bin").headers["etag"]
        get = served.get
        for known in (tag, f"W/{tag}", f'"x", {tag}', "*", f'"a,b",{tag}'):
            answer = get("/files/data.bin", If_None_Match=known)
            assert (answer.status, answer.body) == (304, b""), known
            assert answer.headers["etag"] == tag
        assert get("/files/data.bin", If_None_Match='"x"').status == 200
        assert get("/files/data.bin", If_Modified_Since=exactly).status == 304
        assert get("/files/data.bin", If_Modified_Since=before).status == 200
        # The tag counts where there is one.
        mixed = get("/files/data.bin", If_Modified_Since=exactly, If_None_Match='"x"')
        assert mixed.status == 200
        assert get("/files/data.bin", If_Match=tag).status == 200
        assert get("/files/data.bin", If_Match='"x"').status == 412
        assert get("/files/data.bin", If_Match=f"W/{tag}").status == 412
        assert get("/files/data.bin", If_Unmodified_Since=before).status == 412
        assert get("/files/data.bin", If_Unmodified_Since=exactly).status == 200
        for still, status in ((tag, 206), ('"x"', 200), (exactly, 206), (before, 200)):
            assert ranged(served, "bytes=0-9", If_Range=still).status == status, still
        assert ranged(served, "bytes=0-9", If_Range=f"W/{tag}").status == 200
        os.utime(folder / "data.bin", (CHANGED + 1, CHANGED + 1))
        assert get("/files/data.bin", If_None_Match=tag).status == 200
        (folder / "data.bin").write_bytes(b"new")
        assert get("/files/data.bin", If_None_Match=tag).body == b"new"


def test_what_is_no_file_is_not_found(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "secret").write_bytes(b"x")
    (folder / "loop").symlink_to(folder / "loop")
    with serving(folder) as served:
        for name in ("missing", "pipe", "", "loop", "data.bin/x", "nul%00"):
            answer = served.get(f"/files/{name}")
            assert answer.status in (404, 500 if name == "nul%00" else 404), name
            assert str(tmp_path).encode() not in answer.body


def test_only_allowed_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "files2").mkdir()
    (tmp_path / "files2" / "near.txt").write_bytes(b"near")
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "in").symlink_to(folder / "data.bin")
    (folder / "up").symlink_to(tmp_path)
    with serving(folder, folder) as served:
        assert served.get("/files/data.bin").body == CONTENT
        assert served.get("/files/in").body == CONTENT
        for name in ("out", "up/secret.txt", "../secret.txt", "..%2fsecret.txt", "/etc/passwd"):
            with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
                client.sendall(f"GET /files/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = client.recv(10_000)
            assert b" 404 " in answer.split(b"\r\n")[0], name
            assert b"secret\n" not in answer
        assert served.get("/files/../files2/near.txt").status == 404
    with serving(folder, tmp_path / "files2", folder) as served:
        assert served.get("/files/data.bin").body == CONTENT
    link = tmp_path / "linked"
    link.symlink_to(folder)
    with serving(folder, link) as served:
        assert served.get("/files/data.bin").body == CONTENT


def test_a_large_file_takes_no_memory(folder: Path) -> None:
    size = 200 * 1024 * 1024
    with (folder / "large.bin").open("wb") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"last")
    with serving(folder) as served:
        served.get("/files/data.bin")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        buffer = bytearray(1024 * 1024)
        with served.open("/files/large.bin", "Connection: close\r\n") as client:
            total = 0
            tail = b""
            while count := client.recv_into(buffer):
                total += count
                tail = (tail + bytes(buffer[:count][-4:]))[-4:]
        assert total > size
        assert tail == b"last"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 8 * 1024, f"{grown} KiB more at the peak"


def test_a_file_that_shrinks_is_not_passed_off_as_whole(folder: Path) -> None:
    size = 64 * 1024 * 1024
    large = folder / "large.bin"
    with large.open("wb") as file:
        file.truncate(size)
    with serving(folder) as served, served.open("/files/large.bin") as client:
        total = len(client.recv(1000))
        large.write_bytes(b"short")
        while piece := client.recv(1_000_000):
            total += len(piece)
        assert total < size


def test_names_for_browsers() -> None:
    assert disposition('a "b".txt') == (
        "attachment; filename=\"a _b_.txt\"; filename*=UTF-8''a%20%22b%22.txt"
    )
    assert disposition("../../etc/passwd") == 'attachment; filename="passwd"'
    assert disposition("C:\\temp\\x.txt", inline=True) == 'inline; filename="x.txt"'
    assert "\r" not in disposition("a\r\nSet-Cookie: x")
    assert disposition("日本.pdf").endswith("filename*=UTF-8''%E6%97%A5%E6%9C%AC.pdf")
    memory = File(b"a,b", "räte.csv")
    assert memory.headers == [
        ("content-type", "text/csv; charset=utf-8"),
        (
            "content-disposition",
            "attachment; filename=\"r_te.csv\"; filename*=UTF-8''r%C3%A4te.csv",
        ),
    ]
    assert dict(File("x", "x.html", inline=True).headers)["content-disposition"].startswith(
        "inline"
    )
    assert dict(File(b"x").headers) == {"content-type": "application/octet-stream"}
    packed = FileResponse("/x/backup.tar.gz", headers={"Content-Disposition": "inline"})
    assert packed.headers == [
        ("content-type", "application/octet-stream"),
        ("Content-Disposition", "inline"),
    ]


def test_the_setting() -> None:
    for wrong in ("/tmp", ["relative"], ["/no/such/folder"], []):
        with pytest.raises(ConfigError, match="setting BOLT_ALLOWED_FILE_PATHS"):
            read_settings(type("Settings", (), {"BOLT_ALLOWED_FILE_PATHS": wrong}))


def test_in_a_project(project: Project, folder: Path) -> None:
    project.settings(f"BOLT_ALLOWED_FILE_PATHS = [{str(folder)!r}]")
    project.write(
        "shop/api.py",
        f"""
        from tollway.bolt import BoltAPI, FileResponse

        api = BoltAPI()

        @api.get("/data")
        async def data():
            return FileResponse({str(folder / "data.bin")!r}, filename="daten.bin")

        @api.get("/settings")
        async def settings():
            return FileResponse(__file__)
        """,
    )
    with project.serve() as served:
        import httpx

        answer = httpx.get(f"{served.url}/data", headers={"Range": "bytes=0-3"})
        assert (answer.status_code, answer.content) == (206, CONTENT[:4])
        assert answer.headers["content-disposition"] == 'attachment; filename="daten.bin"'
        assert httpx.get(f"{served.url}/settings").status_code == 404
