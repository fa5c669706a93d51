"""Compressed answers, decoded by the libraries of their formats."""

from __future__ import annotations

import gzip
import json
import subprocess
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project
from tollway.bolt import BoltAPI, CompressionConfig, no_compress
from tollway.bolt.compiling.answers import read_answers
from tollway.errors import ConfigError

API = """
import asyncio

from tollway.bolt import BoltAPI, CompressionConfig, EventSourceResponse, FileResponse
from tollway.bolt import PlainText, Router, StreamingResponse, no_compress, skip_middleware

api = BoltAPI()
router = Router(prefix="/router", compression=False)
plain = BoltAPI(compression=False)
gzip_only = BoltAPI(compression=CompressionConfig(backend="gzip", minimum_size=10))
api.mount("/plain", plain)
api.mount("/gzip", gzip_only)
WORDS = [f"word {number % 97}" for number in range(3000)]


@api.get("/words")
@plain.get("/words")
@gzip_only.get("/words")
async def words():
    return WORDS


@api.get("/large")
def large():
    return WORDS * 100


@api.get("/secret")
@no_compress
async def secret():
    return WORDS


@api.get("/left-out")
@skip_middleware("compression")
async def left_out():
    return WORDS


@router.get("/words")
async def of_router():
    return WORDS


api.include_router(router)


@api.get("/short")
@gzip_only.get("/short")
async def short():
    return {"a": "b" * 30}


@api.get("/packed/{kind}")
async def packed(kind: str):
    if kind == "encoded":
        return PlainText("x" * 9000, headers={"Content-Encoding": "gzip"})
    if kind == "image":
        return PlainText("x" * 9000, headers={"Content-Type": "image/png"})
    return PlainText("x" * 9000, headers={"Cache-Control": "no-transform"})


@api.get("/varies")
async def varies():
    return PlainText("x" * 9000, headers={"Vary": "origin"})


@api.get("/stream")
async def stream():
    async def rows():
        for word in WORDS:
            yield word + "\\n"

    return StreamingResponse(rows(), media_type="text/csv")


gate = asyncio.Event()


@api.get("/slow")
async def slow():
    async def rows():
        yield "first" * 10
        await gate.wait()
        yield "last"

    return StreamingResponse(rows(), media_type="text/plain")


@api.get("/open")
async def open_gate():
    gate.set()


@api.get("/events")
async def events():
    return EventSourceResponse(word for word in WORDS[:3])


@api.get("/file")
async def file():
    return FileResponse(__file__, media_type="text/x-python")
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    project = Project(tmp_path_factory.mktemp("compressed"))
    project.write("shop/api.py", API)
    with project.serve() as served:
        yield served.url


WORDS = [f"word {number % 97}" for number in range(3000)]


def raw(url: str, accept: str | None, **headers: str) -> tuple[httpx.Headers, bytes]:
    """An answer's headers and its bytes as they were on the wire."""
    sent = {"Accept-Encoding": accept or "identity", **headers}
    with httpx.stream("GET", url, headers=sent) as answer:
        return answer.headers, b"".join(answer.iter_raw())


def decoded(coding: str, data: bytes) -> bytes:
    if coding == "gzip":
        return gzip.decompress(data)
    if coding == "br":
        brotli: Any = import_module("brotli")
        return bytes(brotli.decompress(data))
    zstandard: Any = import_module("zstandard")
    return bytes(zstandard.ZstdDecompressor().stream_reader(data).read())


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_every_coding_comes_out_as_it_went_in(url: str, coding: str) -> None:
    for path, expected in (("/words", WORDS), ("/large", WORDS * 100)):
        headers, body = raw(url + path, coding)
        assert headers["content-encoding"] == coding
        assert headers["vary"] == "accept-encoding"
        assert json.loads(decoded(coding, body)) == expected
    headers, body = raw(f"{url}/stream", coding)
    assert headers["content-encoding"] == coding
    assert decoded(coding, body).decode().split() == " ".join(WORDS).split()


def test_what_the_client_likes_decides(url: str) -> None:
    for accept, coding in (
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br;q=0.5", "gzip"),
        ("zstd;q=0, *;q=0.1", "br"),
        ("deflate", None),
        (None, None),
    ):
        headers, _ = raw(f"{url}/words", accept)
        assert headers.get("content-encoding") == coding, accept
        assert headers["vary"] == "accept-encoding"


def test_what_routes_and_apis_say(url: str) -> None:
    every = "gzip, br, zstd"
    assert "content-encoding" not in raw(f"{url}/plain/words", every)[0]
    for path in ("secret", "left-out", "router/words"):
        headers, body = raw(f"{url}/{path}", every)
        assert "content-encoding" not in headers
        assert "vary" not in headers
        assert json.loads(body) == WORDS
    assert raw(f"{url}/gzip/words", every)[0]["content-encoding"] == "gzip"
    assert "content-encoding" not in raw(f"{url}/short", every)[0]
    assert raw(f"{url}/gzip/short", every)[0]["content-encoding"] == "gzip"
    assert "content-encoding" not in raw(f"{url}/events", every)[0]


@pytest.mark.parametrize("kind", ["encoded", "image", "fixed"])
def test_what_is_packed_already_or_must_stay_is_sent_as_it_is(url: str, kind: str) -> None:
    headers, body = raw(f"{url}/packed/{kind}", "gzip, br, zstd")
    assert headers.get("content-encoding") == ("gzip" if kind == "encoded" else None)
    assert body == b"x" * 9000


def test_vary_names_both_reasons(url: str) -> None:
    headers, _ = raw(f"{url}/varies", "gzip")
    assert sorted(headers.get_list("vary")) == ["accept-encoding", "origin"]


def test_a_stream_that_waits_sends_what_it_has(url: str) -> None:
    with httpx.stream("GET", f"{url}/slow", headers={"Accept-Encoding": "gzip"}) as answer:
        inflate = zlib.decompressobj(31)
        text = b""
        pieces = answer.iter_raw()
        while not text.endswith(b"first"):
            text += inflate.decompress(next(pieces))
        assert text == b"first" * 10
        httpx.get(f"{url}/open")
        for piece in pieces:
            text += inflate.decompress(piece)
        assert text == b"first" * 10 + b"last"


def test_files_are_compressed_whole_but_not_in_part(url: str) -> None:
    headers, body = raw(f"{url}/file", "gzip")
    assert headers["content-encoding"] == "gzip"
    assert headers["etag"].startswith('W/"')
    assert "accept-ranges" not in headers
    assert gzip.decompress(body).decode() == API
    part, bytes_of_it = raw(f"{url}/file", "gzip", Range="bytes=1-6")
    assert "content-encoding" not in part
    assert bytes_of_it == b"import"
    again = httpx.get(
        f"{url}/file", headers={"Accept-Encoding": "gzip", "If-None-Match": headers["etag"]}
    )
    assert again.status_code == 304
    head = httpx.head(f"{url}/file", headers={"Accept-Encoding": "gzip"})
    assert head.headers["content-encoding"] == "gzip"


def test_curl_reads_it(url: str) -> None:
    told = subprocess.run(
        ["curl", "-sS", "--compressed", f"{url}/words"], capture_output=True, check=True
    )
    assert json.loads(told.stdout) == WORDS


def test_configurations() -> None:
    assert CompressionConfig(backend="brotli").names() == ["br", "gzip"]
    assert CompressionConfig(backend="zstd", gzip_fallback=False).names() == ["zstd"]
    for wrong in (
        {"backend": "lzma"},
        {"minimum_size": -1},
        {"brotli_level": 12},
        {"types": "text/"},
    ):
        with pytest.raises(ConfigError):
            CompressionConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not True, False or a CompressionConfig"):
        BoltAPI(compression="gzip")  # type: ignore[arg-type]

    def settings(value: Any) -> Any:
        return read_answers(type("Settings", (), {"BOLT_COMPRESSION": value})).compression

    assert settings(None) == settings(True) == CompressionConfig()
    assert settings(False) is None
    with pytest.raises(ConfigError, match="setting BOLT_COMPRESSION: 7"):
        settings(7)

    @no_compress
    def handler() -> None: ...

    assert handler() is None


def test_a_project_can_turn_it_off(project: Project, tmp_path: Path) -> None:
    project.settings("BOLT_COMPRESSION = False")
    project.write("shop/api.py", API)
    with project.serve() as served:
        assert "content-encoding" not in raw(f"{served.url}/words", "gzip")[0]
        assert raw(f"{served.url}/gzip/words", "gzip")[0]["content-encoding"] == "gzip"
