"""``@rate_limit``: one decorator for sync and async views, methods and class-based views.

Every limit of a view is checked at the outermost decorator, together and all or nothing: one
round trip, one set of headers, and when one refuses nothing is charged on any.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction

from tollway import ConfigError
from tollway.backends import Backend
from tollway.django.admission import admit_later, admit_now
from tollway.django.identity import Key
from tollway.django.limits import STATED, Cost, Limit, Rates, limit
from tollway.django.passage import (
    Pairs,
    Passage,
    finish,
    request_in,
    settle,
)
from tollway.django.steps import arun, run

View = TypeVar("View", bound=Callable[..., Any])

_MARK = "_tollway_limit_"


def rate_limit(
    key: Key = "ip",
    rate: Rates | None = None,
    *,
    algorithm: str | None = None,
    algorithm_config: Mapping[str, Any] | None = None,
    block: bool = True,
    backend: Backend | None = None,
    skip_if: Callable[..., Any] | None = None,
    cost: Cost = 1,
    shadow: bool = False,
    adaptive: object = None,
    response_callback: Callable[..., Any] | None = None,
    allow_list: Any = None,
    deny_list: Any = None,
    group: str | None = None,
    method: str | Iterable[str] | None = None,
) -> Callable[[View], View]:
    """Limit a view: how often, and counted by what.

    ``key`` is ``"ip"``, ``"user"``, ``"header:X"``, ``"composite(post:name, ip)"``, a template such
    as ``"{user}/{route}"``, or a function of the request. ``rate`` is ``"5/10s"``,
    ``"10/s; 1000/h"``, a :class:`tollway.Rate`, or a function of the request that answers with one
    of these, or with ``None`` for no limit; without it ``RATELIMIT_DEFAULT_LIMIT`` holds.
    ``block=False`` lets the request through and sets ``request.rate_limit_exceeded``.
    ``group`` replaces the view's dotted path in the name of the count: views with the same group,
    key and rate share it. ``cost`` is what one request takes: a number, a function of the request,
    or a function of the request and the response, which is asked before the view (the response is
    ``None``) and again after it, when the difference is given back or charged. ``skip_if`` and
    ``response_callback`` are functions of the request; ``backend`` is a URL, a list of URLs, a name
    in ``RATELIMIT_BACKENDS`` or a :class:`tollway.Limiter`. ``algorithm_config`` are the options of
    a bucket: ``bucket_size``, ``refill_rate``, ``initial_tokens`` and more. ``shadow=True`` decides
    and records, and refuses nobody. ``allow_list`` and ``deny_list`` are entries such as
    ``"10.0.0.0/8"`` and ``"user:7"``, or a :class:`tollway.rules.AccessList`: the first are not
    counted, the others get 403.

    The view finds the :class:`tollway.Decision` in ``request.rate_limit``.

    Raises :class:`tollway.ConfigError` where it is written, on a bad rate, key or algorithm::

        @rate_limit(key="user_or_ip", rate="100/m")
        @rate_limit(key="ip", rate="10/s")
        async def search(request): ...
    """
    stated = limit(
        key=key,
        rate=rate,
        algorithm=algorithm,
        algorithm_config=algorithm_config,
        block=block,
        backend=backend,
        skip_if=skip_if,
        cost=cost,
        shadow=shadow,
        adaptive=adaptive,
        response_callback=response_callback,
        allow_list=allow_list,
        deny_list=deny_list,
        group=group,
        method=method,
        where=_caller(),
    )
    STATED.add(stated)

    def decorate(view: View) -> View:
        guarded: View = guard(view, stated)
        return guarded

    return decorate


def _caller() -> str:
    """Where the decorator is written, for the system checks."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


ratelimit = rate_limit
"""The same decorator under the name that users of django-ratelimit know."""


def guard(view: Any, stated: Limit) -> Any:
    """``view`` with one more limit; the mechanism of :func:`rate_limit`."""
    if isinstance(view, type):
        if not hasattr(view, "dispatch"):
            raise ConfigError(f"rate_limit on {view.__qualname__}: it has no dispatch() to limit")
        setattr(view, "dispatch", guard(view.dispatch, stated))  # noqa: B010 (mypy)
        return view
    if not callable(view):
        raise ConfigError(f"rate_limit got {view!r}, not a view: write @rate_limit() first")
    limits = (stated, *(item for item in limits_of(view) if item is not stated))
    plan = _Plan(view, limits)
    guarded = _async(view, plan) if iscoroutinefunction(view) else _sync(view, plan)
    # One attribute a limit: functools.wraps of any decorator around it carries them all outwards.
    setattr(guarded, f"{_MARK}{stated.serial}", stated)
    return guarded


def limits_of(view: Any) -> tuple[Limit, ...]:
    """The limits that decorators inside ``view`` state."""
    attributes = getattr(view, "__dict__", None)
    if not attributes:
        return ()
    return tuple(value for name, value in attributes.items() if name.startswith(_MARK))


def asks_itself(view: Any, method: str | None) -> bool:
    """Whether a view, or the method of it that will answer, states limits of its own."""
    if limits_of(view):
        return True
    owner = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if owner is None:
        return False
    name = (method or "GET").lower()
    actions: Mapping[str, str] = getattr(view, "actions", None) or {}
    handler = getattr(owner, actions.get(name, name), None)
    if handler is None and name == "head":
        handler = getattr(owner, actions.get("get", "get"), None)
    return handler is not None and bool(limits_of(handler))


class _Plan:
    """Which limits a call of one decorated view meets, and under which names."""

    def __init__(self, view: Any, limits: tuple[Limit, ...]) -> None:
        names = [item.name("") for item in limits]
        for item, name in zip(limits, names, strict=True):
            if names.count(name) > 1 and callable(item.key) and not item.merges:
                raise ConfigError(
                    f"two limits of one view are both named {name!r}: give one of them group="
                )
        self.limits = limits
        self.name = getattr(view, "__name__", type(view).__name__)
        # A method that method_decorator() hands over: a partial of the bound method.
        self.owner = getattr(view.func, "__self__", None) if isinstance(view, partial) else None
        self.view_class = getattr(view, "view_class", None)
        if self.view_class is not None:
            self.fixed = self._pairs(_path(self.view_class))
        else:
            self.fixed = self._pairs(_path(view))

    def _pairs(self, scope: str) -> Pairs:
        return tuple((item, scope) for item in self.limits)

    def pairs(self, method: str | None, owner: Any) -> Pairs:
        """The limits of a call by ``method`` on ``owner`` (``None`` for a plain function)."""
        if owner is not None:
            path = _path(type(owner))
            if self.name != "dispatch":
                return self._pairs(f"{path}.{self.name}")
            return self._pairs(path) + _inner(owner, path, method)
        if self.view_class is not None:
            return self.fixed + _inner(self.view_class, _path(self.view_class), method)
        return self.fixed


def _inner(owner: Any, path: str, method: str | None) -> Pairs:
    """The limits on the method of a class-based view that will answer.

    Not those of a REST framework view: it learns who the user is between dispatch and method, so
    a method's limits wait for that.
    """
    if hasattr(owner, "initialize_request"):
        return ()
    name = (method or "GET").lower()
    handler = getattr(owner, name, None)
    if handler is None and name == "head":
        handler = getattr(owner, "get", None)
    if handler is None:
        return ()
    return tuple((item, f"{path}.{handler.__name__}") for item in limits_of(handler))


def _path(thing: Any) -> str:
    qualified = getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{thing.__module__}.{qualified}"


def _sync(view: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    @wraps(view)
    def guarded(*arguments: Any, **named: Any) -> Any:
        request, owner = request_in(arguments)
        owner = owner or plan.owner
        if plan.name == "dispatch" and getattr(owner, "view_is_async", False):
            return _pass_async(view, plan, request, owner, arguments, named)
        passage = Passage.of(request)
        outermost = passage.enter()
        try:
            response = admit_now(request, passage, plan.pairs(request.method, owner))
            if response is None:
                response = view(*arguments, **named)
            if outermost and not passage.held:
                if passage.owed:
                    run(settle(request, passage, response))
                finish(passage, response)
            return response
        finally:
            if outermost:
                passage.leave()

    return guarded


def _async(view: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    @wraps(view)
    async def guarded(*arguments: Any, **named: Any) -> Any:
        request, owner = request_in(arguments)
        return await _pass_async(view, plan, request, owner or plan.owner, arguments, named)

    return guarded


async def _pass_async(
    view: Callable[..., Any],
    plan: _Plan,
    request: Any,
    owner: Any,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    passage = Passage.of(request)
    outermost = passage.enter()
    try:
        response = await admit_later(request, passage, plan.pairs(request.method, owner))
        if response is None:
            response = view(*arguments, **named)
            if inspect.isawaitable(response):
                response = await response
        if outermost and not passage.held:
            if passage.owed:
                await arun(settle(request, passage, response))
            finish(passage, response)
        return response
    finally:
        if outermost:
            passage.leave()
