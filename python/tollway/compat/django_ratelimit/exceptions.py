"""What a refused request raises."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied


class Ratelimited(PermissionDenied):
    """A request over its limit: Django answers 403, unless somebody catches it.

    ``usage`` is the :class:`tollway.Decision`, or what :func:`.core.get_usage` returned.
    """

    def __init__(self, *arguments: object, usage: Any = None) -> None:
        super().__init__(*arguments)
        self.usage = usage
