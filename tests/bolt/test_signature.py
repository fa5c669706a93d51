"""Handlers' signatures, compiled and run without a server."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, NewType, TypedDict

import msgspec
import pytest

from tollway import ConfigError
from tollway.bolt import Request
from tollway.bolt.compiling.signature import Signature, compile_signature
from tollway.bolt.cookies import Cookie as SetCookie
from tollway.bolt.exceptions import RequestValidationError
from tollway.bolt.params import Body, Cookie, Header, Path, Query

UserId = NewType("UserId", int)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(msgspec.Struct):
    name: str
    price: Annotated[int, msgspec.Meta(ge=0)]


class Filters(msgspec.Struct, kw_only=True):
    page: Annotated[int, msgspec.Meta(ge=1)] = 1
    words: list[str] = []
    owner: str | None

    def __post_init__(self) -> None:
        if self.owner == "nobody":
            raise ValueError("nobody owns nothing")


class Typed(TypedDict):
    name: str


@dataclass
class Plain:
    name: str
    count: int = 1


def compiled(
    handler: Callable[..., Any], method: str = "GET", *names: str, inline: bool = False
) -> Signature:
    return compile_signature(handler, method, names, inline)


def argument(handler: Callable[..., Any], method: str = "GET", *names: str) -> dict[str, Any]:
    [only] = compiled(handler, method, *names).arguments
    return only


def refused(handler: Callable[..., Any], method: str = "GET", *names: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compiled(handler, method, *names)
    return str(caught.value)


def test_plain_parameters_are_read_by_the_server_and_nothing_wraps_the_handler() -> None:
    async def handler(item_id: int, q: str, n: float = 1.5, flag: bool | None = None) -> None: ...

    signature = compiled(handler, "GET", "item_id")
    assert signature.mode == "async"
    assert signature.call is handler
    described = [
        (arg["source"], arg["alias"], arg["kind"], arg["required"], arg.get("default", "-"))
        for arg in signature.arguments
    ]
    assert described == [
        ("path", "item_id", "int", True, "-"),
        ("query", "q", "str", True, "-"),
        ("query", "n", "float", False, 1.5),
        ("query", "flag", "bool", False, None),
    ]
    assert not any("decode" in arg for arg in signature.arguments)


def test_modes() -> None:
    async def waits() -> None: ...
    def computes() -> None: ...

    class Awaited:
        async def __call__(self) -> None: ...

    @functools.wraps(waits)
    def wrapper(*args: Any) -> Any:
        return waits(*args)

    assert compiled(waits).mode == "async"
    assert compiled(computes).mode == "sync"
    assert compiled(computes, inline=True).mode == "inline"
    assert compiled(Awaited()).mode == "async"
    assert compiled(wrapper).mode == "async"


def test_native_kinds() -> None:
    for annotation, kind in ((uuid.UUID, "uuid"), (date, "date"), (UserId, "int"), (str, "str")):

        def handler(value: Any) -> None: ...

        handler.__annotations__["value"] = annotation
        found = argument(handler)
        assert (found["kind"], found.get("decode")) == (kind, None)


def test_other_scalars_are_decoded_in_python() -> None:
    def colour(value: Colour) -> None: ...
    def choice(value: Literal["a", "b"]) -> None: ...
    def either(value: int | date) -> None: ...

    decode = argument(colour)["decode"]
    assert decode("red") is Colour.RED
    with pytest.raises(ValueError, match="Invalid enum value 'green'"):
        decode("green")
    assert argument(choice)["decode"]("b") == "b"
    assert argument(either)["decode"]("7") == 7
    assert argument(either)["decode"]("2025-01-31") == date(2025, 1, 31)


@pytest.mark.parametrize("spelling", ["meta", "marker", "default"])
def test_constraints(spelling: str) -> None:
    def meta(page: Annotated[int | None, msgspec.Meta(ge=1)] = None) -> None: ...
    def marker(page: Annotated[int, Query(ge=1)]) -> None: ...
    def default(page: int = Query(1, ge=1)) -> None: ...

    found = argument({"meta": meta, "marker": marker, "default": default}[spelling])
    assert (found["source"], found["kind"]) == ("query", "int")
    assert found["decode"](1) == 1
    with pytest.raises(ValueError, match="Expected a whole number >= 1"):
        found["decode"](0)


def test_sources_and_aliases() -> None:
    def handler(
        x_request_id: Annotated[str, Header()],
        agent: Annotated[str, Header(alias="User-Agent")],
        sid: Annotated[str, Cookie(alias="sessionid")] = "",
        size: int = Query(20, alias="page-size"),
    ) -> None: ...

    found = [(arg["source"], arg["alias"]) for arg in compiled(handler).arguments]
    assert found == [
        ("header", "x-request-id"),
        ("header", "User-Agent"),
        ("cookie", "sessionid"),
        ("query", "page-size"),
    ]


def test_lists_sets_and_tuples() -> None:
    def handler(
        tags: list[str],
        ids: set[int],
        pair: tuple[int, ...] = (1,),
        few: Annotated[list[int], msgspec.Meta(max_length=2)] = [],  # noqa: B006
    ) -> Any:
        return tags, ids, pair, few

    signature = compiled(handler)
    assert [(arg["kind"], arg["list"]) for arg in signature.arguments] == [
        ("str", True),
        ("int", True),
        ("int", True),
        ("int", True),
    ]
    assert signature.call is handler
    wholes = [arg["whole"] for arg in signature.arguments]
    assert wholes[:3] == [None, set, tuple]
    assert wholes[3]([5]) == [5]
    with pytest.raises(ValueError, match="Expected a list of length <= 2"):
        wholes[3]([1, 2, 3])


def test_a_default_that_could_change_is_copied() -> None:
    def handler(tags: list[str] = Query([]), pair: tuple[int, ...] = ()) -> None: ...  # noqa: B008

    tags, pair = compiled(handler).arguments
    assert (tags["copied"], pair["copied"]) == (True, False)


def test_keyword_only_parameters() -> None:
    def handler(a: int, *, b: int = 2) -> tuple[int, int]:
        return a, b

    assert compiled(handler).call(1, 5) == (1, 5)


def test_a_struct_of_parameters() -> None:
    def handler(n: int, filters: Annotated[Filters, Query()]) -> Filters:
        return filters

    signature = compiled(handler)
    assert [arg["alias"] for arg in signature.arguments] == ["n", "page", "words", "owner"]
    assert not any(arg["required"] for arg in signature.arguments[1:])
    absent = signature.arguments[1]["default"]
    assert signature.call(1, 2, ["a"], "me") == Filters(page=2, words=["a"], owner="me")
    assert signature.call(1, absent, absent, "me") == Filters(owner="me")
    with pytest.raises(RequestValidationError, match="422"):
        signature.call(1, absent, absent, "nobody")


def test_the_request() -> None:
    def by_name(request) -> None: ...  # type: ignore[no-untyped-def]
    def by_type(r: Request) -> None: ...
    def annotated(request: Request, item_id: str) -> None: ...
    def a_query(request: str) -> None: ...

    assert argument(by_name) == {"name": "request", "source": "request"}
    assert argument(by_type)["source"] == "request"
    assert compiled(annotated, "GET", "item_id").arguments[0]["source"] == "request"
    assert argument(a_query)["source"] == "query"
    # A handler with the request may read the path from it.
    assert compiled(by_name, "GET", "item_id").arguments[0]["source"] == "request"


def test_bodies() -> None:
    def struct(item: Item) -> None: ...
    def several(items: list[Item]) -> None: ...
    def typed(item: Typed) -> None: ...
    def plain(item: Plain) -> None: ...
    def free(data: dict[str, Any]) -> None: ...
    def number(n: Annotated[int, Body()]) -> None: ...

    cases: list[tuple[Callable[..., Any], bytes, Any]] = [
        (struct, b'{"name":"a","price":1}', Item("a", 1)),
        (several, b'[{"name":"a","price":1}]', [Item("a", 1)]),
        (typed, b'{"name":"a"}', {"name": "a"}),
        (plain, b'{"name":"a"}', Plain("a")),
        (free, b'{"x":[1]}', {"x": [1]}),
        (number, b"7", 7),
    ]
    for handler, raw, value in cases:
        found = argument(handler, "POST")
        assert found["source"] == "body"
        assert found["decode"](raw) == value


def test_a_body_that_may_be_left_out() -> None:
    def handler(item: Item | None = None) -> None: ...

    decode = argument(handler, "POST")["decode"]
    assert decode(b"") is None
    assert decode(b"null") is None
    assert decode(b'{"name":"a","price":1}') == Item("a", 1)
    with pytest.raises(RequestValidationError):
        decode(b"{}")


def test_a_raw_body() -> None:
    def handler(data: Annotated[bytes, Body()]) -> None: ...

    assert argument(handler, "POST") == {"name": "data", "source": "body", "decode": None}


def test_two_bodies() -> None:
    def handler(a: Item, b: Item) -> None: ...

    assert "the body is taken already: put both into one msgspec.Struct" in refused(handler, "POST")


def test_mistakes_name_handler_file_line_and_parameter() -> None:
    def handler(item: Item) -> None: ...

    told = refused(handler)
    assert "handler tests.bolt.test_signature." in told
    assert f"{__file__}:{handler.__code__.co_firstlineno}" in told
    assert "parameter 'item': GET has no body to read Item from: use POST, or" in told


class Unreadable: ...


def test_signatures_that_cannot_work() -> None:
    def unused() -> None: ...
    def star(*args: int) -> None: ...
    def unknown(value: Unreadable) -> None: ...
    def missing(value: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821
    def missing_promise() -> Nowhere: ...  # type: ignore[name-defined] # noqa: F821
    def default_in_path(item_id: int = 1) -> None: ...
    def list_in_path(item_id: list[int]) -> None: ...
    def no_such_piece(other: Annotated[int, Path()]) -> None: ...
    def two(x: Annotated[int, Query(), Header()]) -> None: ...
    def named(x: Annotated[str, Header("x-a")]) -> None: ...
    def named_and_more(x: Annotated[str, Header("x-a")] = "") -> None: ...
    def twice(x: Annotated[int, Query(1)] = 2) -> None: ...
    def wrong_cookie(x: Annotated[str, SetCookie("sid")]) -> None: ...
    def meta(x: Annotated[int, msgspec.Meta(min_length=2)]) -> None: ...
    def cookies(x: Annotated[list[str], Cookie()]) -> None: ...

    cases: list[tuple[Callable[..., Any], str]] = [
        (unused, "the path has {item_id} but no parameter takes it"),
        (star, "parameter '*args': write the parameters out"),
        (unknown, "parameter 'value': Unreadable cannot be read from a request"),
        (missing, "parameter 'value': its annotation 'Nowhere' cannot be read"),
        (missing_promise, "its annotations cannot be read: name 'Nowhere' is not defined"),
        (default_in_path, "takes no default and no None"),
        (list_in_path, "a piece of the path cannot be"),
        (no_such_piece, "the path has no {other}; it has: item_id"),
        (two, "has two sources, Query and Header: keep one"),
        (named, "is 'x-a' its name or its default?"),
        (named_and_more, "is 'x-a' its name or its default?"),
        (twice, "has two defaults, 1 and 2: keep one"),
        (wrong_cookie, "import Cookie from tollway.bolt.params"),
        (meta, "parameter 'x': Can only set `min_length`"),
        (cookies, "a cookie holds one value, not a list"),
    ]
    for handler, part in cases:
        assert part in refused(handler, "GET", "item_id")


def test_inline_is_for_plain_functions() -> None:
    async def handler() -> None: ...

    with pytest.raises(ConfigError, match="inline=True is for `def` handlers: leave it out"):
        compiled(handler, inline=True)
