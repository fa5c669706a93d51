"""From an exception to the problem document (RFC 9457) that the client reads."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from tollway.bolt.exceptions import (
    FieldProblem,
    HTTPException,
    ValidationException,
    phrase,
)
from tollway.bolt.responses import encode_json

__all__ = ["Answer", "ErrorHandler", "problem_details"]

Answer = tuple[int, list[tuple[str, str]], bytes]
"""A status, headers and a body, as the server takes them."""

PROBLEM_JSON: Final = "application/problem+json"
_DETAIL_500: Final = "the server failed to answer this request"

logger = logging.getLogger("tollway.bolt")


def problem_details(
    status_code: int,
    detail: str,
    headers: list[tuple[str, str]] | None = None,
    **members: Any,
) -> Answer:
    """A problem document as an answer. Members that are None are left out."""
    document = {
        "type": "about:blank",
        "title": phrase(status_code),
        "status": status_code,
        "detail": detail,
    }
    document.update({name: value for name, value in members.items() if value is not None})
    typed = ("content-type", PROBLEM_JSON)
    return status_code, [typed, *(headers or ())], encode_json(document)


def invalid(errors: list[FieldProblem], detail: str = "") -> Answer:
    """422 with every mistake listed."""
    count = len(errors)
    said = (
        detail or f"{count} part{'s' if count != 1 else ''} of the request {_be(count)} not valid"
    )
    return problem_details(422, said, errors=errors)


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


class ErrorHandler:
    """Answers what a handler raised.

    With ``debug`` a 500 tells the exception and its traceback: as JSON, or to browsers as Django's
    own page. ``on_database_error`` is called when a database driver raised, so that a broken
    connection is not used again; ``on_unexpected`` with everything that becomes a 500.
    """

    def __init__(self, debug: bool = False) -> None:
        self.debug = debug
        self.on_database_error: Callable[[], object] | None = None
        self.on_unexpected: Callable[[BaseException], object] | None = None

    def __call__(self, request: Any, error: BaseException) -> Answer:
        """The answer to a request whose handler raised ``error``."""
        return self.expected(error) or self._unexpected(request, error)

    def expected(self, error: BaseException) -> Answer | None:
        """The answer to what is raised to be answered; None for everything else."""
        if isinstance(error, ValidationException):
            return invalid(error.errors, "" if error.detail == phrase(422) else error.detail)
        if isinstance(error, HTTPException):
            return self._http(error)
        return self._django(error)

    def _http(self, error: HTTPException) -> Answer:
        if error.body is not None:
            typed = ("content-type", "application/json")
            return error.status_code, [typed, *error.headers], encode_json(error.body)
        return problem_details(error.status_code, error.detail, error.headers, extra=error.extra)

    def _django(self, error: BaseException) -> Answer | None:
        """What Django's own exceptions mean. None of its modules is imported for this."""
        core: Any = sys.modules.get("django.core.exceptions")
        if core is None:
            return None
        http: Any = sys.modules.get("django.http.response") or sys.modules.get("django.http")
        if http is not None and isinstance(error, http.Http404):
            return problem_details(404, _first_text(error) or "there is no such thing")
        if isinstance(error, core.PermissionDenied):
            return problem_details(403, _first_text(error) or "you may not do this")
        if isinstance(error, core.ValidationError):
            return invalid(_fields_of(error))
        if isinstance(error, core.SuspiciousOperation):
            logger.warning("a suspicious request was refused: %s", error)
            return problem_details(400, "the request was refused")
        return None

    def _unexpected(self, request: Any, error: BaseException) -> Answer:
        logger.error(
            "%s %s failed: %s",
            request.method,
            request.path,
            type(error).__name__,
            exc_info=(type(error), error, error.__traceback__),
        )
        if self.on_unexpected is not None:
            self.on_unexpected(error)
        database: Any = sys.modules.get("django.db.utils")
        if database is not None and isinstance(error, database.Error) and self.on_database_error:
            self.on_database_error()
        if not self.debug:
            return problem_details(500, _DETAIL_500)
        if "text/html" in request.headers.get("accept", ""):
            return 500, [("content-type", "text/html; charset=utf-8")], _debug_page(error)
        said = "".join(traceback.format_exception_only(error)).strip()
        lines = "".join(traceback.format_exception(error)).splitlines()
        return problem_details(500, said, traceback=lines)


def _debug_page(error: BaseException) -> bytes:
    """The page that ``runserver`` shows, settings with secrets cleansed."""
    from django.views.debug import ExceptionReporter

    page: str = ExceptionReporter(
        None, type(error), error, error.__traceback__
    ).get_traceback_html()
    return page.encode()


def _first_text(error: BaseException) -> str:
    """The text an exception was raised with; Http404 of Django may hold a dict instead."""
    return error.args[0] if error.args and isinstance(error.args[0], str) else ""


def _fields_of(error: Any) -> list[FieldProblem]:
    """The entries of a Django ValidationError, field by field where it has fields."""
    if hasattr(error, "error_dict"):
        named = [(field, single) for field, errors in error.error_dict.items() for single in errors]
    else:
        named = [("__all__", single) for single in error.error_list]
    return [
        {
            "type": single.code or "value_error",
            "loc": ["body"] if field == "__all__" else ["body", field],
            "msg": " ".join(str(message) for message in single.messages),
        }
        for field, single in named
    ]
