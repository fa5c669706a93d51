"""What a route promises to answer, and that it keeps the promise.

A value that a handler returns is brought into the promised form: fields that the model does not
have are left out, attributes of objects are read. One that does not fit is an error of the
server, told in the log and not to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args, get_origin

import msgspec
from django.http.response import HttpResponseBase

from tollway.bolt.carrying import carried
from tollway.bolt.compiling.explain import explain
from tollway.bolt.compiling.kinds import element_of, fields_of, is_document, unwrap
from tollway.bolt.exceptions import ResponseValidationError
from tollway.bolt.responses import Response, encode_json
from tollway.errors import ConfigError

__all__ = ["Promise", "promised"]

NO_MODEL: Final = (None, Any, dict, Mapping)
_JSON: Final = "application/json"


class Promise:
    """The models of one route, by status. Without any, everything is sent as it is."""

    def __init__(self, where: str, status_code: int, models: dict[int, Any], each: bool) -> None:
        self.models = models
        """The types, for descriptions of the API too."""
        self.status_code = status_code
        self.where = where
        self._each = each
        self._readers = {status: self._reader(status, model) for status, model in models.items()}
        usual = self._readers.get(status_code)
        self.encode: Callable[[Any], bytes] = usual.encode if usual else encode_json
        """A returned value as JSON."""

    def _reader(self, status: int, model: Any) -> _Reader:
        try:
            return _Reader(f"the answer {status} of {self.where}", model)
        except TypeError as error:
            raise ConfigError(f"handler {self.where}, response_model: {error}") from None

    @property
    def checked(self) -> Callable[[Any], Any] | None:
        """Checks what a handler returned, where built responses are promised too."""
        return self._check if self._each else None

    def built(self, value: Any) -> Any:
        """The response for a returned value, made before the server would make it."""
        if isinstance(value, HttpResponseBase):
            value = carried(value)
        if self._each:
            value = self._check(value)
        if isinstance(value, Response | str | bytes) or self.status_code == 204:
            return value
        return Response(self.encode(value), self.status_code, media_type=_JSON)

    def _check(self, value: Any) -> Any:
        if isinstance(value, Response):
            reader = self._readers.get(value.status_code)
            whole = isinstance(value.body, bytes)
            if reader is not None and whole and _is_json(value):
                reader.check(value.body)
        return value


def _is_json(response: Response) -> bool:
    types = [value for name, value in response.headers if name.lower() == "content-type"]
    return bool(types) and types[-1].partition(";")[0].strip() == _JSON


class _Reader:
    """Brings values into the form of one model."""

    def __init__(self, what: str, model: Any) -> None:
        self.what = what
        self.model = model
        self.decode = msgspec.json.Decoder(model).decode
        core = unwrap(model).core
        listed = element_of(core)
        self.struct = core if fields_of(core) is not None else None
        self.element = listed[1] if listed and fields_of(listed[1]) is not None else None

    def encode(self, value: Any) -> bytes:
        if self._is_exact(value):
            # Structs do not check what they are made of: what they become is checked.
            raw = encode_json(value)
            self.check(raw)
            return raw
        if hasattr(value, "_fetch_all"):
            value = list(value)
        try:
            return encode_json(msgspec.convert(value, self.model, from_attributes=True))
        except msgspec.ValidationError as error:
            raise self._broken(value, error) from None

    def check(self, raw: bytes) -> None:
        try:
            self.decode(raw)
        except msgspec.ValidationError as error:
            raise ResponseValidationError(
                self.what, _in_response(explain(self.model, raw, error))
            ) from None

    def _is_exact(self, value: Any) -> bool:
        if self.struct is not None:
            return type(value) is self.struct
        element = self.element
        return (
            element is not None
            and type(value) is list
            and all(type(item) is element for item in value)
        )

    def _broken(self, value: Any, error: msgspec.ValidationError) -> ResponseValidationError:
        try:
            raw = encode_json(value)
        except TypeError:
            # An object whose attributes are read; msgspec names the first that does not fit.
            entry = {"type": "value_error", "loc": ["response"], "msg": str(error)}
            return ResponseValidationError(self.what, [entry])  # type: ignore[list-item]
        return ResponseValidationError(self.what, _in_response(explain(self.model, raw, error)))


def _in_response(entries: list[Any]) -> list[Any]:
    return [entry | {"loc": ["response", *entry["loc"][1:]]} for entry in entries]


def promised(where: str, status_code: int, given: Any, annotation: Any, validates: bool) -> Promise:
    """What a route promises by ``response_model`` or its handler's return annotation."""
    if not validates:
        return Promise(where, status_code, {}, each=False)
    if isinstance(given, Mapping):
        models = {status: model for status, model in given.items() if model not in NO_MODEL}
        for status in models:
            if not isinstance(status, int) or not 200 <= status <= 599:
                raise ConfigError(
                    f"handler {where}, response_model: {status!r} is not a status from 200 to 599"
                )
        return Promise(where, status_code, models, each=True)
    if given is None and annotation is not None:
        row = _row_of(annotation)
        if row is not None:
            raise ConfigError(
                f"handler {where} returns {row.__name__}, and a model of Django does not say what "
                "may be sent: write a msgspec.Struct with those fields, as the return annotation "
                "or as response_model="
            )
        given = annotation if _is_model(annotation) else None
    models = {} if given is None else {status_code: given}
    return Promise(where, status_code, models, each=False)


def _row_of(annotation: Any) -> type | None:
    """The model of the database that a return annotation is, or is a list of."""
    from django.db.models import Model

    core = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return core if isinstance(core, type) and issubclass(core, Model) else None


def _is_model(annotation: Any) -> bool:
    """Whether a return annotation says more than that there is an answer."""
    try:
        core = unwrap(annotation).core
    except TypeError:
        return False
    if core in NO_MODEL or (isinstance(core, type) and issubclass(core, Response)):
        return False
    listed = element_of(core)
    inner = unwrap(listed[1]).core if listed else core
    return inner not in NO_MODEL and is_document(inner) and inner is not dict
