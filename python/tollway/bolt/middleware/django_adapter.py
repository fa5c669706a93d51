"""Django's middleware before Bolt's handlers.

The hooks of a whole stack run one after the other, in one place, with one request and one answer
that are made once. On the event loop those hooks that never wait for anything are called there;
the others run on a thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from tollway.bolt.middleware.django_request import DjangoRequest, from_django, to_django
from tollway.bolt.middleware.kinds import Colour, Inner, Place
from tollway.bolt.responses import Response
from tollway.errors import ConfigError

__all__ = [
    "DEFAULT_EXCLUDED_MIDDLEWARE",
    "DjangoMiddleware",
    "DjangoMiddlewareStack",
    "get_django_middleware_setting",
    "load_django_middleware",
]

DEFAULT_EXCLUDED_MIDDLEWARE: Final[frozenset[str]] = frozenset()
"""What ``django_middleware=True`` leaves out: nothing, not even the check of CSRF tokens."""

Hook = Callable[..., Any]
Passage = Callable[[Any], Awaitable[Any]]

_PROMPT: Final = frozenset(
    {
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    }
)
"""Middleware whose hooks never wait: none of them asks a database, a cache or a file."""


def _always(*_: Any) -> bool:
    return True


def _session_unchanged(request: Any, *_: Any) -> bool:
    session = request.session
    return not (session.modified or settings.SESSION_SAVE_EVERY_REQUEST)


def _messages_untouched(request: Any, *_: Any) -> bool:
    storage = getattr(request, "_messages", None)
    return storage is None or not (storage.used or storage.added_new)


def _csrf_in_cookie(*_: Any) -> bool:
    return not settings.CSRF_USE_SESSIONS


_PROMPT_WHEN: Final[dict[str, Callable[..., bool]]] = {
    "django.contrib.sessions.middleware.SessionMiddleware.process_request": _always,
    "django.contrib.sessions.middleware.SessionMiddleware.process_response": _session_unchanged,
    "django.contrib.messages.middleware.MessageMiddleware.process_request": _always,
    "django.contrib.messages.middleware.MessageMiddleware.process_response": _messages_untouched,
    "django.middleware.csrf.CsrfViewMiddleware.process_request": _csrf_in_cookie,
    "django.middleware.csrf.CsrfViewMiddleware.process_view": _csrf_in_cookie,
    "django.middleware.csrf.CsrfViewMiddleware.process_response": _csrf_in_cookie,
}
"""Hooks that wait only sometimes, and when they do not."""


def get_django_middleware_setting() -> list[str]:
    """``MIDDLEWARE`` of the settings."""
    return list(settings.MIDDLEWARE or ())


def load_django_middleware(config: Any) -> list[Any]:
    """The middleware that ``django_middleware=`` means, as classes and functions."""
    return [_loaded(item) for item in _chosen(config)]


def _chosen(config: Any) -> Sequence[Any]:
    if config is None or config is False:
        return []
    if isinstance(config, list | tuple):
        return config
    if config is not True and not isinstance(config, Mapping):
        raise ConfigError(
            f"django_middleware={config!r} is not True, False, a list or a dict with include or "
            "exclude"
        )
    options = {} if config is True else dict(config)
    unknown = set(options) - {"include", "exclude"}
    if unknown:
        raise ConfigError(
            f'django_middleware: there is no {min(unknown)!r}, only "include" and "exclude"'
        )
    include, exclude = options.get("include"), options.get("exclude", ())
    wanted = get_django_middleware_setting() if include is None else list(include)
    missing = [path for path in exclude if path not in wanted]
    if missing:
        raise ConfigError(f"django_middleware: {missing[0]!r} is not there to be excluded")
    return [path for path in wanted if path not in exclude]


def _loaded(item: Any) -> Any:
    if not isinstance(item, str):
        if not callable(item):
            raise ConfigError(f"django_middleware: {item!r} is no middleware")
        return item
    try:
        return import_string(item)
    except ImportError as error:
        raise ConfigError(f"django_middleware: {item!r} cannot be imported: {error}") from None


def stack_of(config: Any, skip: frozenset[str]) -> list[DjangoMiddlewareStack]:
    """The stack that an API asks for, without what a handler skips."""
    factories = [item for item in load_django_middleware(config) if not _names(item) & skip]
    return [DjangoMiddlewareStack(factories)] if factories else []


def _names(factory: Any) -> frozenset[str]:
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    return frozenset({name, f"{factory.__module__}.{name}"})


class DjangoMiddlewareStack:
    """Several of Django's middleware as one of Bolt's, in the order of ``MIDDLEWARE``.

    ``BoltAPI(middleware=[DjangoMiddlewareStack([SessionMiddleware, AuthenticationMiddleware])])``.
    Classes, functions and dotted paths.
    """

    def __init__(self, factories: Iterable[Any]) -> None:
        self.factories = [_loaded(item) for item in factories]
        if not self.factories:
            raise ConfigError("DjangoMiddlewareStack: the list is empty")
        self.names: frozenset[str] = frozenset()
        if len(self.factories) == 1:
            self.names = _names(self.factories[0])
        self.colour: Colour = _colour(self.factories)

    def around(self, inner: Inner, place: Place) -> Inner:
        """What runs the stack before ``inner``."""
        chain = _Stack(inner, place).built(self.factories)

        async def call(request: Any) -> Response:
            http = DjangoRequest(request)
            request._django = http
            return from_django(await chain(http))

        return call


class DjangoMiddleware(DjangoMiddlewareStack):
    """One of Django's middleware as one of Bolt's. Several are cheaper as one stack."""

    def __init__(self, factory: Any) -> None:
        super().__init__([factory])


def _has_hooks_only(factory: Any) -> bool:
    return (
        isinstance(factory, type)
        and issubclass(factory, MiddlewareMixin)
        and factory.__call__ is MiddlewareMixin.__call__
    )


def _colour(factories: list[Any]) -> Colour:
    callers = [item for item in factories if not _has_hooks_only(item)]
    if any(not getattr(item, "sync_capable", True) for item in callers):
        return "async"
    if any(not getattr(item, "async_capable", False) for item in callers):
        return "sync"
    return "either"


class _Stack:
    """Builds the passage of one route through a stack."""

    def __init__(self, inner: Inner, place: Place) -> None:
        self.inner = inner
        self.place = place
        self.views: list[Hook] = []
        self.exceptions: list[Hook] = []

    def built(self, factories: list[Any]) -> Passage:
        chain: Passage = self._view
        hooked: list[Any] = []
        for factory in reversed(factories):
            try:
                if _has_hooks_only(factory):
                    instance = factory(_below)
                    hooked.insert(0, instance)
                else:
                    chain = self._hooks(hooked, chain) if hooked else self._safe(chain)
                    hooked = []
                    chain, instance = self._calling(factory, chain)
            except MiddlewareNotUsed:
                continue
            self._collect(instance)
        return self._hooks(hooked, chain) if hooked else self._safe(chain)

    def _collect(self, instance: Any) -> None:
        if hasattr(instance, "process_view"):
            self.views.insert(0, self._hook(instance, "process_view"))
        if hasattr(instance, "process_exception"):
            self.exceptions.append(self._hook(instance, "process_exception"))
            if self._raised not in self.place.raised:
                self.place.raised.append(self._raised)

    def _hook(self, instance: Any, name: str) -> Hook:
        """A hook as something to be awaited, unless it can be called."""
        method: Hook = getattr(instance, name)
        path = f"{type(instance).__module__}.{type(instance).__qualname__}"
        if self.place.sync or path in _PROMPT:
            return method
        when = _PROMPT_WHEN.get(f"{path}.{name}")
        if when is _always:
            return method
        return _Sometimes(method, self.place.called(method), when)

    def _calling(self, factory: Any, chain: Passage) -> tuple[Passage, Any]:
        """A middleware that calls what is below by itself."""
        place = self.place
        if place.sync or not getattr(factory, "async_capable", False):
            instance = factory(place.plain(chain))
            return place.called(instance), instance
        instance = factory(chain)
        return instance, instance

    def _safe(self, chain: Passage) -> Passage:
        """Exceptions become answers between two middleware, as in Django."""

        async def call(http: Any) -> Any:
            try:
                return await chain(http)
            except Exception as error:
                return self._converted(http, error)

        return call

    def _converted(self, http: Any, error: Exception) -> HttpResponseBase:
        status, headers, body = self.place.errors(http.bolt, error)
        return to_django(Response(body, status, headers), http.bolt)

    def _hooks(self, instances: list[Any], below: Passage) -> Passage:
        """The passage through middleware that have hooks only."""
        befores = [
            (depth, self._hook(instance, "process_request"))
            for depth, instance in enumerate(instances)
            if hasattr(instance, "process_request")
        ]
        afters = [
            (depth, self._hook(instance, "process_response"))
            for depth, instance in reversed(list(enumerate(instances)))
            if hasattr(instance, "process_response")
        ]
        whole = len(instances)
        converted = self._converted

        async def call(http: Any) -> Any:
            reached = whole
            depth = 0
            try:
                for depth, hook in befores:
                    answer = hook(http)
                    if answer is not None:
                        if type(hook) is _Sometimes:
                            answer = await answer
                        if answer is not None:
                            # The one that answered still sees its answer pass.
                            reached = depth + 1
                            break
                else:
                    depth = whole
                    answer = await below(http)
            except Exception as error:
                reached = depth
                answer = converted(http, error)
            for depth, hook in afters:
                if depth < reached:
                    try:
                        answer = hook(http, answer)
                        if type(hook) is _Sometimes:
                            answer = await answer
                    except Exception as error:
                        answer = converted(http, error)
            return answer

        return call

    async def _view(self, http: Any) -> Any:
        """The innermost step: hooks before the view, and the handler."""
        if self.views:
            handler = self.place.handler
            for hook in self.views:
                answer = hook(http, handler, (), {})
                if type(hook) is _Sometimes:
                    answer = await answer
                if answer is not None:
                    return answer
        return to_django(await self.inner(http.bolt), http.bolt)

    async def _raised(self, request: Any, error: Exception) -> Response | None:
        """What the hooks for exceptions answer to one, if they do."""
        for hook in self.exceptions:
            answer = hook(request._django, error)
            if type(hook) is _Sometimes:
                answer = await answer
            if answer is not None:
                return from_django(answer)
        return None


def _below(request: Any) -> Any:
    raise RuntimeError("a middleware with hooks only called what is below it")


class _Sometimes:
    """A hook that is called where it will not wait, and runs on a thread otherwise."""

    __slots__ = ("elsewhere", "method", "when")

    def __init__(
        self,
        method: Hook,
        elsewhere: Callable[..., Awaitable[Any]],
        when: Callable[..., bool] | None,
    ) -> None:
        self.method = method
        self.elsewhere = elsewhere
        self.when = when

    async def __call__(self, *values: Any) -> Any:
        if self.when is not None and self.when(*values):
            return self.method(*values)
        return await self.elsewhere(*values)
