"""The routes that the tests of the Django door are driven over."""

from __future__ import annotations

from collections.abc import AsyncIterator

from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from tollway.django import get_client_ip, rate_limit

CALLS: list[str] = []


@rate_limit(key="ip", rate="5/10s")
def ping(request: HttpRequest) -> HttpResponse:
    CALLS.append("ping")
    return HttpResponse(get_client_ip(request))


@rate_limit(key="ip", rate="5/10s")
async def aping(request: HttpRequest) -> HttpResponse:
    CALLS.append("aping")
    return HttpResponse(get_client_ip(request))


@rate_limit(key="ip", rate="100/d")
@rate_limit(key="ip", rate="2/10s")
def stacked(request: HttpRequest) -> HttpResponse:
    return HttpResponse("stacked")


@rate_limit(key="ip", rate="50/h")
def stream(request: HttpRequest) -> StreamingHttpResponse:
    parts = [b"a", b"b"]

    async def later() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return StreamingHttpResponse(later() if isinstance(request, ASGIRequest) else iter(parts))


@rate_limit(key="ip", rate="50/h")
def broken(request: HttpRequest) -> HttpResponse:
    CALLS.append("broken")
    raise RuntimeError("the view broke")


@rate_limit(key="ip", rate="50/h")
async def abroken(request: HttpRequest) -> HttpResponse:
    CALLS.append("abroken")
    raise RuntimeError("the view broke")


@rate_limit(key="ip", rate="50/h")
def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


@method_decorator(rate_limit(key="ip", rate="2/h"), name="dispatch")
class AsyncView(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("async class")


def plain(request: HttpRequest, item: int = 0) -> HttpResponse:
    return HttpResponse("plain")


urlpatterns = [
    path("ping/", ping),
    path("aping/", aping),
    path("stacked/", stacked),
    path("stream/", stream),
    path("broken/", broken),
    path("abroken/", abroken),
    path("missing/", missing),
    path("aclass/", AsyncView.as_view()),
    path("api/items/<int:item>/", plain),
    path("api/", plain),
    path("apiary/", plain),
    path("static/logo/", plain),
    path("", plain),
]
