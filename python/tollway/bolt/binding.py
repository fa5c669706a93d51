"""What happens between the values that the server read and the handler's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tollway.bolt.exceptions import RequestValidationError
from tollway.bolt.explain import code_of, explain, problem
from tollway.bolt.kinds import Unwrapped, spelled
from tollway.bolt.params import MISSING

__all__ = ["BodyReader", "Group", "container", "mutable"]

ABSENT: Final = object()
"""Stands for a parameter that was not sent, where the Struct has the default."""


class BodyReader:
    """Reads one type from JSON bodies."""

    __slots__ = ("annotation", "decode")

    def __init__(self, annotation: Any, default: Any = MISSING, *, raw: bool = False) -> None:
        self.annotation = annotation
        self.decode: Callable[[bytes], Any] | None = None
        if not raw:
            # Raises TypeError, at start-up, for a type that JSON cannot hold.
            self.decode = _body_decoder(annotation, msgspec.json.Decoder(annotation), default)

    def errors(self, raw: bytes) -> list[Any]:
        """Everything that is wrong with a body; nothing when it is valid."""
        try:
            if self.decode is not None:
                self.decode(raw)
        except RequestValidationError as error:
            return error.errors
        return []


def _body_decoder(
    annotation: Any, decoder: msgspec.json.Decoder[Any], default: Any
) -> Callable[[bytes], Any]:
    read = decoder.decode

    def decode(raw: bytes) -> Any:
        try:
            return read(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not raw and default is not MISSING:
                return default
            # Caught here, where it is sure to be the body: the same error out of a handler is
            # a fault of the server.
            raise RequestValidationError(explain(annotation, raw, error)) from None

    return decode


@dataclass(slots=True)
class Group:
    """Builds a Struct out of parameters, one for each field."""

    struct: Any
    source: str
    names: list[str]
    builders: list[Any] = field(default_factory=list)
    absent: Any = ABSENT

    def __call__(self, *values: Any) -> Any:
        given = {
            name: build(value) if build else value
            for name, build, value in zip(self.names, self.builders, values, strict=True)
            if value is not ABSENT
        }
        try:
            return self.struct(**given)
        except (ValueError, TypeError) as error:
            # The struct's own __post_init__ refused.
            entry = problem("value_error", (self.source,), str(error))
            raise RequestValidationError([entry]) from error


def container(
    kind: Callable[[Any], Any], found: Unwrapped, default: Any, source: str, wire: str
) -> Callable[[Any], Any] | None:
    """What makes a list of values the container that the handler asked for, or None."""
    if not found.constrained:
        plain = kind is list and not isinstance(default, list)
        return None if plain else _contained(kind)
    # Fails here, at start-up, when msgspec cannot apply a constraint to the type.
    msgspec.json.Decoder(found.type)

    def build(values: Any) -> Any:
        if not isinstance(values, list):
            return values
        try:
            return msgspec.convert(values, found.type, strict=False)
        except msgspec.ValidationError as error:
            entry = problem(code_of(str(error)), (source, wire), spelled(str(error)))
            raise RequestValidationError([entry]) from None

    return build


def _contained(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build(values: Any) -> Any:
        # A default that is None stays None; one that is a list is copied for each request.
        return kind(values) if isinstance(values, list) else values

    return build


def mutable(default: Any) -> Callable[[Any], Any] | None:
    """What keeps a handler from changing a default for everybody, or None when it cannot."""
    if not isinstance(default, list | dict | set):
        return None
    return lambda value: value.copy() if value is default else value
