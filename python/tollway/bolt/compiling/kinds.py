"""Types of parameters: which of them the server reads in Rust, and what Python adds to that."""

from __future__ import annotations

import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NewType,
    Union,
    get_args,
    get_origin,
    is_typeddict,
)

import msgspec

from tollway.bolt.cookies import Cookie as SetCookie
from tollway.bolt.datastructures import UploadFile
from tollway.bolt.params import Param

__all__ = [
    "Scalar",
    "Unwrapped",
    "converter",
    "element_of",
    "fields_of",
    "is_document",
    "is_file",
    "is_scalar",
    "resolve",
    "sequence_of",
    "spelled",
    "unwrap",
]

NATIVE: Final[dict[Any, str]] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    uuid.UUID: "uuid",
    date: "date",
    time: "time",
    datetime: "datetime",
    Decimal: "decimal",
}
_SEQUENCES: Final = (list, set, frozenset, tuple)
_OTHER_SCALARS: Final = (timedelta,)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """An annotation taken apart."""

    type: Any
    """The type with its constraints, without markers and without ``None``."""
    core: Any
    """The type itself."""
    optional: bool
    """Whether ``None`` was one of the choices."""
    markers: tuple[Param, ...]
    constrained: bool
    """Whether a ``msgspec.Meta`` came with it."""


def resolve(annotation: Any) -> Any:
    """The type that a ``NewType`` or a ``type`` alias stands for."""
    while True:
        if isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def unwrap(annotation: Any) -> Unwrapped:
    """Take an annotation apart: markers, constraints, ``None`` and the type that is left."""
    metas: list[Any] = []
    markers: list[Param] = []
    optional = False
    core = resolve(annotation)
    while True:
        if get_origin(core) is Annotated:
            core, *extras = get_args(core)
            for extra in extras:
                if isinstance(extra, type) and issubclass(extra, Param):
                    extra = extra()
                if isinstance(extra, SetCookie) or extra is SetCookie:
                    raise TypeError(
                        "this Cookie is one to set; to read one, import Cookie from "
                        "tollway.bolt.params"
                    )
                if isinstance(extra, Param):
                    markers.append(extra)
                elif isinstance(extra, msgspec.Meta):
                    metas.append(extra)
        elif get_origin(core) in (Union, types.UnionType):
            choices = get_args(core)
            rest = tuple(choice for choice in choices if choice is not type(None))
            optional = optional or len(rest) < len(choices)
            core = Union[rest]  # noqa: UP007 - made of a tuple
            if len(rest) > 1:
                break
        else:
            break
        core = resolve(core)
    for marker in markers:
        meta = marker.meta()
        if meta is not None:
            metas.append(meta)
    whole = Annotated[core, *metas] if metas else core
    return Unwrapped(whole, core, optional, tuple(markers), bool(metas))


def is_scalar(annotation: Any) -> bool:
    """Whether one piece of text can hold a value of this type."""
    core = unwrap(annotation).core
    if core in NATIVE or core in _OTHER_SCALARS or core is Any:
        return True
    if get_origin(core) is Literal:
        return True
    if get_origin(core) in (Union, types.UnionType):
        return all(is_scalar(choice) for choice in get_args(core))
    return isinstance(core, type) and issubclass(core, Enum)


def sequence_of(core: Any) -> tuple[Callable[[Any], Any], Any] | None:
    """The container and the element type of a list, set, frozenset or uniform tuple of scalars."""
    found = element_of(core)
    return found if found is not None and is_scalar(found[1]) else None


def element_of(core: Any) -> tuple[Callable[[Any], Any], Any] | None:
    """The container and the element type of a list, set, frozenset or uniform tuple."""
    origin = get_origin(core) or core
    if origin not in _SEQUENCES:
        return None
    arguments = get_args(core)
    if origin is tuple:
        if arguments and (len(arguments) != 2 or arguments[1] is not Ellipsis):
            return None
        arguments = arguments[:1]
    return origin, resolve(arguments[0]) if arguments else str


def is_file(core: Any) -> bool:
    """Whether a type is a file of a form, or a list of files."""
    found = element_of(core)
    return (found[1] if found else core) is UploadFile


def fields_of(core: Any) -> tuple[msgspec.structs.FieldInfo, ...] | None:
    """The fields of a ``msgspec.Struct``; None for any other type."""
    if isinstance(core, type) and issubclass(core, msgspec.Struct):
        return msgspec.structs.fields(core)
    return None


def is_document(core: Any) -> bool:
    """Whether a type can only be read from a document such as a JSON body."""
    core = unwrap(core).core
    origin = get_origin(core) or core
    if get_origin(core) in (Union, types.UnionType):
        return any(is_document(choice) for choice in get_args(core))
    if fields_of(core) is not None or is_typeddict(origin) or is_dataclass(origin):
        return True
    if isinstance(origin, type) and (
        hasattr(origin, "__attrs_attrs__") or issubclass(origin, dict)
    ):
        return True
    return origin in _SEQUENCES and sequence_of(core) is None


class Scalar:
    """How one piece of text becomes a value: a kind the server knows, and what Python adds."""

    __slots__ = ("decode", "kind")

    def __init__(self, annotation: Any) -> None:
        found = unwrap(annotation)
        self.kind = NATIVE.get(found.core, "str")
        self.decode: Callable[[Any], Any] | None = None
        if found.core is Any or (found.core in NATIVE and not found.constrained):
            return
        # Fails here, at start-up, when msgspec cannot apply a constraint to the type.
        msgspec.json.Decoder(found.type)
        self.decode = converter(found.type)


def converter(target: Any) -> Callable[[Any], Any]:
    """What turns text, or a list, into a type of msgspec, or raises ValueError."""
    convert, wrong = msgspec.convert, msgspec.ValidationError

    def decode(value: Any) -> Any:
        try:
            return convert(value, target, strict=False)
        except wrong as error:
            raise ValueError(spelled(str(error))) from None

    return decode


def spelled(message: str) -> str:
    """A message of msgspec for people who never heard of Python types."""
    for before, after in _WORDS:
        message = message.replace(before, after)
    return message


_WORDS: Final = (
    ("Expected `str` of length", "Expected text of length"),
    ("Expected `array` of length", "Expected a list of length"),
    ("Expected `object` of length", "Expected an object of length"),
    ("`str`", "text"),
    ("`int`", "a whole number"),
    ("`float`", "a number"),
    ("`bool`", "true or false"),
    ("`null`", "null"),
    ("`array`", "a list"),
    ("`object`", "an object"),
    ("`uuid`", "a UUID"),
    ("`datetime`", "a date and time"),
    ("`date`", "a date"),
    ("`time`", "a time"),
    ("`decimal`", "a decimal number"),
    ("`duration`", "a duration"),
)
