"""A view of the project's own for refused requests, and the headers of every answer."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponseBase
from django.utils.module_loading import import_string

from tollway.compat.django_ratelimit.exceptions import Ratelimited
from tollway.django.passage import Passage, finish


class RatelimitMiddleware:
    """Answer :class:`Ratelimited` by the view that ``RATELIMIT_VIEW`` names.

    The view gets the request and the exception. Answers carry ``Retry-After`` and the limits.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
        if self._async:
            return self._answer_async(request)
        passage = Passage.start(request)
        passage.hold()
        return finish(passage, self.get_response(request))

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        passage = Passage.start(request)
        passage.hold()
        return finish(passage, await self.get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> Any:
        """Hand a refused request to ``RATELIMIT_VIEW``."""
        if not isinstance(exception, Ratelimited):
            return None
        name = getattr(django_settings, "RATELIMIT_VIEW", None)
        if name is None:
            raise ImproperlyConfigured(
                "RatelimitMiddleware answers by a view: set RATELIMIT_VIEW to its dotted path"
            )
        view = import_string(name) if isinstance(name, str) else name
        if inspect.iscoroutinefunction(view):
            return async_to_sync(view)(request, exception)
        return view(request, exception)
