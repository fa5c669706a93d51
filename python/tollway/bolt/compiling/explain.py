"""Everything that is wrong with a body, not only the first thing.

msgspec stops at the first mistake, because that is fast. A body that it refused is walked again
here, slowly, to list the others too: a client that sends a form wants to hear of every field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import islice
from typing import Any, Final, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from tollway.bolt.compiling.kinds import fields_of, spelled, unwrap
from tollway.bolt.exceptions import FieldProblem

__all__ = ["MOST_PROBLEMS", "code_of", "explain", "problem"]

MOST_PROBLEMS: Final = 50
"""The longest list of mistakes that an answer holds."""

Loc = tuple[str | int, ...]
Walk = Iterator[FieldProblem]

_PLACE: Final = re.compile(r" - at `(?:key in )?\$(?P<path>.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_BYTE: Final = re.compile(r" \(byte (\d+)\)$")
_CODES: Final = (
    (re.compile(r"of length >="), "too_short"),
    (re.compile(r"of length <="), "too_long"),
    (re.compile(r" >= "), "greater_than_equal"),
    (re.compile(r" > "), "greater_than"),
    (re.compile(r" <= "), "less_than_equal"),
    (re.compile(r" < "), "less_than"),
    (re.compile(r"multiple of"), "multiple_of"),
    (re.compile(r"matching regex"), "pattern_mismatch"),
    (re.compile(r"missing required field"), "missing"),
    (re.compile(r"unknown field"), "extra_forbidden"),
    (re.compile(r"^Invalid (enum )?value"), "enum"),
    (re.compile(r"^Expected .*, got "), "type_mismatch"),
)


def code_of(message: str) -> str:
    """The stable code for a message of msgspec: ``too_short``, ``type_mismatch`` …"""
    for pattern, code in _CODES:
        if pattern.search(message):
            return code
    return "value_error"


def problem(code: str, loc: Loc, message: str) -> FieldProblem:
    """One entry of the list."""
    return {"type": code, "loc": list(loc), "msg": message}


def explain(annotation: Any, raw: bytes, first: Exception) -> list[FieldProblem]:
    """Every mistake in ``raw``, which ``annotation`` refuses with the error ``first``."""
    if not isinstance(first, msgspec.ValidationError):
        return [_malformed(raw, first)]
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # The mistake that was found first hides one of syntax behind it.
        return [_malformed(raw, error)]
    try:
        found = list(islice(_walk(annotation, document, ("body",)), MOST_PROBLEMS))
    except RecursionError:  # a walk takes more of the stack than reading does
        found = []
    return found or [_located(first, ("body",))]


def _malformed(raw: bytes, error: Exception) -> FieldProblem:
    """The answer to a body that is no JSON: says where, by line and column."""
    if not raw.strip():
        return problem("missing", ("body",), "a JSON body is required")
    if isinstance(error, RecursionError):
        return problem("json_invalid", ("body",), "the JSON is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        offset, what = len(raw), "text in JSON must be UTF-8"
    elif "truncated" in str(error):
        offset, what = len(raw), "the JSON ends too early"
    else:
        at = _BYTE.search(str(error))
        offset = int(at.group(1)) if at else 0
        what = _BYTE.sub("", str(error)).removeprefix("JSON is malformed: ")
        what = f"the body is not JSON: {what}"
    before = raw[:offset]
    line = before.count(b"\n") + 1
    column = offset - (before.rfind(b"\n") + 1) + 1
    where = "" if isinstance(error, UnicodeDecodeError) else f" (line {line}, column {column})"
    loc: Loc = ("body",) if not where else ("body", line, column)
    return problem("json_invalid", loc, what + where)


def _located(error: Exception, loc: Loc) -> FieldProblem:
    """What msgspec said, with the place it named taken into ``loc``."""
    message = str(error)
    place = _PLACE.search(message)
    if place:
        message = message[: place.start()]
        for name, index in _STEP.findall(place.group("path")):
            loc += (name or (int(index) if index.isdigit() else index),)
    missing = re.fullmatch(r"Object missing required field `(.+)`", message)
    if missing:
        return problem("missing", (*loc, missing.group(1)), "this field is required")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", message)
    if unknown:
        return problem("extra_forbidden", (*loc, unknown.group(1)), "this field is not known")
    return problem(code_of(message), loc, spelled(message))


def _walk(annotation: Any, value: Any, loc: Loc) -> Walk:
    """The mistakes of ``value``: those of its parts, or else its own."""
    count = 0
    for entry in _parts(annotation, value, loc):
        count += 1
        yield entry
    if count:
        return
    try:
        msgspec.convert(value, annotation, str_keys=True)
    except msgspec.ValidationError as error:
        yield _located(error, loc)


def _parts(annotation: Any, value: Any, loc: Loc) -> Walk:
    core = unwrap(annotation).core
    origin, arguments = get_origin(core) or core, get_args(core)
    if isinstance(value, dict):
        members = _members(core)
        if members is not None:
            yield from _object(members, value, loc, _forbids(core))
        elif origin is dict and len(arguments) == 2:
            for key, item in value.items():
                yield from _walk(arguments[1], item, (*loc, key))
    elif isinstance(value, list) and arguments and origin in (list, set, frozenset, tuple):
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(arguments) == len(value):
                for index, (kind, item) in enumerate(zip(arguments, value, strict=True)):
                    yield from _walk(kind, item, (*loc, index))
            return
        for index, item in enumerate(value):
            yield from _walk(arguments[0], item, (*loc, index))


Member = tuple[str, Any, bool]
"""A field's name on the wire, its type, and whether it is required."""


def _members(core: Any) -> list[Member] | None:
    """The fields of a type that is written as a JSON object with known names."""
    found = fields_of(core)
    if found is not None:
        if core.__struct_config__.array_like or core.__struct_config__.tag_field:
            return None
        return [(field.encode_name, field.type, field.required) for field in found]
    origin: Any = get_origin(core) or core
    reader: Callable[[Any], list[Member]] | None = None
    if is_typeddict(origin):
        reader = _of_typed_dict
    elif isinstance(origin, type) and is_dataclass(origin):
        reader = _of_dataclass
    return reader(origin) if reader else None


def _of_typed_dict(core: Any) -> list[Member]:
    hints = get_type_hints(core, include_extras=True)
    return [(name, _unmarked(hint), name in core.__required_keys__) for name, hint in hints.items()]


def _of_dataclass(core: Any) -> list[Member]:
    hints = get_type_hints(core, include_extras=True)
    return [
        (
            field.name,
            hints[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(core)
        if field.init
    ]


def _unmarked(hint: Any) -> Any:
    """A TypedDict's member without ``Required[...]`` and the like."""
    while getattr(get_origin(hint), "_name", "") in ("Required", "NotRequired", "ReadOnly"):
        hint = get_args(hint)[0]
    return hint


def _forbids(core: Any) -> bool:
    config = getattr(core, "__struct_config__", None)
    return bool(config and config.forbid_unknown_fields)


def _object(members: list[Member], value: dict[str, Any], loc: Loc, forbids: bool) -> Walk:
    for name, annotation, required in members:
        if name in value:
            yield from _walk(annotation, value[name], (*loc, name))
        elif required:
            yield problem("missing", (*loc, name), "this field is required")
    if forbids:
        known = {name for name, _, _ in members}
        for name in value:
            if name not in known:
                yield problem("extra_forbidden", (*loc, name), "this field is not known")
