"""What happens between the values that the server read and the handler's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tollway.bolt.compiling.explain import explain, problem
from tollway.bolt.compiling.kinds import Unwrapped, converter
from tollway.bolt.exceptions import RequestValidationError
from tollway.bolt.params import MISSING

__all__ = ["BodyReader", "Group", "container"]

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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not raw and default is not MISSING:
                return default
            # Caught here, where it is sure to be the body: the same error out of a handler is
            # a fault of the server.
            raise RequestValidationError(explain(annotation, raw, error)) from None

    return decode


def place_of(source: str) -> str:
    """The word that stands first in the ``loc`` of a mistake."""
    return "body" if source in ("form", "file") else source


@dataclass(slots=True)
class Group:
    """Builds a Struct out of parameters, one for each field."""

    struct: Any
    source: str
    names: list[str]
    absent: Any = ABSENT

    def __call__(self, *values: Any) -> Any:
        given = {
            name: value
            for name, value in zip(self.names, values, strict=True)
            if value is not ABSENT
        }
        try:
            return self.struct(**given)
        except (ValueError, TypeError) as error:
            # The struct's own __post_init__ refused.
            entry = problem("value_error", (place_of(self.source),), str(error))
            raise RequestValidationError([entry]) from error


def container(kind: Callable[[Any], Any], found: Unwrapped) -> Callable[[Any], Any] | None:
    """What makes a list of values the container that the handler asked for, or None."""
    if not found.constrained:
        return None if kind is list else kind
    # Fails here, at start-up, when msgspec cannot apply a constraint to the type.
    msgspec.json.Decoder(found.type)
    return converter(found.type)
