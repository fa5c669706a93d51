"""``RateLimitMiddleware``: a default limit, rules by path, and the headers of every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from tollway.django import conf, rules
from tollway.django.limits import Limit
from tollway.django.passage import Passage, admit, finish
from tollway.django.steps import arun, run

GetResponse = Callable[[HttpRequest], Any]


class RateLimitMiddleware:
    """Limit every request by ``RATELIMIT_MIDDLEWARE`` and ``RATELIMIT_DEFAULT_LIMIT``.

    Put it near the top of ``MIDDLEWARE``: what it refuses costs nothing further. A key by user
    needs it after ``AuthenticationMiddleware``. It serves sync and async stacks without a thread
    hop, and lives well with :func:`rate_limit`: one set of headers, that of the tighter limit,
    also on answers made of exceptions.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)
        self._known = self._read(conf.current())

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request, or hand it on."""
        if self._async:
            return self._answer_async(request)
        passage = Passage.start(request)
        response = run(admit(request, passage, self._limits(request)))
        if response is None:
            passage.hold()
            response = self.get_response(request)
        return finish(passage, response)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        passage = Passage.start(request)
        response = await arun(admit(request, passage, self._limits(request)))
        if response is None:
            passage.hold()
            response = await self.get_response(request)
        return finish(passage, response)

    def _limits(self, request: HttpRequest) -> tuple[tuple[Limit, str], ...]:
        setup = conf.current()
        if self._known[0] is not setup:
            self._known = self._read(setup)
        return self._known[1].pick(request.method, request.path_info)

    @staticmethod
    def _read(setup: conf.Setup) -> tuple[conf.Setup, rules.Rules]:
        found, problems = rules.read(setup.settings)
        if problems:
            raise problems[0]
        return setup, found
