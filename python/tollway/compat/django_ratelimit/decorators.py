"""``@ratelimit`` as django-ratelimit's users write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any, Protocol, TypeVar

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from tollway.compat.django_ratelimit import core
from tollway.compat.django_ratelimit.exceptions import Ratelimited
from tollway.django.decorators import guard
from tollway.django.limits import limit
from tollway.django.passage import plain, request_in

View = TypeVar("View", bound=Callable[..., Any])

ALL = core.ALL
UNSAFE = core.UNSAFE


class _Decorator(Protocol):
    ALL: None
    UNSAFE: tuple[str, ...]

    def __call__(
        self,
        group: str | None = None,
        key: Any = None,
        rate: Any = None,
        method: str | Iterable[str] | None = ALL,
        block: bool = True,
    ) -> Callable[[View], View]: ...


def _ratelimit(
    group: str | None = None,
    key: Any = None,
    rate: Any = None,
    method: str | Iterable[str] | None = ALL,
    block: bool = True,
) -> Callable[[View], View]:
    """Limit a view, sync or async.

    ``key`` is ``ip``, ``user``, ``user_or_ip``, ``get:X``, ``post:X``, ``field:X``, ``header:X``, a
    function of group and request, or its dotted path. ``rate`` is ``"5/m"``, ``"100/5m"``, or a
    function of group and request; ``None`` is no limit, and 0 lets nobody pass. A request over the
    limit raises :class:`Ratelimited`, or with ``block=False`` sets ``request.limited``.

    Stacked decorators are one check, all or nothing.
    """
    if not key:
        raise ImproperlyConfigured('ratelimit needs a key: write key="ip" if in doubt')

    stated = replace(
        limit(
            key=core.key_of(key),
            rate=core.rate_of(rate),
            algorithm=core.algorithm(),
            block=block,
            group=group,
            method=core.methods(method),
            response_callback=_raise,
            backend=core.limiter,
        ),
        key_name="",
        rate_name=core.rate_name(rate),
        merges=True,
        grouped=True,
    )

    def decorate(view: View) -> View:
        guarded: View = guard(_annotated(view), stated)
        return guarded

    return decorate


def _annotated(view: Any) -> Any:
    """The view, with ``request.limited`` set before it runs."""

    def annotate(arguments: tuple[Any, ...]) -> None:
        request = request_in(arguments)[0]
        request.limited = getattr(request, "limited", False) or request.rate_limit_exceeded

    if iscoroutinefunction(view):

        @wraps(view)
        async def annotated_async(*arguments: Any, **named: Any) -> Any:
            annotate(arguments)
            return await view(*arguments, **named)

        return annotated_async

    @wraps(view)
    def annotated(*arguments: Any, **named: Any) -> Any:
        annotate(arguments)
        return view(*arguments, **named)

    return annotated


def _raise(request: Any) -> Any:
    plain(request).limited = request.limited = True
    raise Ratelimited(usage=request.rate_limit)


def _with_methods() -> _Decorator:
    decorator: Any = _ratelimit
    decorator.ALL, decorator.UNSAFE = ALL, UNSAFE
    named: _Decorator = decorator
    return named


ratelimit = _with_methods()
