"""Django's ``request_started`` and ``request_finished`` around Bolt's handlers."""

from __future__ import annotations

from typing import Any

from django.core.signals import request_finished, request_started

from tollway.bolt.api import BoltAPI
from tollway.bolt.middleware.django_request import DjangoRequest
from tollway.bolt.middleware.kinds import Colour, Inner, Place
from tollway.bolt.responses import Response

__all__ = ["RequestSignals"]


class RequestSignals:
    """The outermost middleware of every route where ``BOLT_EMIT_SIGNALS`` is set.

    ``sender`` is :class:`BoltAPI`; ``environ`` of ``request_started`` is what ``request.META``
    would be. On the event loop the receivers run on a thread, because they may wait.
    """

    names: frozenset[str] = frozenset()
    colour: Colour = "either"

    def around(self, inner: Inner, place: Place) -> Inner:
        """What sends both signals around ``inner``, whatever it raises."""
        started, finished = place.called(_started), place.called(_finished)

        async def call(request: Any) -> Response:
            await started(request)
            try:
                return await inner(request)
            finally:
                await finished()

        return call


def _started(request: Any) -> None:
    request_started.send(sender=BoltAPI, environ=DjangoRequest(request).META)


def _finished() -> None:
    request_finished.send(sender=BoltAPI)
