"""Exceptions that a handler raises to answer with an HTTP error.

Each becomes a problem document (RFC 9457)::

    from tollway.bolt.exceptions import NotFound

    raise NotFound(detail="no item has the id 7")

answers 404 with ``{"type": "about:blank", "title": "Not Found", "status": 404,
"detail": "no item has the id 7"}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, TypedDict

__all__ = [
    "BadGateway",
    "BadRequest",
    "BoltException",
    "ClientException",
    "Conflict",
    "FieldProblem",
    "Forbidden",
    "GatewayTimeout",
    "Gone",
    "HTTPException",
    "InternalServerError",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "NotImplemented",
    "RequestValidationError",
    "ResponseValidationError",
    "ServerException",
    "ServiceUnavailable",
    "TooManyRequests",
    "Unauthorized",
    "UnprocessableEntity",
    "ValidationException",
    "phrase",
]

# Phrases of RFC 9110 that the standard library of older Pythons spells as they were before.
_CURRENT_PHRASES = {
    413: "Content Too Large",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def phrase(status_code: int) -> str:
    """The words that stand for a status code: ``phrase(404)`` is ``"Not Found"``."""
    if status_code in _CURRENT_PHRASES:
        return _CURRENT_PHRASES[status_code]
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "Error"


class FieldProblem(TypedDict):
    """One mistake in a request: a stable code, the place, and a sentence for people."""

    type: str
    loc: list[str | int]
    msg: str


class BoltException(Exception):
    """The base of everything this module defines."""


class HTTPException(BoltException):
    """Answers with ``status_code``.

    ``detail`` is the sentence in the answer (the status phrase if left out), ``headers`` are
    added to it, ``extra`` is sent as the member ``extra`` of the problem document. A ``body``
    replaces the whole document and is sent as JSON.
    """

    status_code: int = 500

    def __init__(
        self,
        status_code: int | None = None,
        detail: str = "",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        extra: Any = None,
        body: Any = None,
    ) -> None:
        if status_code is not None:
            self.status_code = status_code
        if not 400 <= self.status_code <= 599:
            raise ValueError(
                f"HTTPException needs a status code from 400 to 599, not {self.status_code}; "
                "return a Response for any other"
            )
        self.detail = detail or phrase(self.status_code)
        pairs = headers.items() if isinstance(headers, Mapping) else (headers or ())
        self.headers: list[tuple[str, str]] = list(pairs)
        self.extra = extra
        self.body = body
        super().__init__(f"{self.status_code}: {self.detail}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status_code}, detail={self.detail!r})"


class NamedException(HTTPException):
    """An exception with a status of its own: ``detail`` comes first."""

    def __init__(
        self,
        detail: str = "",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        extra: Any = None,
        body: Any = None,
    ) -> None:
        super().__init__(None, detail, headers, extra, body)


class ClientException(NamedException):
    """The base of the named 4xx exceptions."""

    status_code = 400


class ServerException(NamedException):
    """The base of the named 5xx exceptions."""

    status_code = 500


class BadRequest(ClientException):
    """400: the request cannot be understood."""

    status_code = 400


class Unauthorized(ClientException):
    """401: the request needs credentials. Give ``headers={"WWW-Authenticate": ...}``."""

    status_code = 401


class Forbidden(ClientException):
    """403: the client may not do this."""

    status_code = 403


class NotFound(ClientException):
    """404: there is no such thing."""

    status_code = 404


class MethodNotAllowed(ClientException):
    """405: not with this method."""

    status_code = 405


class NotAcceptable(ClientException):
    """406: none of the formats that the client accepts."""

    status_code = 406


class Conflict(ClientException):
    """409: the state of the resource forbids it."""

    status_code = 409


class Gone(ClientException):
    """410: it was there and will not come back."""

    status_code = 410


class UnprocessableEntity(ClientException):
    """422: well formed, but not valid."""

    status_code = 422


class TooManyRequests(ClientException):
    """429: come back later. Give ``headers={"Retry-After": seconds}``."""

    status_code = 429


class InternalServerError(ServerException):
    """500: the server failed."""

    status_code = 500


class NotImplemented(ServerException):
    """501: the server does not know how."""

    status_code = 501


class BadGateway(ServerException):
    """502: a server behind this one answered nonsense."""

    status_code = 502


class ServiceUnavailable(ServerException):
    """503: not now. Give ``headers={"Retry-After": seconds}``."""

    status_code = 503


class GatewayTimeout(ServerException):
    """504: a server behind this one did not answer in time."""

    status_code = 504


class ValidationException(HTTPException):
    """The base of errors that list what is wrong, entry by entry."""

    status_code = 422

    def __init__(self, errors: Iterable[FieldProblem], detail: str = "") -> None:
        self.errors: list[FieldProblem] = list(errors)
        super().__init__(None, detail)


class ResponseValidationError(BoltException):
    """A handler returned what its route does not promise: answered with 500, told in the log.

    ``errors`` lists every mistake.
    """

    def __init__(self, what: str, errors: Iterable[FieldProblem]) -> None:
        self.errors: list[FieldProblem] = list(errors)
        told = "; ".join(
            f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}"
            for entry in self.errors
        )
        super().__init__(f"{what} is not what it promises: {told}")


class RequestValidationError(ValidationException):
    """422: the request is not valid; ``errors`` lists every mistake.

    Raise it for a rule that a type cannot express::

        raise RequestValidationError(
            [{"type": "date_order", "loc": ["body", "end"], "msg": "end is before start"}]
        )
    """
