"""What is raised when a limit refuses."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from tollway import Decision
from tollway.compat.slowapi.limits import Limit


class RateLimitExceeded(HTTPException):
    """429: ``detail`` is the limit in words, or its ``error_message``; ``limit`` is the limit."""

    def __init__(self, limit: Limit, decision: Decision | None = None) -> None:
        self.limit = limit
        self.decision = decision
        super().__init__(429, detail=limit.message())
