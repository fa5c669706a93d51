"""``RateLimitMiddleware``: a default limit, rules by path, and the headers of every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from tollway.django import conf, rules
from tollway.django.admission import admit_later, admit_now
from tollway.django.decorators import asks_itself
from tollway.django.passage import Pairs, Passage, finish, settle
from tollway.django.steps import arun, run

GetResponse = Callable[[HttpRequest], Any]


class RateLimitMiddleware:
    """Limit every request by ``RATELIMIT_MIDDLEWARE`` and ``RATELIMIT_DEFAULT_LIMIT``.

    It asks when the view is known, together with the view's own :func:`rate_limit`: one check, all
    or nothing, one set of headers, also on answers made of exceptions. What no view answers (a path
    without a route, an answer of another middleware) is counted when that answer comes by.

    It serves sync and async stacks without a thread hop. Its place in ``MIDDLEWARE`` does not
    matter to what it counts by: by then the user is known.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        self.process_view = self._before_view_async if self._async else self._before_view
        if self._async:
            markcoroutinefunction(self)
        self._known = self._read(conf.current())

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request, or hand it on."""
        if self._async:
            return self._answer_async(request)
        passage = self._begin(request)
        response = self.get_response(request)
        if passage.pending:
            response = _instead(admit_now(request, passage, ()), response)
        if passage.owed:
            run(settle(request, passage, response))
        return finish(passage, response)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        passage = self._begin(request)
        response = await self.get_response(request)
        if passage.pending:
            response = _instead(await admit_later(request, passage, ()), response)
        if passage.owed:
            await arun(settle(request, passage, response))
        return finish(passage, response)

    def _begin(self, request: HttpRequest) -> Passage:
        passage = Passage.start(request)
        passage.waiting = self._limits(request)
        settings = conf.current().settings
        passage.asks_rules = conf.current().ruling.stated and settings.enable
        passage.hold()
        return passage

    def _before_view(
        self, request: HttpRequest, view: Any, _arguments: Any, _named: Any
    ) -> HttpResponseBase | None:
        """Ask, unless the view has limits of its own: then it asks for both."""
        passage = Passage.of(request)
        if not passage.pending or asks_itself(view, request.method):
            return None
        refused = admit_now(request, passage, ())
        passage.hold()
        return refused

    async def _before_view_async(
        self, request: HttpRequest, view: Any, _arguments: Any, _named: Any
    ) -> HttpResponseBase | None:
        passage = Passage.of(request)
        if not passage.pending:
            return None
        # A sync view cannot wait for an async key of ours, so that is asked here.
        waits = not iscoroutinefunction(view) and any(one.waits for one, _ in passage.waiting)
        if asks_itself(view, request.method) and not waits:
            return None
        refused = await admit_later(request, passage, ())
        passage.hold()
        return refused

    def _limits(self, request: HttpRequest) -> Pairs:
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


def _instead(refused: HttpResponseBase | None, response: HttpResponseBase) -> HttpResponseBase:
    """The refusal in place of an answer, whose resources are closed with it."""
    if refused is None:
        return response
    closers = getattr(response, "_resource_closers", None)
    if closers:
        cast("Any", refused)._resource_closers.extend(closers)
    return refused
