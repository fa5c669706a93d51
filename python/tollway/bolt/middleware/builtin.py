"""Middleware that are ready to use."""

from __future__ import annotations

import logging
from collections.abc import Generator
from time import perf_counter
from typing import Any

from tollway.bolt.error_handlers import problem_details
from tollway.bolt.middleware.kinds import BaseMiddleware
from tollway.bolt.responses import Response

__all__ = ["ErrorHandlerMiddleware", "LoggingMiddleware", "TimingMiddleware"]


class TimingMiddleware(BaseMiddleware):
    """Tells in ``Server-Timing`` how long everything below took; browsers show it."""

    def around(self, request: Any) -> Generator[None, Response, Response]:
        start = perf_counter()
        response = yield
        took = (perf_counter() - start) * 1000
        return response.add_header("server-timing", f"app;dur={took:.3f}")


class LoggingMiddleware(BaseMiddleware):
    """Sends a record for each request to the logger ``tollway.bolt.requests``.

    It runs Python for each request. The access log of the server does not.
    """

    logger = logging.getLogger("tollway.bolt.requests")

    def around(self, request: Any) -> Generator[None, Response, Response]:
        start = perf_counter()
        try:
            response = yield
        except Exception as error:
            self._log(logging.ERROR, request, type(error).__name__, start)
            raise
        status = response.status_code
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else 20
        self._log(level, request, status, start)
        return response

    def _log(self, level: int, request: Any, outcome: object, start: float) -> None:
        took = (perf_counter() - start) * 1000
        self.logger.log(level, "%s %s %s %.1f ms", request.method, request.path, outcome, took)


class ErrorHandlerMiddleware(BaseMiddleware):
    """Answers what goes wrong below: override :meth:`answer` to answer in your own words.

    ``HTTPException``, ``Http404`` and the like are answers already and do not come by here.
    """

    def around(self, request: Any) -> Generator[None, Response, Response]:
        try:
            response = yield
        except Exception as error:
            found = self.answer(request, error)
            if found is None:
                raise
            return found
        return response

    def answer(self, request: Any, error: Exception) -> Response | None:
        """The answer to an exception; None raises it further up. As it stands here: 500."""
        logging.getLogger("tollway.bolt").error(
            "%s %s failed: %s", request.method, request.path, type(error).__name__, exc_info=error
        )
        status, headers, body = problem_details(500, "the server failed to answer this request")
        return Response(body, status, headers)
