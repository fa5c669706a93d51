"""Functions that settings name by their dotted path."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from tollway.django.middleware import RateLimitMiddleware


def is_staff(request: HttpRequest) -> bool:
    return "X-Staff" in request.headers


def slow_down(request: HttpRequest) -> HttpResponse:
    return HttpResponse("slow down", status=429)


class OwnMiddleware(RateLimitMiddleware):
    """A project's own edition of the middleware."""
