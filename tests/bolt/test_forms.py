"""Forms and files of handlers, through real HTTP."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import pytest

from tests.bolt.project import Project, Served
from tollway import ConfigError
from tollway.bolt import Body, BoltAPI, File, Form, UploadFile
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

APP = Path(__file__).with_name("forms_app.py").read_text()
PNG = ("a.png", b"\x89PNG data", "image/png")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("forms"))
    project.write("shop/api.py", APP)
    project.settings(
        "BOLT_MAX_UPLOAD_BYTES = 1_000_000\nBOLT_MAX_FIELDS = 20\nBOLT_MAX_FILES = 5\n"
    )
    with project.serve() as server:
        yield server


def post(served: Served, path: str, **more: Any) -> Any:
    answer = httpx.post(f"{served.url}{path}", **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def mistakes(answer: httpx.Response) -> list[tuple[str, list[Any]]]:
    assert answer.status_code == 422, answer.text
    return [(entry["type"], entry["loc"]) for entry in answer.json()["errors"]]


@pytest.mark.parametrize("multipart", [False, True])
def test_fields_of_both_kinds_of_forms(served: Served, multipart: bool) -> None:
    data = {"name": "lampe à huile", "size": "7", "tags": ["a", "b+c"], "favourite-colour": "red"}
    files = {"unused": ("x", b"x")} if multipart else None
    found = post(served, "/plain", data=data, files=files)
    assert found == {
        "name": "lampe à huile",
        "size": 7,
        "tags": ["a", "b+c"],
        "colour": "red",
    }
    assert post(served, "/plain", data={"name": "lamp"})["size"] == 5


def test_all_mistakes_of_a_form_are_listed(served: Served) -> None:
    answer = httpx.post(f"{served.url}/plain", data={"name": "x", "size": "-1"})
    assert mistakes(answer) == [
        ("too_short", ["body", "name"]),
        ("greater_than_equal", ["body", "size"]),
    ]
    assert mistakes(httpx.post(f"{served.url}/plain")) == [("missing", ["body", "name"])]
    body = "name=%ff&size=x"
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{served.url}/plain", content=body, headers=kind)
    assert mistakes(answer) == [
        ("string_unicode", ["body", "name"]),
        ("int_parsing", ["body", "size"]),
    ]
    assert answer.json()["errors"][1]["msg"] == "the form field size must be a whole number"


def test_a_struct_as_a_form(served: Served) -> None:
    found = post(served, "/signup", data={"email": "a@b", "age": "20"})
    assert found == {"email": "a@b", "age": 20, "roles": ["reader"], "photo": None}
    found = post(
        served, "/signup", data={"email": "a@b", "age": "20", "roles": ["x"]}, files={"photo": PNG}
    )
    assert (found["roles"], found["photo"]) == (["x"], "a.png")
    answer = httpx.post(f"{served.url}/signup", data={"email": "ab"})
    assert mistakes(answer) == [
        ("missing", ["body", "age"]),
        ("pattern_mismatch", ["body", "email"]),
    ]
    answer = httpx.post(f"{served.url}/signup", data={"email": "a@b", "age": "3"})
    assert mistakes(answer) == [("value_error", ["body"])]
    assert answer.json()["errors"][0]["msg"] == "only for adults"


def test_a_default_is_each_requests_own(served: Served) -> None:
    assert [post(served, "/copied") for _ in range(2)] == [["changed"], ["changed"]]


def test_files(served: Served) -> None:
    files = [
        ("image", PNG),
        ("rest", ("b", b"22")),
        ("rest", ("c", b"333")),
        ("raw", ("d", b"raw")),
    ]
    assert post(served, "/files", files=files, data={"title": "three"}) == {
        "image": {"filename": "a.png", "type": "image/png", "size": 9},
        "rest": [
            {"filename": "b", "type": "application/octet-stream", "size": 2},
            {"filename": "c", "type": "application/octet-stream", "size": 3},
        ],
        "raw": "raw",
        "title": "three",
    }
    files = [("one", ("1", b"")), ("many", ("2", b"")), ("many", ("3", b""))]
    assert post(served, "/inferred", files=files) == ["1", "2", "3"]


def test_rules_of_files(served: Served) -> None:
    many = [("rest", (str(number), b"x")) for number in range(3)]
    wrong = [("image", ("a.html", b"x" * 101, "text/html"))]
    answer = httpx.post(f"{served.url}/files", files=[*wrong, *many])
    assert mistakes(answer) == [
        ("file_too_large", ["body", "image"]),
        ("too_many_files", ["body", "rest"]),
    ]
    told = answer.json()["errors"][0]["msg"]
    assert told == "the file image must not be larger than 100 bytes, it has 101"
    answer = httpx.post(f"{served.url}/files", files={"image": ("a.html", b"x", "text/html")})
    assert mistakes(answer) == [("file_type", ["body", "image"])]
    answer = httpx.post(f"{served.url}/files", files={"other": PNG})
    assert mistakes(answer) == [("missing", ["body", "image"])]
    files = [("image", PNG), ("image", PNG)]
    assert mistakes(httpx.post(f"{served.url}/files", files=files)) == [
        ("too_many_files", ["body", "image"])
    ]


def test_what_can_be_done_with_a_file(served: Served) -> None:
    content = bytes(range(256)) * 3000
    found = post(served, "/used", files={"file": ("../data.bin", content, "application/x-data")})
    assert found == {
        "first": "\x00\x01\x02\x03",
        "position": 4,
        "end": "\xfd\xfe\xff",
        "saved": [True, True],
        "headers": {
            "content-disposition": 'form-data; name="file"; filename="../data.bin"',
            "content-type": "application/x-data",
        },
        "digest": hashlib.sha256(content).hexdigest(),
        "closed": "this file is closed",
    }


def test_the_body_limit_of_a_route(served: Served) -> None:
    two = {"file": ("f", b"x" * 2_000_000)}
    assert post(served, "/large", files=two) == {"size": 2_000_000}
    assert httpx.post(f"{served.url}/used", files=two).status_code == 413
    assert post(served, "/small", data={"name": "abcde"}) == {"name": "abcde"}
    assert httpx.post(f"{served.url}/small", data={"name": "abcdef"}).status_code == 413


def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").partition(":")
    head = "POST {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{}\r\n\r\n"
    for path, framing in (("/small", "Content-Length: 11"), ("/large", "Content-Length: 3000001")):
        with closing(socket.create_connection((host, int(port)), timeout=10)) as client:
            client.sendall(head.format(path, framing).encode())
            assert client.recv(100).startswith(b"HTTP/1.1 413")
    with closing(socket.create_connection((host, int(port)), timeout=10)) as client:
        client.sendall(head.format("/small", "Transfer-Encoding: chunked").encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(b"b\r\nname=abcdef\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_other_bodies_than_forms(served: Served) -> None:
    answer = httpx.post(f"{served.url}/plain", json={"name": "lamp"})
    assert answer.status_code == 415
    assert answer.headers["accept"] == "application/x-www-form-urlencoded, multipart/form-data"
    assert answer.json()["detail"] == (
        "this route reads application/x-www-form-urlencoded or multipart/form-data, "
        "not application/json"
    )
    answer = httpx.post(f"{served.url}/files", data={"title": "x"})
    assert (answer.status_code, answer.headers["accept"]) == (415, "multipart/form-data")


def test_malformed_forms_name_the_part(served: Served) -> None:
    kind = {"content-type": "multipart/form-data; boundary=xx"}
    body = (
        b'--xx\r\nContent-Disposition: form-data; name="title"\r\n\r\nlamp\r\n--xx\r\nbad\r\n\r\n'
    )
    answer = httpx.post(f"{served.url}/files", content=body, headers=kind)
    assert mistakes(answer) == [("form_invalid", ["body"])]
    assert answer.json()["errors"][0]["msg"] == "part 2 of the form: a header is malformed"
    data = {f"f{number}": "x" for number in range(21)}
    answer = httpx.post(f"{served.url}/plain", data=data)
    assert mistakes(answer) == [("form_too_large", ["body"])]
    files = [("rest", ("f", b"")) for _ in range(6)]
    assert mistakes(httpx.post(f"{served.url}/files", files=files)) == [
        ("form_too_large", ["body"])
    ]


def test_mistakes_of_every_source_are_in_one_list(served: Served) -> None:
    answer = httpx.post(
        f"{served.url}/all/x?page=x",
        headers={"X-Count": "x", "Cookie": "session=x"},
        data={"account": "x"},
        files={"file": ("f", b"four")},
    )
    assert mistakes(answer) == [
        ("int_parsing", ["path", "number"]),
        ("int_parsing", ["query", "page"]),
        ("int_parsing", ["header", "x-count"]),
        ("int_parsing", ["cookie", "session"]),
        ("missing", ["body", "title"]),
        ("file_too_large", ["body", "file"]),
        ("int_parsing", ["body", "account"]),
    ]
    answer = httpx.post(
        f"{served.url}/all/x?page=1",
        headers={"X-Count": "1", "Cookie": "session=1", "Content-Type": "multipart/form-data"},
        content=b"?",
    )
    assert mistakes(answer) == [("int_parsing", ["path", "number"]), ("form_invalid", ["body"])]


def refused(handler: Callable[..., Any], method: str = "POST") -> str:
    api = BoltAPI()
    api.route(method, "/")(handler)
    with pytest.raises(ConfigError) as caught:
        assemble([api], BoltSettings())
    return str(caught.value)


class Item(msgspec.Struct):
    name: str


def test_forms_that_cannot_work() -> None:
    def field(name: Annotated[str, Form()]) -> None: ...
    def file(file: UploadFile) -> None: ...
    def both(item: Item, name: Annotated[str, Form()]) -> None: ...
    def raw(data: Annotated[bytes, Body()], file: UploadFile) -> None: ...
    def number(file: Annotated[int, File()]) -> None: ...
    def document(item: Annotated[dict[str, int], Form()]) -> None: ...

    assert "parameter 'name': GET has no body: use POST" in refused(field, "GET")
    assert "parameter 'file': GET has no body: use POST" in refused(file, "GET")
    for handler in (both, raw):
        assert "the body is both JSON and a form" in refused(handler)
    assert "int cannot be a file: use UploadFile or bytes" in refused(number)
    assert "cannot be read from one form value" in refused(document)
    with pytest.raises(ConfigError, match="max_body is a number of bytes, not -1"):
        BoltAPI().post("/", max_body=-1)
