"""Every mistake of a body, not only the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pytest

from tollway.bolt.compiling.binding import BodyReader
from tollway.bolt.compiling.explain import MOST_PROBLEMS


class Line(msgspec.Struct):
    sku: Annotated[str, msgspec.Meta(pattern="^[A-Z]+$")]
    count: Annotated[int, msgspec.Meta(gt=0, le=9)]


class Order(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    order_no: int
    lines: list[Line]
    note: str | None = None
    extra: dict[str, float] = {}
    pair: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        if self.order_no == 13:
            raise ValueError("13 brings bad luck")


class Address(TypedDict):
    street: str
    floor: NotRequired[int]


@dataclass
class Person:
    name: str
    address: Address
    age: int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    bones: int


def told(annotation: Any, raw: bytes) -> list[tuple[str, list[Any]]]:
    return [(entry["type"], entry["loc"]) for entry in BodyReader(annotation).errors(raw)]


def test_a_valid_body_has_no_mistakes() -> None:
    assert told(Order, b'{"orderNo": 1, "lines": [{"sku": "A", "count": 1}]}') == []


def test_all_mistakes_at_any_depth() -> None:
    raw = b"""{"orderNo": "x", "lines": [{"sku": "a", "count": 0}, {"sku": "B"}, 7],
               "note": 5, "extra": {"a": 1, "b": "c"}, "pair": [1, 2], "colour": "red"}"""
    assert told(Order, raw) == [
        ("type_mismatch", ["body", "orderNo"]),
        ("pattern_mismatch", ["body", "lines", 0, "sku"]),
        ("greater_than_equal", ["body", "lines", 0, "count"]),
        ("missing", ["body", "lines", 1, "count"]),
        ("type_mismatch", ["body", "lines", 2]),
        ("type_mismatch", ["body", "note"]),
        ("type_mismatch", ["body", "extra", "b"]),
        ("type_mismatch", ["body", "pair", 1]),
        ("extra_forbidden", ["body", "colour"]),
    ]


def test_messages_are_for_people() -> None:
    [entry] = BodyReader(Order).errors(b'{"orderNo": "x", "lines": []}')
    assert entry["msg"] == "Expected a whole number, got text"


def test_a_rule_of_the_struct_itself() -> None:
    [entry] = BodyReader(Order).errors(b'{"orderNo": 13, "lines": []}')
    assert (entry["type"], entry["msg"]) == ("value_error", "13 brings bad luck")


def test_dataclasses_and_typed_dicts() -> None:
    assert told(Person, b'{"age": "old", "address": {"floor": "top"}}') == [
        ("missing", ["body", "name"]),
        ("missing", ["body", "address", "street"]),
        ("type_mismatch", ["body", "address", "floor"]),
        ("type_mismatch", ["body", "age"]),
    ]


def test_tagged_unions_tell_what_msgspec_tells() -> None:
    assert told(Cat | Dog, b'{"type": "Cat", "lives": "nine"}') == [
        ("type_mismatch", ["body", "lives"])
    ]
    assert told(Cat | Dog, b'{"type": "Cow"}') == [("enum", ["body", "type"])]


def test_a_long_list_of_mistakes_is_cut() -> None:
    assert len(told(list[int], b"[" + b",".join([b'"x"'] * 1000) + b"]")) == MOST_PROBLEMS


@pytest.mark.parametrize(
    ("raw", "loc", "part"),
    [
        (b"", ["body"], "a JSON body is required"),
        (b'{"orderNo": 1,', ["body", 1, 15], "ends too early (line 1, column 15)"),
        (b'{\n  "orderNo": 1,\n  x}', ["body", 3, 3], "(line 3, column 3)"),
        (b'{"orderNo": "x", "lines": [,]}', ["body", 1, 28], "(line 1, column 28)"),
        (b'{"note": "\xff"}', ["body"], "must be UTF-8"),
    ],
)
def test_bodies_that_are_no_json(raw: bytes, loc: list[Any], part: str) -> None:
    [entry] = BodyReader(Order).errors(raw)
    assert entry["type"] == ("missing" if not raw else "json_invalid")
    assert entry["loc"] == loc
    assert part in entry["msg"]


class Box(msgspec.Struct):
    inside: Box | None = None
    count: int = 0


def nested(depth: int, core: bytes, ends: bool = True) -> bytes:
    return b'{"inside":' * depth + core + b"}" * (depth if ends else 0)


@pytest.mark.parametrize("annotation", [Any, Box, Order, list[Any]])
@pytest.mark.parametrize("raw", [b"[" * 100_000, nested(50_000, b"{}"), nested(9_999, b"", False)])
def test_what_is_nested_too_deeply_is_refused(annotation: Any, raw: bytes) -> None:
    for _ in range(2):
        entry = BodyReader(annotation).errors(raw)[0]
        assert entry["loc"][0] == "body", entry


@pytest.mark.parametrize("depth", [10, 400, 800])
def test_a_mistake_in_the_depth_is_found_or_told_as_it_comes(depth: int) -> None:
    """To walk into a body takes more of the stack than to read it."""
    [entry] = BodyReader(Box).errors(nested(depth, b'{"count": "two"}'))
    assert (entry["type"], entry["loc"][-1]) == ("type_mismatch", "count")
    assert BodyReader(Box).errors(nested(depth, b"{}")) == []
