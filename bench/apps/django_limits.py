"""One contender behind one door of Django: how much its limit adds to a request.

`python django_limits.py CONTENDER DOOR STORE`, then a line on standard input for each measurement.
Each answers with a line of JSON: microseconds that a request costs more with the limit than
without, and how often the process read from Redis meanwhile.
"""

import gc
import io
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import django
import redis
from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.urls import path

BLOCK, BLOCKS = 250, 16
CLIENTS = 2_000
RATE = "100000/h"
NOTHING = io.BytesIO()

Handle = Callable[[HttpRequest], Any]


def ours(store: str) -> dict[str, Any]:
    return {"RATELIMIT_BACKEND": store, "RATELIMIT_COMMAND_TIMEOUT": 5.0}


def cached(store: str) -> dict[str, Any]:
    """The settings of those who count in Django's cache."""
    place = "redis.RedisCache" if store.startswith("redis:") else "locmem.LocMemCache"
    cache: dict[str, Any] = {"BACKEND": f"django.core.cache.backends.{place}", "LOCATION": store}
    if not store.startswith("redis:"):
        cache["OPTIONS"] = {"MAX_ENTRIES": 100_000}  # 300 by default, culled by thirds
    return {"CACHES": {"default": cache}}


def smart(store: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "RATELIMIT_BACKEND": "memory",
        "RATELIMIT_MEMORY_MAX_KEYS": 100_000,
        "RATELIMIT_ALGORITHM": "fixed_window",
    }
    if store.startswith("redis:"):
        port = int(store.rpartition(":")[2].partition("/")[0])
        found |= {"RATELIMIT_BACKEND": "redis"}
        found |= {"RATELIMIT_REDIS": {"host": "127.0.0.1", "port": port, "db": 0}}
    return found


MIDDLEWARE = {
    "tollway": "tollway.django.middleware.RateLimitMiddleware",
    "django-smart-ratelimit": "django_smart_ratelimit.middleware.RateLimitMiddleware",
}
THROTTLES = {
    "tollway": "tollway.django.throttles.AnonRateThrottle",
    "REST framework": "rest_framework.throttling.AnonRateThrottle",
    "django-smart-ratelimit": "django_smart_ratelimit.integrations.drf.AnonRateLimitThrottle",
}
SETTINGS = {
    "tollway": ours,
    "django-ratelimit": cached,
    "REST framework": cached,
    "django-smart-ratelimit": smart,
}


def configure(contender: str, door: str, store: str) -> None:
    found = SETTINGS[contender](store)
    if door == "middleware":
        found["MIDDLEWARE"] = [MIDDLEWARE[contender]]
        found["RATELIMIT_DEFAULT_LIMIT"] = RATE
        found["RATELIMIT_MIDDLEWARE"] = {"DEFAULT_RATE": RATE} if "smart" in contender else {}
    settings.configure(
        SECRET_KEY="only for measuring",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=sys.modules[__name__],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_THROTTLE_RATES": {"anon": RATE.replace("/h", "/hour")},
        },
        **found,
    )
    django.setup()


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("pong")


urlpatterns = [path("ping/", view)]


def decorated(contender: str) -> tuple[Handle, Handle]:
    if contender == "tollway":
        from tollway.django import rate_limit

        return view, rate_limit(key="ip", rate=RATE)(view)
    if contender == "django-ratelimit":
        from django_ratelimit.decorators import ratelimit

        return view, ratelimit(key="ip", rate=RATE)(view)
    from django_smart_ratelimit import rate_limit as smart_limit

    return view, smart_limit(key="ip", rate=RATE, algorithm="token_bucket")(view)


def throttled(contender: str) -> tuple[Handle, Handle]:
    from django.utils.module_loading import import_string
    from rest_framework.response import Response
    from rest_framework.views import APIView

    class Plain(APIView):
        def get(self, request: Any) -> Response:
            return Response("pong")

    class Limited(Plain):
        throttle_classes = [import_string(THROTTLES[contender])]

    return Plain.as_view(), Limited.as_view()


def through_middleware(_contender: str) -> tuple[Handle, Handle]:
    limited = BaseHandler()
    limited.load_middleware()
    stated, settings.MIDDLEWARE = settings.MIDDLEWARE, []
    plain = BaseHandler()
    plain.load_middleware()
    settings.MIDDLEWARE = stated
    return plain.get_response, limited.get_response


DOORS = {"decorator": decorated, "throttle": throttled, "middleware": through_middleware}


def environments() -> Iterator[dict[str, Any]]:
    for number in itertools.cycle(range(CLIENTS)):
        yield {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/ping/",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": f"10.0.{number >> 8}.{number & 255}",
            "wsgi.input": NOTHING,
            "wsgi.url_scheme": "http",
        }


def block(handle: Handle, stream: Iterator[dict[str, Any]], clock: Callable[[], int]) -> int:
    """Nanoseconds for one block of requests, all of which must pass."""
    requests = [WSGIRequest(environ) for environ in itertools.islice(stream, BLOCK)]
    began = clock()
    for request in requests:
        answer = handle(request)
    spent = clock() - began
    if answer.status_code != 200:
        raise RuntimeError(f"a request was answered with {answer.status_code}")
    return spent


def main() -> None:
    contender, door, store = sys.argv[1:]
    configure(contender, door, store)
    plain, limited = DOORS[door](contender)
    remote = store.startswith("redis:")
    clock = time.perf_counter_ns if remote else time.thread_time_ns
    client = redis.Redis.from_url(store) if remote else None
    stream = environments()

    def reads() -> int:
        return 0 if client is None else int(client.info("stats")["total_reads_processed"])

    for _ in range(CLIENTS // BLOCK):  # lets everybody in
        block(plain, environments(), clock)
        block(limited, stream, clock)
    # Or a collection of all that Django keeps, which takes as long as a block, falls into one.
    gc.collect()
    gc.freeze()
    for _ in sys.stdin:
        before, spent = reads(), 0
        for _ in range(BLOCKS):
            spent -= block(plain, stream, clock)
            spent += block(limited, stream, clock)
        requests = BLOCK * BLOCKS
        own = 2 if client is not None else 0  # the questions of `reads` themselves
        told = {"us": spent / requests / 1000, "reads": (reads() - before - own) / requests}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
